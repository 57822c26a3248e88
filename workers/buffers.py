"""Buffers for bytes that the system copies: from sockets, from the page cache, into files."""

import mmap


def buffer(size: int) -> memoryview:
    """Zeros, from the start of a page on.

    A large `bytearray` begins a few bytes after the start of a page, and there some processors copy whole pages at a
    third of their speed.
    """
    return memoryview(mmap.mmap(-1, size))
