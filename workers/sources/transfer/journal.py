"""A partial file and the journal of what is there of it: bytes that were written, with their BLAKE3.

The journal's first line says which content the bytes belong to; every further line is `start length blake3`, written
after the bytes were. A killed process takes nothing of both with it. A machine that crashes may lose bytes whose line
it kept, and tear the last line; so whoever goes on reads what is claimed, and believes nothing else.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

from shared.errors import Corrupt, Unavailable
from workers.disk import storage

VERSION = 1

_LINE = re.compile(rb"^(\d{1,18}) (\d{1,18}) ([0-9a-f]{64})$")


@dataclass(frozen=True)
class Origin:
    """Which content a partial file belongs to: `identity` of what was asked for, and what the server called it.

    `size` in bytes, None where the server does not tell.
    """

    identity: str
    size: int | None
    etag: str | None = None
    modified: str | None = None


class Proof(NamedTuple):
    """`length` bytes from `start` were written and have this BLAKE3 (hex)."""

    start: int
    length: int
    blake3: str


def journal_path(partial: Path) -> Path:
    """Where the journal of a partial file is; it goes when the file is published or dropped."""
    return partial.with_name(f"{partial.name}.journal")


class Partial:
    """The open pair of file and journal. Reading and writing at an offset may be done from any thread.

    Raises from every method:
        Exhausted: code `insufficient_space`.
        Failed: code `storage_error`, the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        """Open or create both.

        Raises:
            Unavailable: code `staging_busy`, another attempt still has the file.
            Corrupt: code `staging_invalid`, something else lies at its place.
        """
        self._path = path
        self._file = self._journal = -1
        with storage():
            try:
                self._file = _open(path)
                self._journal = _open(journal_path(path), os.O_APPEND)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for handle in (self._file, self._journal):
            if handle >= 0:
                os.close(handle)
        self._file = self._journal = -1

    def load(self) -> tuple[Origin | None, list[Proof]]:
        """What the journal claims, sorted by start, without overlaps; the last claim about a start counts."""
        with storage():
            data = _read_all(self._journal)
            os.ftruncate(self._journal, data.rfind(b"\n") + 1)  # a torn line must not swallow the next one
            held = os.fstat(self._file).st_size
        first, *lines = data[: data.rfind(b"\n") + 1].split(b"\n")
        origin = _origin(first)
        claims: dict[int, Proof] = {}
        for line in lines:
            match = _LINE.match(line)
            if match is not None:
                claims[int(match[1])] = Proof(int(match[1]), int(match[2]), match[3].decode())
        proofs: list[Proof] = []
        end = 0
        for start in sorted(claims):
            proof = claims[start]
            if start >= end and proof.length and start + proof.length <= held:
                proofs.append(proof)
                end = start + proof.length
        return origin, proofs if origin is not None else []

    def reset(self) -> None:
        """Forget everything: both files are empty afterwards."""
        with storage():
            os.ftruncate(self._journal, 0)
            os.ftruncate(self._file, 0)

    def forget(self) -> None:
        """Empty the journal and keep the bytes."""
        with storage():
            os.ftruncate(self._journal, 0)

    def begin(self, origin: Origin) -> None:
        """Write the journal's first line, and give the file its size where that is known."""
        line = json.dumps({"v": VERSION, **asdict(origin)}, separators=(",", ":")) + "\n"
        with storage():
            os.write(self._journal, line.encode())
            if origin.size is not None:
                os.ftruncate(self._file, origin.size)

    def claim(self, *proofs: Proof) -> None:
        """Note that these bytes were written."""
        with storage():
            os.write(self._journal, b"".join(f"{p.start} {p.length} {p.blake3}\n".encode() for p in proofs))

    def sync(self) -> None:
        """Return when all bytes written so far are on the disk."""
        with storage():
            os.fdatasync(self._file)

    def write(self, view: memoryview, offset: int) -> None:
        with storage():
            while view:
                count = os.pwrite(self._file, view, offset)
                view, offset = view[count:], offset + count

    def read(self, view: memoryview, offset: int) -> int:
        """Fill the view from an offset; fewer bytes only at the end of the file."""
        filled = 0
        with storage():
            while filled < len(view):
                count = os.preadv(self._file, [view[filled:]], offset + filled)
                if not count:
                    break
                filled += count
        return filled

    def drop(self) -> None:
        """Delete both files."""
        with storage():
            journal_path(self._path).unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def _open(path: Path, flags: int = 0) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o640)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _planted() from error
        raise
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:  # a second name's bytes are not ours to write
            raise _planted()
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable(
                    "staging_busy", "Another attempt still holds this download.", "It will be tried again."
                ) from None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _planted() -> Corrupt:
    return Corrupt(
        "staging_invalid",
        "Something other than a file of ours lies where a download keeps its bytes.",
        "Look into the staging folder of the store and remove it.",
    )


def _read_all(handle: int) -> bytes:
    size = os.fstat(handle).st_size
    return os.pread(handle, size, 0)


def _origin(line: bytes) -> Origin | None:
    try:
        fields = json.loads(line)
        if fields.pop("v") != VERSION:
            return None
        return Origin(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
