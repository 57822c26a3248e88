"""How much of the machine reading may take: all it can get, or what nobody else wants and so many bytes a second."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

NICEST = 19


@dataclass(frozen=True)
class Pace:
    """`rate` in bytes per second over all threads of one reading, 0 for no limit; `idle`: last at the disk and CPU."""

    threads: int = 2
    rate: int = 0
    idle: bool = False

    @contextmanager
    def applied(self) -> Iterator[Callable[[int], float]]:
        """Make the calling thread, which must end afterwards, keep this pace.

        Yields:
            Told of bytes just read, it answers how many seconds to wait before the next ones.
        """
        if self.idle:
            _step_back()
        began, read, share = time.monotonic(), 0, self.rate / self.threads

        def pause(count: int) -> float:
            nonlocal read
            read += count
            return max(0.0, read / share - (time.monotonic() - began)) if share else 0.0

        yield pause


FULL_SPEED = Pace()


def forget_cached(handle: int, start: int, end: int) -> None:
    """Let go of what the page cache holds of a file, but for what somebody has mapped."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)


def _step_back() -> None:
    """Idle I/O class and lowest CPU priority for this thread alone; Linux keeps both per thread.

    What the system does not allow is left: a slow scrub beats none.
    """
    thread = threading.get_native_id()
    with contextlib.suppress(OSError, psutil.Error, ValueError):
        psutil.Process(thread).ionice(psutil.IOPRIO_CLASS_IDLE)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, NICEST)
