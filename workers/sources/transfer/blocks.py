"""Bytes that were just written stay in memory until they are hashed in order, so that few are read from disk again."""

import threading
from typing import NamedTuple

from workers.buffers import buffer

BLOCK_BYTES = 1024**2
KEPT_BLOCKS = 48
"""Kept at most; what lies farthest ahead goes first, and is read again when its turn comes."""


class Block(NamedTuple):
    """A buffer of `BLOCK_BYTES` whose first `length` bytes are the file's from some position on."""

    buffer: memoryview
    length: int

    @property
    def view(self) -> memoryview:
        return self.buffer[: self.length]


class Blocks:
    """Buffers on their way from who writes them to who hashes them, by position. Whoever calls holds the board's lock.

    A buffer never reaches over a multiple of `BLOCK_BYTES`, so that the next one begins where it ends.
    """

    def __init__(self, lock: threading.Condition) -> None:
        self._lock = lock
        self._kept: dict[int, Block] = {}
        self._idle: list[memoryview] = []
        self._hashed = 0

    def blank(self) -> memoryview:
        """A buffer to read into. Any thread, without the lock."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if len(self._kept) >= KEPT_BLOCKS:
                behind = min(self._kept)  # hashed from the file instead, together with what lies before it
                return self._kept.pop(behind if behind < self._hashed else max(self._kept)).buffer
        return buffer(BLOCK_BYTES)

    def keep(self, position: int, block: Block) -> bool:
        """These bytes are written now. Whether somebody may be waiting for them."""
        if position < self._hashed:
            self._idle.append(block.buffer)
            return False
        self._kept[position] = block
        return position == self._hashed

    def take(self, position: int) -> Block | None:
        """What was kept of the bytes from this position on; all before it is hashed."""
        self._hashed = position
        return self._kept.pop(position, None)

    def give_back(self, block: Block) -> None:
        """Its bytes are hashed. Any thread, without the lock."""
        with self._lock:
            self._idle.append(block.buffer)


def room(position: int) -> int:
    """Bytes from a position to the end of its block."""
    return BLOCK_BYTES - position % BLOCK_BYTES
