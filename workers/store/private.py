"""A copy of a published file that may be written to; the published one stays as it is for whoever has it open."""

import errno
import fcntl
import os
from pathlib import Path

from workers.disk import storage
from workers.store.hashing import Checkpoint

_FICLONE = 0x40049409
"""ioctl of Linux: share the blocks of another file until one of the two is written to."""
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTSUP, errno.EPERM, errno.EIO})
STEP_BYTES = 16 * 1024**2
BLOCK_BYTES = 64 * 1024


def private_copy(source: Path, target: Path, size: int, checkpoint: Checkpoint) -> None:
    """Make `target` a file of its own with the bytes of `source`, cut or filled with zeros to `size`.

    Shares blocks where the file system can, else has the system copy, else copies by hand. Blocks that cannot be read
    stay zeros: the caller is about to find out which bytes are right. Nothing is synced.

    Raises:
        Stop: from the checkpoint.
        Exhausted, Failed: the disk refuses to be written to.
    """
    with storage(), source.open("rb", buffering=0) as whole:
        target.unlink(missing_ok=True)  # it may be another name of a published file
        into = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
        try:
            if not _cloned(whole.fileno(), into):
                end, position = min(size, os.fstat(whole.fileno()).st_size), 0
                while position < end:
                    checkpoint()
                    position += _step(whole.fileno(), into, position, min(STEP_BYTES, end - position))
            os.ftruncate(into, size)
        finally:
            os.close(into)


def _cloned(from_: int, into: int) -> bool:
    try:
        fcntl.ioctl(into, _FICLONE, from_)
    except OSError:
        return False
    return True


def _step(from_: int, into: int, position: int, length: int) -> int:
    """Copy some of the bytes from a position; how many."""
    try:
        if count := os.copy_file_range(from_, into, length, position, position):
            return count
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    length = min(length, BLOCK_BYTES)
    try:
        data = os.pread(from_, length, position)
    except OSError:  # an unreadable sector
        return length
    os.pwrite(into, data, position)
    return len(data) or length
