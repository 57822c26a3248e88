"""A bundle: models in one plain tar. Their lock comes first, and every byte that follows it is settled by it.

    models.lock                          what is in here: see `shared/lock.py`
    models/<model_id>/<name of file>     each file, in the order of the lock
    two or more blocks of zeros          to a multiple of 10240 bytes, as tar has it

Owners, times and modes are the same in every bundle, so equal models make equal bundles. A reader knows what header
must come next and takes no other: a member that is renamed, moved, doubled, linked, sparse, or of another size is not
interpreted, it is just not what must stand there. What `tar` unpacks it as is the same.
"""

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from shared.errors import Corrupt, Failed, Invalid
from shared.lock import Lock, LockedFile, LockedModel
from shared.storable import storable
from workers.buffers import buffer
from workers.disk import storage
from workers.headers.plain import open_plain, read_exactly
from workers.store.hashing import BUFFER_BYTES, Checkpoint, Digests, OnBytes
from workers.store.manifest import ManifestFile

LOCK = "models.lock"
MAX_LOCK_BYTES = 16 * 1024**2
"""Of the lock: some hundred thousand files."""
BLOCK, RECORD = 512, 10240
MODE = 0o644

Place = Callable[[LockedModel, LockedFile], Path]
"""Where a file of a model lies."""


def size_of(lock: Lock) -> int:
    """Bytes of the bundle that has this lock.

    Raises:
        Invalid: code `lock_too_large`.
    """
    return sum(_lengths(len(_text(lock)), lock))


def write(out: BinaryIO, lock: Lock, place: Place, checkpoint: Checkpoint, on_bytes: OnBytes) -> str:
    """Write the bundle, proving each file on the way. Answers the SHA-256 of the whole, lower-case hex.

    Raises:
        Corrupt: code `model_corrupt`; a file is not what the lock says.
        Stop: from the checkpoint.
        OSError: a disk refuses.
    """
    whole = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        whole.update(data)
        _write(out, memoryview(data))

    text = _text(lock)
    put(_header(LOCK, len(text)) + text + _padding(len(text)))
    for entry, file in _members(lock):
        put(_header(_name(entry, file), file.size))
        _pour(place(entry, file), entry, file, put, checkpoint, on_bytes)
        put(_padding(file.size))
    put(bytes(_lengths(len(text), lock)[1]))
    return whole.hexdigest()


class OpenBundle:
    """A bundle that is read from its beginning to its end, once.

    Args:
        file: unbuffered, at its beginning.
        size: bytes that it has.
        whole: hash every byte of it, also those that are skipped.

    Raises from every method:
        Corrupt: code `bundle_damaged`.
        Failed: code `storage_error`, its disk refuses.
    """

    def __init__(self, file: BinaryIO, size: int, *, whole: bool) -> None:
        self._file = file
        self._whole = hashlib.sha256() if whole else None
        self._buffer = buffer(BUFFER_BYTES)
        text = self._read_lock()
        self.lock_digest = hashlib.sha256(text).hexdigest()
        """SHA-256 of the lock, which says what every other byte must be."""
        self.lock = _parsed(text)
        length, self._end = _lengths(len(text), self.lock)
        if size != length + self._end:
            raise _damaged(f"it is {size:,} bytes long and must be {length + self._end:,}")

    def members(self) -> Iterator[tuple[LockedModel, LockedFile]]:
        """Every file in its order. Whoever iterates calls `prove` or `skip` once for each."""
        for entry, file in _members(self.lock):
            self._expect(_header(_name(entry, file), file.size), f"the head of {file.name!r} of {entry.model_id}")
            yield entry, file
            self._expect(_padding(file.size), f"what follows {file.name!r} of {entry.model_id}")
        self._expect(bytes(self._end), "its end")

    def prove(
        self, file: LockedFile, checkpoint: Checkpoint, on_bytes: OnBytes, out: BinaryIO | None = None
    ) -> ManifestFile:
        """Read the file that comes next, to its last byte, and compare it with the lock.

        Args:
            out: where its bytes are written, if anywhere.

        Raises:
            Stop: from the checkpoint.
            OSError: the disk refuses.
        """
        digests = Digests()
        for view in self._pieces(file.size):
            checkpoint()
            digests.feed(view)
            if out is not None:
                _write(out, view)
            on_bytes(len(view))
        found = digests.of(file.name)
        if found.sha256 != file.sha256:
            raise _damaged(f"{file.name!r} is not what its lock says")
        return found

    def skip(self, file: LockedFile, checkpoint: Checkpoint) -> None:
        """Leave out the file that comes next."""
        if self._whole is None:
            self._file.seek(file.size, 1)
            return
        for _ in self._pieces(file.size):
            checkpoint()

    def sha256(self) -> str | None:
        """Of the whole, once it was read to its end; None where nobody wanted it."""
        return self._whole.hexdigest() if self._whole is not None else None

    def _read_lock(self) -> bytes:
        with _readable():
            head = read_exactly(self._file, BLOCK)
        try:
            size = tarfile.TarInfo.frombuf(head, "utf-8", "strict").size
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _damaged("it does not begin as one") from error
        if not 0 < size <= MAX_LOCK_BYTES or head != _header(LOCK, size):
            raise _damaged(f"it does not begin with a {LOCK}")
        with _readable():
            text = read_exactly(self._file, size)
        for part in (head, text):
            self._note(part)
        self._expect(_padding(size), f"what follows {LOCK}")
        return text

    def _expect(self, wanted: bytes, what: str) -> None:
        with _readable():
            found = read_exactly(self._file, len(wanted))
        self._note(found)
        if found != wanted:
            raise _damaged(f"{what} is not what must stand there")

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            with _readable():
                count = self._file.readinto(self._buffer[:size])  # type: ignore[attr-defined] # an unbuffered file
            if not count:
                raise _damaged("it ends too early")
            self._note(self._buffer[:count])
            yield self._buffer[:count]
            size -= count

    def _note(self, data: bytes | memoryview) -> None:
        if self._whole is not None:
            self._whole.update(data)


