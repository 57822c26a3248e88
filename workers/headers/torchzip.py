"""The directory of a zip as torch writes it, judged without inflating a byte.

At the end of the file: the directory's entries, then a record that says where they begin; for more than 4 GiB a second,
wider record and its locator lie between (zip64).
"""

import struct
from typing import BinaryIO, NamedTuple

from workers.headers.plain import Openable, invalid_format, open_plain, read_exactly

MAX_ENTRIES = 50_000
MAX_DIRECTORY = 16 * 1024**2
MAX_RATIO = 10
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_BYTES = 30
_WIDE = 0xFFFFFFFF
_MAX_COMMENT = 0xFFFF
_STORED, _DEFLATED = 0, 8


class _Entry(NamedTuple):
    name: bytes
    begin: int
    packed: int
    size: int


def check_torch_zip(file: Openable) -> None:
    """Refuse what torch would not have written: bombs, overlaps, names that leave the folder. Other files pass.

    Raises:
        Corrupt: code `invalid_format`.
        OSError: the disk refuses.
    """
    with open_plain(file) as (opened, size):
        if read_exactly(opened, 4) != b"PK\x03\x04":
            return
        entries = _entries(opened, size)
    if not any(entry.name.endswith(b"/data.pkl") for entry in entries):
        raise invalid_format("it is a zip, and not one of torch's")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.begin):
        if b".." in entry.name or entry.name.startswith((b"/", b"\\")) or b"\0" in entry.name:
            raise invalid_format("a name in it leaves the archive")
        if entry.begin < end or entry.begin + _LOCAL_BYTES + entry.packed > size:
            raise invalid_format("entries overlap, or end behind the file")
        end = entry.begin + _LOCAL_BYTES + entry.packed
        if entry.size > MAX_RATIO * max(entry.packed, 1):
            raise invalid_format(f"an entry is packed more than {MAX_RATIO} times")


def _entries(file: BinaryIO, size: int) -> list[_Entry]:
    count, length, begin = _directory(file, size)
    if count > MAX_ENTRIES or length > min(MAX_DIRECTORY, size) or begin + length > size:
        raise invalid_format("its directory is too long or in no place")
    file.seek(begin)
    raw, at, found = read_exactly(file, length), 0, []
    for _ in range(count):
        if at + _ENTRY.size > len(raw):
            raise invalid_format("its directory is cut off")
        entry = _ENTRY.unpack_from(raw, at)
        packed, whole, name_length, extra_length, note_length, offset = *entry[8:13], entry[16]
        if entry[0] != b"PK\x01\x02" or entry[4] not in (_STORED, _DEFLATED):
            raise invalid_format("its directory is damaged, or an entry packed in an unknown way")
        names = at + _ENTRY.size
        extra = raw[names + name_length : names + name_length + extra_length]
        whole, packed, offset = _widened(extra, whole, packed, offset)
        found.append(_Entry(raw[names : names + name_length], offset, packed, whole))
        at = names + name_length + extra_length + note_length
    if at != len(raw):
        raise invalid_format("its directory has more entries than it counts")
    return found


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Number of entries, length and place of the directory."""
    start = max(0, size - _END.size - _MAX_COMMENT)
    file.seek(start)
    tail = read_exactly(file, size - start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise invalid_format("it is a zip without its directory")
    count, length, begin, note = _END.unpack_from(tail, at)[4:8]
    place = start + at
    if at >= _LOCATOR.size and tail[at - _LOCATOR.size :][:4] == b"PK\x06\x07":  # it counts, whatever stands behind it
        place -= _LOCATOR.size + _END_64.size
        file.seek(max(0, place))
        wide = read_exactly(file, _END_64.size)
        if _LOCATOR.unpack_from(tail, at - _LOCATOR.size)[2] != place or wide[:4] != b"PK\x06\x06":
            raise invalid_format("it is a zip without its directory")
        count, length, begin = _END_64.unpack(wide)[7:10]
    if begin + length != place or at + _END.size + note != len(tail):
        raise invalid_format("its directory is not where every reader looks for it")
    return count, length, begin


def _widened(extra: bytes, whole: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and place of an entry, from its zip64 field where the short ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if at + 4 + length > len(extra):
            raise invalid_format("its directory is damaged")
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            values = [int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) - 7, 8)]
            narrow = [whole, packed, offset]
            for place, value in enumerate(narrow):
                if value == _WIDE and values:
                    narrow[place] = values.pop(0)
            whole, packed, offset = narrow
        at += 4 + length
    return whole, packed, offset
