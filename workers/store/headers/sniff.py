"""What a file is by its first bytes, whatever its name says."""

import re
from enum import StrEnum
from pathlib import Path

from workers.store.headers.plain import open_plain, read_exactly
from workers.store.headers.safetensors import MAX_HEADER

SNIFFED_BYTES = 1024


class Content(StrEnum):
    SAFETENSORS = "safetensors"
    GGUF = "GGUF"
    PICKLE = "a pickle"
    """Python objects whose loading runs code; a zip with one inside (torch's own format) counts too."""
    ARCHIVE = "an archive"
    ARRAY = "a NumPy array"
    """May hold pickled objects."""
    PAGE = "a web page"
    POINTER = "a Git LFS pointer, not the file it stands for"
    EMPTY = "empty"
    OTHER = "something else"


_PICKLE = re.compile(rb"\x80[\x01-\x05]|\(\w+\n|\((?:dp|lp|c|I|S|V|l|d|t)[\w.]*\n|c[\w.]+\n[\w.]+\n")
"""Binary protocols by their opcode; text ones by a global, or a mark and what may follow it."""
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|\?xml|!--)", re.IGNORECASE)
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"Rar!")
_PICKLED = (b".pkl", b".pickle", b"data.pkl")


def sniff(path: Path) -> Content:
    """Look at the beginning of a file.

    Raises:
        Corrupt: code `invalid_format`; no plain file.
        OSError: the disk refuses.
    """
    with open_plain(path) as (file, size):
        head = read_exactly(file, min(size, SNIFFED_BYTES))
    return content_of(head)


def content_of(head: bytes) -> Content:
    """What a file is that begins with these bytes."""
    if not head:
        return Content.EMPTY
    if head.startswith(b"GGUF"):
        return Content.GGUF
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return Content.SAFETENSORS
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        return Content.PICKLE if any(name in head for name in _PICKLED) else Content.ARCHIVE
    if head.startswith(b"\x93NUMPY"):
        return Content.ARRAY
    if head.startswith(b"version https://git-lfs"):
        return Content.POINTER
    if _PICKLE.match(head):
        return Content.PICKLE
    if _PAGE.match(head):
        return Content.PAGE
    return Content.OTHER
