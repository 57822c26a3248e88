"""What a file is by its first bytes, whatever its name says."""

import pickletools
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from workers.headers.plain import Openable, open_plain, read_exactly
from workers.headers.safetensors import LENGTH_BYTES, MAX_HEADER

SNIFFED_BYTES = 1024


class Content(StrEnum):
    SAFETENSORS = "safetensors"
    GGUF = "GGUF"
    PICKLE = "a pickle"
    """Python objects whose loading runs code; a zip with one inside (torch's own format) counts too."""
    ARCHIVE = "an archive"
    ARRAY = "a NumPy array"
    """Of plain numbers; one of objects is a pickle."""
    PAGE = "a web page"
    POINTER = "a Git LFS pointer, not the file it stands for"
    EMPTY = "empty"
    OTHER = "something else"


_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|\?xml|!--)", re.IGNORECASE)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_CALLS = frozenset({"REDUCE", "OBJ", "NEWOBJ", "BUILD"})
_GLOBAL = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_NUMPY = b"\x93NUMPY"
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"Rar!")
_PICKLED = (b".pkl", b".pickle")


def sniff(path: Openable) -> Content:
    """Look at the beginning of a file.

    Raises:
        Corrupt: code `invalid_format`; no plain file.
        OSError: the disk refuses.
    """
    with open_plain(path) as (file, size):
        head = read_exactly(file, min(size, SNIFFED_BYTES))
    return content_of(head)


def content_of(head: bytes) -> Content:
    """What a file is that begins with these bytes (at least 1 KiB of them, or all)."""
    return next((content for content, fits in _TESTS if fits(head)), Content.OTHER)


def _is_archive(head: bytes) -> bool:
    return head.startswith(_ARCHIVES) or head[257:262] == b"ustar"


def _is_pickle(head: bytes) -> bool:
    hidden = _is_archive(head) and any(name in head for name in _PICKLED)
    return hidden or bool(_PICKLE.match(head)) or (head.startswith(_NUMPY) and b"|O" in head) or _is_old_pickle(head)


def _is_old_pickle(head: bytes) -> bool:
    """Protocols 0 and 1 look like text: read as a pickle would be, do they name something and call it?

    `genops` reads instructions and carries none of them out.
    """
    marked = named = called = False
    try:
        for opcode, value, _ in pickletools.genops(head):
            if opcode.name in ("GLOBAL", "INST") and not _GLOBAL.fullmatch(str(value)):
                return False
            named = named or opcode.name == "GLOBAL"
            called = called or (marked and opcode.name == "INST") or (named and opcode.name in _CALLS)
            marked = marked or opcode.name == "MARK"
    except (ValueError, IndexError, OverflowError):
        pass  # cut off after what we have of it, or no pickle after all
    return called


def _is_safetensors(head: bytes) -> bool:
    length, begin = head[:LENGTH_BYTES], head[LENGTH_BYTES : LENGTH_BYTES + 1]
    return begin == b"{" and int.from_bytes(length, "little") <= MAX_HEADER


_TESTS: tuple[tuple[Content, Callable[[bytes], Any]], ...] = (
    (Content.EMPTY, lambda head: not head),
    (Content.GGUF, lambda head: head.startswith(b"GGUF")),
    (Content.SAFETENSORS, _is_safetensors),
    (Content.PICKLE, _is_pickle),
    (Content.ARCHIVE, _is_archive),
    (Content.ARRAY, lambda head: head.startswith(_NUMPY)),
    (Content.POINTER, lambda head: head.startswith(b"version https://git-lfs")),
    (Content.PAGE, _PAGE.match),
)