def _pour(
    path: Path, entry: LockedModel, file: LockedFile, put: Callable[[memoryview], None], checkpoint: Checkpoint,
    on_bytes: OnBytes,
) -> None:  # fmt: skip
    """A file's bytes, exactly as many as the lock says, compared with its digest."""
    view, digest, left = buffer(BUFFER_BYTES), hashlib.sha256(), file.size
    with open_plain(path) as (opened, size):
        while left and size == file.size:
            checkpoint()
            with storage():  # not around `put`: that is another disk's
                count = opened.readinto(view[:left])  # type: ignore[attr-defined] # an unbuffered file has it
            if not count:
                break
            digest.update(view[:count])
            put(view[:count])
            left -= count
            on_bytes(count)
    if left or size != file.size or digest.hexdigest() != file.sha256:
        raise Corrupt(
            "model_corrupt", f"{file.name!r} of {entry.model_id!r} is not what was published.",
            f"Find out what else, and mend it: modelyard repair {entry.model_id}.", {"name": file.name},
        )  # fmt: skip


def _write(out: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[out.write(view) :]


def _members(lock: Lock) -> Iterator[tuple[LockedModel, LockedFile]]:
    for entry in lock.models:
        for file in entry.files:
            yield entry, file


def _name(entry: LockedModel, file: LockedFile) -> str:
    return f"models/{entry.model_id}/{file.name}"


def _header(name: str, size: int) -> bytes:
    """The blocks before a member's bytes: two more where its name is long."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, MODE
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _lengths(text: int, lock: Lock) -> tuple[int, int]:
    """Bytes of all members with their heads, and of the zeros that end it."""
    sizes = [BLOCK + text + len(_padding(text))]
    sizes += [
        len(_header(_name(entry, file), file.size)) + file.size + len(_padding(file.size))
        for entry, file in _members(lock)
    ]
    return sum(sizes), 2 * BLOCK + -(sum(sizes) + 2 * BLOCK) % RECORD


def _text(lock: Lock) -> bytes:
    text = lock.text().encode()
    if len(text) > MAX_LOCK_BYTES:
        raise Invalid("lock_too_large", "These models have too many files for one bundle.", "Make several bundles.")
    return text


def _parsed(text: bytes) -> Lock:
    try:
        return Lock.model_validate(storable(json.loads(text)))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])).encode("unicode_escape").decode()[:200]  # a stranger's words
        raise _damaged(f"its lock: {place}: {fault['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged("its lock cannot be read") from error


@contextmanager
def _readable() -> Iterator[None]:
    """What the bundle's own disk says, in our words."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        hint = "Copy it to another disk, in a folder that MODELYARD_STORE__BUNDLES names."
        raise Failed("storage_error", f"The bundle cannot be read: {reason}.", hint) from error


def _damaged(reason: str) -> Corrupt:
    return Corrupt(
        "bundle_damaged", f"This is no whole bundle: {reason}.",
        "Nothing of it was taken. Copy it again from where it was made, and compare its sha256.",
    )  # fmt: skip
