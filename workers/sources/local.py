"""Models in folders of the user's, told by the names of their files; what the files hold is judged elsewhere."""

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from workers.sources.beneath import Beneath, Identity, Listing, Parts, Plain

MAX_DEPTH = 16
MAX_FILES = 5_000
"""Files of one model."""
STORE_MARKER = ".modelyard-store"
"""A folder with such a file is a store of ours, whose models are known already."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:gguf|safetensors)", re.IGNORECASE)
_GGUF, _SAFETENSORS = ".gguf", ".safetensors"
_KEPT = (_GGUF, _SAFETENSORS, ".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab")
"""What a model in a folder may consist of; the rest of the folder (pickles, code, pictures) is left alone."""
_CONFIGS = frozenset({"config.json", "adapter_config.json"})
_PIPELINE = "model_index.json"
_HUB_MODEL = re.compile(r"models--(?:.+--)?(?P<name>.+)")
_HUB_OTHERS = ("datasets--", "spaces--")


@dataclass(frozen=True)
class Found:
    """What looks like a model: a folder, or a file (of several parts the first).

    The files' names are relative to the folder, or to the one that holds the file.
    `above` are the folders on the way from the root, the folder itself included.
    """

    path: str
    name: str
    files: tuple[Plain, ...]
    above: tuple[Identity, ...]


def models(beneath: Beneath, below: str = ".") -> Iterator[Found]:
    """Everything that looks like a model in a folder and below; or the one model that a file is, or is a part of.

    Args:
        below: relative to the root, `.` for the root itself.

    Raises:
        OSError: that place is not there, or the way there leads through a link.
    """
    start = PurePosixPath(below).parts
    state = beneath.look(start)
    if stat.S_ISREG(state.st_mode):
        listing = beneath.listing(start[:-1])
        singles = _singles(beneath, start[:-1], listing)
        yield from (found for found in singles if any(file.name == start[-1] for file in found.files))
        return
    with beneath.folder(start):
        waiting = [start]
    while waiting:
        parts = waiting.pop()
        try:
            listing = beneath.listing(parts)
            if (whole := _whole(beneath, parts, listing)) is not None:
                yield whole
                continue
        except OSError as error:
            beneath.skip(parts, f"it cannot be read: {os.strerror(error.errno or 0)}", lost=True)
            continue
        yield from _singles(beneath, parts, listing)
        waiting += reversed(list(_deeper(beneath, parts, listing)))


def _whole(beneath: Beneath, parts: Parts, listing: Listing) -> Found | None:
    """The folder itself, if all of it is one model."""
    names = {file.name for file in listing.files}
    configured = names & _CONFIGS and any(name.endswith(_SAFETENSORS) for name in names)
    if not configured and _PIPELINE not in names:
        return None
    files = list(itertools.islice(_files(beneath, parts, listing), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        beneath.skip(parts, f"it has more than {MAX_FILES:,} files")
        return None
    files.sort(key=lambda file: file.name)
    return Found(beneath.path(parts), _called(beneath, parts), tuple(files), listing.above)


def _files(beneath: Beneath, parts: Parts, listing: Listing) -> Iterator[Plain]:
    """The files of a model that is a folder, those in its own folders included."""
    yield from (file for file in listing.files if file.name.lower().endswith(_KEPT))
    waiting: list[Parts] = [(name,) for name in listing.folders]
    while waiting:
        sub = waiting.pop()
        if sub[-1].startswith(".") or len(parts) + len(sub) > MAX_DEPTH:
            continue
        inner = beneath.listing((*parts, *sub))
        for file in inner.files:
            if file.name.lower().endswith(_KEPT):
                yield Plain("/".join((*sub, file.name)), file.size, file.mtime_ns, file.open)
        waiting += [(*sub, name) for name in inner.folders]


def _singles(beneath: Beneath, parts: Parts, listing: Listing) -> Iterator[Found]:
    """Models that are one file, or one file in parts."""
    groups: dict[str, list[Plain]] = {}
    for file in listing.files:
        lower = file.name.lower()
        if lower.endswith(_GGUF) and "mmproj" in lower:
            beneath.skip((*parts, file.name), "it is a projector, which belongs to another model")
        elif lower.endswith((_GGUF, _SAFETENSORS)):
            split = _PART.fullmatch(file.name)
            groups.setdefault(f"{split['stem']} of {split['count']}" if split else file.name, []).append(file)
    for members in groups.values():
        split = _PART.fullmatch(members[0].name)
        name = split["stem"] if split else PurePosixPath(members[0].name).stem
        yield Found(beneath.path((*parts, members[0].name)), name, tuple(members), listing.above)


def _deeper(beneath: Beneath, parts: Parts, listing: Listing) -> Iterable[Parts]:
    """The folders to look into next."""
    folders = [name for name in listing.folders if not name.startswith((".", *_HUB_OTHERS))]
    if any(file.name == STORE_MARKER for file in listing.files):
        beneath.skip(parts, "it is a store of Modelyard")
        return ()
    if parts and _HUB_MODEL.fullmatch(parts[-1]) and "snapshots" in folders:
        folders = ["snapshots"]
    if folders and len(parts) >= MAX_DEPTH:
        beneath.skip(parts, f"what is in it lies more than {MAX_DEPTH} folders deep", lost=True)
        return ()
    return [(*parts, name) for name in folders]


def _called(beneath: Beneath, parts: Parts) -> str:
    """What people call a folder; one in the Hub's cache by its repository."""
    for part in reversed(parts[:-2]):
        if hub := _HUB_MODEL.fullmatch(part):
            return hub["name"]
    return PurePosixPath(beneath.path(parts)).name
