"""Files of the model that is next are read into the page cache while who makes room for it still has requests: the
system reads what llama-server maps, so nothing is read twice."""

import mmap
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import structlog

from workers.devices import cpu

log = structlog.get_logger()

PIECE = 64 * 1024**2
"""Bytes between two looks whether the model's own start has begun."""
POPULATE_READ = 22
"""`MADV_POPULATE_READ`, of Linux 5.14 and newer: unlike an advice it reads all of it, and copies none of it."""
LEFT = 20
"""One part in so many of the machine's memory stays as it is."""


class Ahead:
    """One thread at a time, at idle priority for the disk where its scheduler knows that."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, files: Sequence[Path]) -> None:
        """Go through these, and return at once; what was begun before ends."""
        self.end()
        if files and (room := bytes_to_spare()) > 0:
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=_read, args=(files, room, self._stop), name="read-ahead", daemon=True
            )  # fmt: skip
            self._thread.start()

    def end(self) -> None:
        """The model's own start reads from here on."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Until it is through, if it is at work."""
        if self._thread is not None:
            self._thread.join(seconds)


def bytes_to_spare(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What can be read without taking the place of anything that is used: memory that nobody has, and pages of files
    that were read once and not again; within what a container may have. 0 where the system does not tell."""
    try:
        told = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        unused = sum(int(told[name].split()[0]) * 1024 for name in ("MemFree", "Inactive(file)"))
    except (OSError, ValueError, KeyError, IndexError):
        return 0
    device = cpu.read()
    return max(0, min(unused, device.memory_free or 0) - (device.memory_total or 0) // LEFT)


def _read(files: Iterable[Path], room: int, stop: threading.Event) -> None:
    with suppress(psutil.Error, AttributeError, OSError):  # no Linux, or forbidden: at the usual priority, then
        psutil.Process(threading.get_native_id()).ionice(psutil.IOPRIO_CLASS_IDLE)
    done = 0
    with suppress(OSError, ValueError):  # an older kernel, or a file that is gone: its runner says so
        for file in files:
            with file.open("rb") as opened:
                size = file.stat().st_size
                for at in range(0, size, PIECE):
                    count = min(PIECE, size - at)
                    if stop.is_set() or done + count > room:
                        break
                    with mmap.mmap(opened.fileno(), count, mmap.MAP_SHARED, mmap.PROT_READ, offset=at) as piece:
                        piece.madvise(POPULATE_READ)
                    done += count
    log.info("read.ahead", bytes=done)
