"""Who brings which bytes: a file cut into chunks, chunks into pieces, pieces handed to connections."""

import threading
import time
from collections import deque
from collections.abc import Iterable

from blake3 import blake3

from workers.sources.transfer.blocks import Block, Blocks, room
from workers.sources.transfer.journal import Proof

CHUNK_BYTES = 16 * 1024**2
SPLIT_BYTES = 4 * 1024**2
SPLIT_SECONDS = 1.0
"""An idle connection takes over half of what another still has to bring, if that is at least so much and would take
so long: the other then has to reconnect, and what is on its way beyond the cut was sent for nothing."""
IDLE_SECONDS = 0.25


class Piece:
    """Bytes `start` to `end` (exclusive) of one chunk; those before `done` are written and hashed.

    Only the thread that holds the piece moves `done`; only the board moves `end`, under its lock.
    """

    __slots__ = ("began_at", "done", "end", "hasher", "marked", "marked_at", "start", "taken")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.done = start
        self.hasher = blake3()
        self.marked = start
        self.begin()

    def begin(self) -> None:
        """A connection starts on what is left of it."""
        self.taken = self.done
        self.began_at = self.marked_at = time.monotonic()

    def seconds_left(self) -> float:
        """How long its connection still needs at the pace it has had."""
        elapsed = time.monotonic() - self.began_at
        brought = self.done - self.taken
        return elapsed * (self.end - self.done) / brought if brought else elapsed


