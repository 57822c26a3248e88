"""Reading files into memory as fast as they come: from the page cache where they are in it, else past it.

What is read past the page cache takes no second place in memory, and comes several times as fast from a busy machine's
disk as by the system's own readahead.
"""

import ctypes
import errno
import mmap
import os
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from shared.errors import Corrupt

BLOCK_BYTES = 4 * 1024**2
THREADS = min(16, max(4, os.cpu_count() or 4))
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Span(NamedTuple):
    """Bytes that lie beside each other in a file and in memory."""

    handle: int
    at: int
    """Where they begin in the file."""
    begin: int
    """And in memory."""
    size: int


def read(spans: Iterable[Span], into: torch.Tensor) -> None:
    """Fill `into`, bytes in host memory.

    Raises:
        Corrupt: code `invalid_format`; a file is shorter than it was.
        OSError: the disk refuses.
    """
    spans = list(spans)
    files = {handle: _File(handle) for handle in {span.handle for span in spans}}
    blocks: queue.SimpleQueue[Span] = queue.SimpleQueue()
    for span in spans:
        for block in _blocks(span):
            blocks.put(block)
    try:
        with ThreadPoolExecutor(min(THREADS, max(1, blocks.qsize()))) as pool:
            list(pool.map(lambda _: _work(files, blocks, into), range(THREADS)))
    finally:
        for file in files.values():
            file.close()


def _blocks(span: Span) -> Iterator[Span]:
    """Parts of a span that end where a block of the file does."""
    done = 0
    while done < span.size:
        size = min(BLOCK_BYTES - (span.at + done) % BLOCK_BYTES, span.size - done)
        yield Span(span.handle, span.at + done, span.begin + done, size)
        done += size


def _work(files: "dict[int, _File]", blocks: "queue.SimpleQueue[Span]", into: torch.Tensor) -> None:
    beside = torch.frombuffer(mmap.mmap(-1, BLOCK_BYTES), dtype=torch.uint8)
    with suppress(queue.Empty):
        while True:
            block = blocks.get_nowait()
            files[block.handle].read(block, into[block.begin : block.begin + block.size], beside)


class _File:
    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._size = os.fstat(handle).st_size
        self._cached = _cached_pages(handle, self._size)
        try:
            self._direct: int | None = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECT)
        except OSError:  # a file system without it
            self._direct = None

    def read(self, block: Span, into: torch.Tensor, beside: torch.Tensor) -> None:
        """Raises: Corrupt, OSError."""
        if self._direct is not None and not self._is_cached(block):
            try:
                self._past_the_cache(self._direct, block, into, beside)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return
        _read_exactly(self._handle, block.at, into)

    def close(self) -> None:
        if self._direct is not None:
            os.close(self._direct)

    def _is_cached(self, block: Span) -> bool:
        pages = self._cached[block.at // PAGE : (block.at + block.size - 1) // PAGE + 1]
        return 2 * pages.count(0) <= len(pages)

    def _past_the_cache(self, direct: int, block: Span, into: torch.Tensor, beside: torch.Tensor) -> None:
        """Such reads are of whole pages into whole pages, so the bytes have to be moved then."""
        start = block.at // PAGE * PAGE
        end = min(block.at + block.size, self._size)
        _read_exactly(direct, start, beside[: -(-(end - start) // PAGE) * PAGE], end - start)
        # a plain copy, beside others: torch would divide each among threads of its own, who wait for each other
        ctypes.memmove(into.data_ptr(), beside.data_ptr() + block.at - start, block.size)


def _read_exactly(handle: int, at: int, into: torch.Tensor, least: int | None = None) -> None:
    """Raises: Corrupt: the file ends before that."""
    view, done = _view(into), 0
    while done < (len(view) if least is None else least):
        count = os.preadv(handle, [view[done:]], at + done)
        if count == 0:
            raise Corrupt(
                "invalid_format", "A file of the model has become shorter while it was read.", "Repair the model.",
            )  # fmt: skip
        done += count


def _view(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.numpy()
    return memoryview(array)


def _cached_pages(handle: int, size: int) -> bytes:
    """A byte for each page of a file; 0 where it would have to come from the disk."""
    pages = -(-size // PAGE)
    everywhere = b"\1" * pages
    if size == 0:
        return everywhere
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return everywhere
    found = (ctypes.c_ubyte * pages)()
    failed = _libc.mincore(address, size, found)
    _libc.munmap(address, size)
    return everywhere if failed else bytes(found)
