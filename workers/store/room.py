"""Room on the store's disk: asked for before the first byte, watched while bytes come."""

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Exhausted, Snooze
from workers.disk import storage
from workers.store.hashing import Checkpoint
from workers.store.layout import Layout

SPACE_SECONDS = 30.0
"""A job that waits for room looks again so often."""
LOOK_SECONDS = 1.0
BLOCK = 512
"""The unit of st_blocks, whatever the file system's."""


def require_room(layout: Layout, size: int, partials: Iterable[Path], reserve: int) -> None:
    """Make sure that a revision fits, beside what other downloads have begun and the reserve.

    Args:
        size: bytes of all its files.
        partials: where they arrive; what is there already needs no room.

    Raises:
        Exhausted: code `insufficient_space`, and nothing of it is there yet.
        Snooze: it had begun, so it waits.
    """
    have = sum(_written(path) for path in partials)
    need = max(size - have, 0) + reserve + _promised(layout, set(partials))
    free = layout.free_bytes()
    if free >= need:
        return
    if have:
        raise waits_for_room(need, free)
    raise Exhausted(
        "insufficient_space",
        f"The download needs {need:,} bytes with the reserve, and the store's disk has {free:,} free.",
        "Free some space, point MODELYARD_STORE__ROOT at a larger disk, or lower MODELYARD_STORE__RESERVE_BYTES.",
        {"needBytes": need, "freeBytes": free},
    )


def waits_for_room(need: int, free: int) -> Snooze:
    """How a job that had begun ends where the disk is full: it comes back, and fetches nothing again."""
    return Snooze(
        SPACE_SECONDS,
        f"The store's disk has {free:,} bytes free, and {need:,} are needed with the reserve.",
        "insufficient_space",
        "Free some space, or lower MODELYARD_STORE__TRASH_DAYS; it goes on by itself, and what is proven is kept.",
    )


@contextmanager
def waiting_for_room(layout: Layout, reserve: int) -> Iterator[None]:
    """Around what writes to the store: a disk that is full makes the job wait, and not fail.

    Raises:
        Snooze: there is no room now.
    """
    try:
        yield
    except Exhausted as full:
        if getattr(full.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
            raise  # too large for this file system, say: that does not pass
        raise waits_for_room(reserve, layout.free_bytes()) from full


def watching(layout: Layout, reserve: int, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint that also looks once a second whether the reserve is still there, whoever eats it.

    Raises from it:
        Snooze: it is not.
        Stop: as the other one.
    """
    due = 0.0

    def look() -> None:
        nonlocal due
        checkpoint()
        if time.monotonic() >= due:
            due = time.monotonic() + LOOK_SECONDS
            if (free := layout.free_bytes()) < reserve:
                raise waits_for_room(reserve, free)

    return look


def _written(path: Path) -> int:
    try:
        return path.stat().st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def _promised(layout: Layout, but: set[Path]) -> int:
    """Bytes that files of other downloads still lack: they have their size from the start, and blocks as they come."""
    missing = 0
    with storage():
        for folder, _, names in os.walk(layout.staging_root):
            for path in (Path(folder) / name for name in names):
                if path not in but:
                    try:
                        state = path.lstat()
                    except FileNotFoundError:
                        continue
                    missing += max(state.st_size - state.st_blocks * BLOCK, 0)
    return missing
