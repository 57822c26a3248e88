"""Reading files into memory as fast as they come: from the page cache where they are in it, else past it.

What is read past the page cache takes no second place in memory, and comes several times as fast from a busy machine's
disk as by the system's own readahead.
"""

import ctypes
import errno
import mmap
import os
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import Any

import torch

from shared.errors import Corrupt

BLOCK_BYTES = 8 * 1024**2
THREADS = min(16, max(2, os.cpu_count() or 2))
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def read(files: Sequence[tuple[int, torch.Tensor]]) -> None:
    """Fill the memory of each file, given with its handle: bytes from the start of a page on, in whole pages.

    Raises:
        Corrupt: code `invalid_format`; a file is shorter than it was.
        OSError: the disk refuses.
    """
    with ExitStack() as stack:
        blocks: queue.SimpleQueue[tuple[_File, int]] = queue.SimpleQueue()
        for handle, memory in files:
            file = stack.enter_context(closing(_File(handle, memory)))
            for at in range(0, file.size, BLOCK_BYTES):
                blocks.put((file, at))
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: _work(blocks), range(min(THREADS, blocks.qsize()))))


def _work(blocks: "queue.SimpleQueue[tuple[_File, int]]") -> None:
    with suppress(queue.Empty):
        while True:
            file, at = blocks.get_nowait()
            file.read(at)


class _File:
    def __init__(self, handle: int, memory: torch.Tensor) -> None:
        self.size = os.fstat(handle).st_size
        self._handle = handle
        self._memory = _view(memory)
        self._mapped = _mapped(handle, self.size)
        try:
            self._direct: int | None = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECT)
        except OSError:  # a file system without it
            self._direct = None

    def read(self, at: int) -> None:
        """One block. Raises: Corrupt, OSError."""
        end = min(at + BLOCK_BYTES, self.size)
        if self._direct is not None and not self._is_cached(at, end):
            try:
                # such a read is of whole pages, also of the last one
                _read_exactly(self._direct, at, self._memory[at : -(-end // PAGE) * PAGE], end - at)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it is asked for what this disk does not do
                    raise
            else:
                return
        _read_exactly(self._handle, at, self._memory[at:end], end - at)

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)
        if self._mapped is not None:
            _libc.munmap(self._mapped, self.size)

    def _is_cached(self, at: int, end: int) -> bool:
        """Is most of it in the page cache? Where nobody tells, it is taken to be."""
        found = (ctypes.c_ubyte * -(-(end - at) // PAGE))()
        if self._mapped is None or _libc.mincore(self._mapped + at, end - at, found):
            return True
        return 2 * bytes(found).count(0) <= len(found)


def _read_exactly(handle: int, at: int, into: memoryview, least: int) -> None:
    """Raises: Corrupt: the file ends before that."""
    done = 0
    while done < least:
        count = os.preadv(handle, [into[done:]], at + done)
        if count == 0:
            raise Corrupt(
                "invalid_format", "A file of the model has become shorter while it was read.", "Repair the model.",
            )  # fmt: skip
        done += count


def _view(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.numpy()
    return memoryview(array)


def _mapped(handle: int, size: int) -> int | None:
    """An address by which the system tells which pages of a file it has; nothing is read from there."""
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0) if size else None
    return None if address in (None, ctypes.c_void_p(-1).value) else int(address)
