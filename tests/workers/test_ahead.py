"""What is next is read into the page cache, and only where that takes no place of what is used."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workers.devices import cpu
from workers.devices.base import Device
from workers.residency import ahead
from workers.residency.ahead import Ahead, bytes_to_spare

KIB, MIB, GIB = 1024, 1024**2, 1024**3
SIZE = 48 * MIB
"""Far more than a kernel reads beyond what it is asked for: up to 16 MiB, by its disk's settings."""
MEMINFO = "MemTotal: {total} kB\nMemFree: {free} kB\nActive(file): 999999999 kB\nInactive(file): {once} kB\n"


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file on a disk that the page cache has nothing of."""
    file = tmp_path / "model.gguf"
    file.write_bytes(os.urandom(SIZE))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(file) > SIZE // 2:
        pytest.skip("THIS FOLDER IS IN MEMORY ITSELF: READING AHEAD IS NOT TESTED")
    return file


def cached(file: Path) -> int:
    """Bytes of it that the page cache has."""
    libc = ctypes.CDLL(None)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE) as mapped, _address(mapped) as at:
        found = (ctypes.c_ubyte * (SIZE // mmap.PAGESIZE))()
        assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(SIZE), found) == 0
        return sum(page & 1 for page in found) * mmap.PAGESIZE


@contextmanager
def _address(mapped: mmap.mmap) -> Iterator[int]:
    view = ctypes.c_char.from_buffer(mapped)
    yield ctypes.addressof(view)
    del view


def tell(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(ahead, "bytes_to_spare", lambda: room)


def test_it_is_in_the_page_cache_afterwards(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, GIB)
    reading = Ahead()
    reading.begin([cold])
    reading.wait(60)
    assert cached(cold) == SIZE


def test_no_more_than_there_is_room_for(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE", MIB)
    tell(monkeypatch, MIB + 1)
    reading = Ahead()
    reading.begin([cold])
    reading.wait(60)
    assert MIB <= cached(cold) < SIZE


def test_it_ends_where_the_model_itself_begins_and_where_its_files_are_gone(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(monkeypatch, GIB)
    stopped = Ahead()
    stopped.end()
    stopped._stop.set()
    ahead._read([cold], GIB, stopped._stop)
    assert cached(cold) < SIZE
    reading = Ahead()
    reading.begin([cold.with_name("gone"), cold])
    reading.wait(60)
    reading.begin([])
    assert reading._stop.is_set(), "what was begun before ends"


@pytest.mark.parametrize(
    ("free", "once", "available", "room"),
    [
        (10 * GIB, 4 * GIB, 60 * GIB, 10 * GIB),  # of these 14, one in twenty of all 80 stays
        (10 * GIB, 4 * GIB, 6 * GIB, 2 * GIB),  # a container may have less
        (1 * GIB, 1 * GIB, 60 * GIB, 0),
    ],
)
def test_what_is_used_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, once: int, available: int, room: int
) -> None:
    file = tmp_path / "meminfo"
    file.write_text(MEMINFO.format(total=80 * MIB, free=free // KIB, once=once // KIB))
    monkeypatch.setattr(cpu, "read", lambda: Device("cpu", "cpu", "test", 80 * GIB, available))
    assert bytes_to_spare(file) == room
    assert bytes_to_spare(tmp_path / "none") == 0, "where the system does not tell, nothing is read"