class Board:
    """What is missing, who works on what, and which chunks are whole. Safe for any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free: deque[Piece] = deque()
        self._active: set[Piece] = set()
        self._left: dict[int, int] = {}
        self._digests: dict[int, str] = {}
        self._claimed = 0
        self._stopped = False
        self.blocks = Blocks(self._changed)
        self.size: int | None = None
        self.received = 0

    def plan(self, size: int | None, claims: Iterable[Proof] = ()) -> list[Proof]:
        """Cut a file; of unknown size, only its first chunk is known to be there.

        Args:
            claims: parts that a journal says are there, sorted and disjoint.

        Returns:
            The claims that fit this file; each waits for `confirm` or `reject`.
        """
        fitting = [claim for claim in claims if _fits(claim, size)]
        with self._changed:
            self.size = size
            self._left = _lengths(CHUNK_BYTES if size is None else size)
            position = 0
            for claim in fitting:
                self._add(position, claim.start)
                position = claim.start + claim.length
                self._claimed += claim.length
            self._add(position, CHUNK_BYTES if size is None else size)
        return fitting

    def learn(self, piece: Piece, size: int) -> None:
        """The size of the file became known with the answer for its first, still empty piece."""
        with self._changed:
            self.size = size
            self._left = _lengths(size)
            piece.end = min(piece.end, size)
            self._add(piece.end, size)
            self._changed.notify_all()

    def take(self) -> Piece | None:
        """The next piece to bring; waits while others may still give one back. None: there is nothing left to do."""
        with self._changed:
            while not self._stopped and (self._active or self._claimed or self._free):
                piece = self._free.popleft() if self._free else self._split()
                if piece is not None:
                    piece.begin()
                    self._active.add(piece)
                    return piece
                self._changed.wait(IDLE_SECONDS)
            return None

    def grow(self, start: int) -> Piece:
        """A further piece of a file whose size nobody knows."""
        piece = Piece(start, start + CHUNK_BYTES)
        with self._changed:
            self._active.add(piece)
            self._left[start // CHUNK_BYTES] = CHUNK_BYTES
        return piece

    def end_at(self, piece: Piece) -> None:
        """The file turned out to end where this piece has come to."""
        with self._changed:
            index = piece.start // CHUNK_BYTES
            piece.end = self.size = piece.done
            self._left[index] = piece.done - piece.start
            if not self._left[index]:
                del self._left[index]
        self.finish(piece)

    def advance(self, piece: Piece, block: Block) -> None:
        """The next bytes of the piece are written and hashed; the block is the board's from now on."""
        with self._changed:
            if self.blocks.keep(piece.done, block):
                self._changed.notify_all()
            piece.done += block.length
            self.received += block.length

    def finish(self, piece: Piece) -> None:
        """All of the piece is written."""
        with self._changed:
            self._active.discard(piece)
            self._settle(piece.start, piece.end, piece.hasher.hexdigest())

    def give_back(self, piece: Piece) -> None:
        """Somebody else has to go on with it."""
        with self._changed:
            self._active.discard(piece)
            self._free.appendleft(piece)
            self._changed.notify_all()

    def confirm(self, claim: Proof) -> None:
        """A claimed part is on disk as its journal says."""
        with self._changed:
            self._claimed -= claim.length
            self._settle(claim.start, claim.start + claim.length, claim.blake3)

    def reject(self, claim: Proof) -> None:
        """A claimed part is not on disk; it has to be brought again."""
        with self._changed:
            self._claimed -= claim.length
            self._add(claim.start, claim.start + claim.length)
            self._changed.notify_all()

    def wait_bytes(self, position: int) -> Block | int:
        """Wait until the bytes from a position on are written, where all before it are hashed.

        Returns:
            Them, where they are still in memory, else how many can be read from the file. 0: the file ends here, or
            work was stopped.
        """
        index = position // CHUNK_BYTES
        with self._changed:
            while not self._stopped and position != self.size:
                if (block := self.blocks.take(position)) is not None:
                    return block
                if self._left.get(index) == 0:
                    return min(room(position), (self.size or position + CHUNK_BYTES) - position)
                self._changed.wait()
            return 0

    def wait_digest(self, position: int) -> str | None:
        """Wait until all of the chunk around a position is written; its BLAKE3 (hex) where one connection brought it.

        None: it has to be read again, or work was stopped.
        """
        index = position // CHUNK_BYTES
        with self._changed:
            while not self._stopped and self._left.get(index) != 0:
                self._changed.wait()
            return self._digests.get(index)

    @property
    def transferring(self) -> bool:
        """Whether a connection works on something now."""
        with self._changed:
            return bool(self._active)

    @property
    def finished(self) -> bool:
        """Whether nothing is left for any connection to do."""
        with self._changed:
            return not (self._free or self._active or self._claimed)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Wake everybody; nothing is handed out any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(self, start: int, end: int) -> None:
        while start < end:
            cut = min(end, (start // CHUNK_BYTES + 1) * CHUNK_BYTES)
            self._free.append(Piece(start, cut))
            start = cut

    def _split(self) -> Piece | None:
        large = [piece for piece in self._active if piece.end - piece.done >= SPLIT_BYTES]
        slowest = max(large, key=Piece.seconds_left, default=None)
        if slowest is None or slowest.seconds_left() < SPLIT_SECONDS:
            return None
        # a read in flight is at most 1 MiB long, so its end stays before the cut
        middle = slowest.done + (slowest.end - slowest.done) // 2
        taken = Piece(middle, slowest.end)
        slowest.end = middle
        return taken

    def _settle(self, start: int, end: int, digest: str) -> None:
        index = start // CHUNK_BYTES
        self._left[index] = self._left.get(index, 0) - (end - start)
        if start % CHUNK_BYTES == 0 and self._left[index] == 0 and (end % CHUNK_BYTES == 0 or end == self.size):
            self._digests[index] = digest
        self._changed.notify_all()


def _fits(claim: Proof, size: int | None) -> bool:
    last = claim.start + claim.length - 1
    return size is not None and last < size and claim.start // CHUNK_BYTES == last // CHUNK_BYTES


def _lengths(size: int) -> dict[int, int]:
    return {index: min(CHUNK_BYTES, size - index * CHUNK_BYTES) for index in range(_chunks(size))}


def _chunks(size: int) -> int:
    return -(-size // CHUNK_BYTES)
