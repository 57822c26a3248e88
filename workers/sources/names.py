"""Names of files as sources give them: checked once, here, before any of them becomes a path."""

import re
import unicodedata
from collections.abc import Iterable

from shared.errors import Invalid

MAX_PART = 239
MAX_NAME = 1024

_DRIVE = re.compile(r"^[A-Za-z]:")
_ESCAPED = re.compile(r"%(?:2e|2f|5c|00|c0)", re.IGNORECASE)
_DEVICE = re.compile(r"^(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe_name(name: str) -> str:
    """The name itself, `/`-separated, if it stays inside a folder on every file system.

    Raises:
        Invalid: code `source_invalid_filename`, details `{"name": …}`.
    """
    reason = _fault(name)
    if reason is None:
        # a look-alike (fullwidth dots and slashes) is read as the plain one by file systems that normalise
        reason = _fault(unicodedata.normalize("NFKC", name))
    if reason is not None:
        raise _invalid(name, reason)
    return name


def check_names(names: Iterable[str]) -> None:
    """Refuse a list in which one name is bad, or two would meet on a file system that folds case or accents.

    Raises:
        Invalid: code `source_invalid_filename`, naming the first bad file.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", safe_name(name)).casefold()
        if key in files:
            raise _invalid(name, f"it cannot be told from {files[key]!r}")
        files[key] = name
        parts = key.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), name)
    for key in files.keys() & folders.keys():
        raise _invalid(files[key], f"it is also the folder of {folders[key]!r}")


def _fault(name: str) -> str | None:
    if not name or len(name) > MAX_NAME:
        return f"it is empty or longer than {MAX_NAME} characters"
    if any(unicodedata.category(char) in _HIDDEN_CATEGORIES for char in name):
        return "it has control or invisible characters"
    if "\\" in name or _DRIVE.match(name) or name.startswith(("/", "~")):
        return "it is not relative to the model's folder"
    if "`" in name or "$(" in name or _ESCAPED.search(name):
        return "it has a sequence that other programs take for something else"
    return next(filter(None, map(_part_fault, name.split("/"))), None)


def _part_fault(part: str) -> str | None:
    if part in ("", ".", ".."):
        return "it leaves the model's folder"
    if len(part.encode()) > MAX_PART:
        return f"one part is longer than {MAX_PART} bytes"
    if part.startswith(("-", " ")) or part.endswith((".", " ")) or _DEVICE.match(part):
        return "one part cannot be a file's name on every system"
    return None


def _invalid(name: str, reason: str) -> Invalid:
    shown = name.encode("unicode_escape").decode()[:200]
    return Invalid(
        "source_invalid_filename",
        f"The source names a file {shown!r}, which is refused: {reason}.",
        "Nothing was written. Ask the publisher to rename the file, or choose another revision.",
        {"name": shown},
    )
