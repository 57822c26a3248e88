"""Proving bytes while they are hot: what is written is journalled and synced, what was journalled is read again, and
all is hashed."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from shared.points import reached
from workers.buffers import buffer
from workers.sources.base import Checkpoint, RemoteFile
from workers.sources.transfer.blocks import BLOCK_BYTES, Block, room
from workers.sources.transfer.board import CHUNK_BYTES, Board, Piece
from workers.sources.transfer.journal import Partial, Proof

MARK_SECONDS = 1.0
BACKLOG_BYTES = 256 * 1024**2
"""Connections wait while more than this is written and not yet synced, so that a stop is never far from the disk."""


class Scribe:
    """Notes in the journal what was written, and syncs it: once for everything that came in during the last sync."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._changed = threading.Condition()
        self._backlog = 0
        self._closing = False
        self._broken = False
        self.proven = 0
        """Bytes known to be on disk and right, never falling."""

    def mark(self, piece: Piece, *, at_once: bool = False) -> None:
        """Note what a piece has come to, if that is worth a line; waits while the disk is far behind.

        Raises:
            Exhausted, Failed: from the disk.
        """
        fresh = piece.done - piece.marked
        due = time.monotonic() - piece.marked_at >= MARK_SECONDS
        if not fresh or not (due or at_once or piece.done == piece.end):
            return
        self._partial.claim(Proof(piece.start, piece.done - piece.start, piece.hasher.hexdigest()))
        piece.marked, piece.marked_at = piece.done, time.monotonic()
        with self._changed:
            self._backlog += fresh
            self._changed.notify_all()
            while self._backlog > BACKLOG_BYTES and not (self._closing or self._broken):
                self._changed.wait()

    def credit(self, count: int) -> None:
        """Bytes that an earlier attempt proved and that are still right."""
        with self._changed:
            self.proven += count

    def run(self) -> None:
        """Sync until closed; what was noted before that is synced.

        Raises:
            Exhausted, Failed: from the disk.
        """
        try:
            while True:
                with self._changed:
                    while not self._backlog and not self._closing:
                        self._changed.wait()
                    fresh = self._backlog
                if not fresh:
                    return
                self._partial.sync()
                reached("download.proven")
                with self._changed:
                    self._backlog -= fresh
                    self.proven += fresh
                    self._changed.notify_all()
        except BaseException:
            with self._changed:
                self._broken = True
                self._changed.notify_all()
            raise

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()


def recheck(
    partial: Partial, board: Board, claims: Sequence[Proof], stop: threading.Event, credit: Callable[[int], None]
) -> int:
    """Read what the journal claims; confirm what is right, give back what is not.

    Returns:
        How many journalled bytes have to be fetched again.
    """
    view, wrong = buffer(BLOCK_BYTES), 0
    for claim in claims:
        hasher = blake3()
        position, end = claim.start, claim.start + claim.length
        while position < end and not stop.is_set():
            count = partial.read(view[: end - position], position)
            if not count:
                break
            hasher.update(view[:count])
            position += count
        if stop.is_set():
            return wrong
        if hasher.hexdigest() == claim.blake3:
            credit(claim.length)
            board.confirm(claim)
        else:
            wrong += claim.length
            board.reject(claim)
    return wrong


class Digests:
    """Digests of a whole file, fed in its order.

    `sha256`, `md5` and `git_sha1` are lower-case hex; the latter two only where the source names them.
    `chunks` are BLAKE3 of every 16 MiB.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if file.md5 is not None else None
        self._git_sha1 = None
        if file.git_sha1 is not None:
            self._git_sha1 = hashlib.sha1(b"blob %d\0" % (file.size or 0), usedforsecurity=False)
        self.chunks: list[str] = []

    def feed(self, view: memoryview) -> None:
        """The next bytes."""
        self._sha256.update(view)
        for hasher in (self._md5, self._git_sha1):
            if hasher is not None:
                hasher.update(view)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str | None:
        return self._md5.hexdigest() if self._md5 is not None else None

    @property
    def git_sha1(self) -> str | None:
        return self._git_sha1.hexdigest() if self._git_sha1 is not None else None


def follow(partial: Partial, board: Board, digests: Digests) -> bool:
    """Hash what is written, right behind the connections; whether the end of the file was reached."""
    own, position = buffer(BLOCK_BYTES), 0
    while found := board.wait_bytes(position):
        if isinstance(found, Block):
            digests.feed(found.view)
            position += found.length
            board.blocks.give_back(found)
        else:
            count = partial.read(own[:found], position)
            digests.feed(own[:count])
            position += count
        if position % CHUNK_BYTES == 0:
            digests.chunks.append(_chunk_digest(partial, board, position, own))
    if position % CHUNK_BYTES:  # where the file ends may be known only after its last bytes
        digests.chunks.append(_chunk_digest(partial, board, position, own))
    return not board.stopped


def _chunk_digest(partial: Partial, board: Board, end: int, view: memoryview) -> str:
    """BLAKE3 of the chunk that ends here; one that several connections brought is read again."""
    start = (end - 1) // CHUNK_BYTES * CHUNK_BYTES
    known, hasher = board.wait_digest(start), blake3()
    while known is None and start < end and not board.stopped:
        count = partial.read(view[: end - start], start)
        hasher.update(view[:count])
        start += count
    return known or hasher.hexdigest()


def standing_digests(file: RemoteFile, path: Path, checkpoint: Checkpoint) -> Digests:
    """Hash a file that lies there already, without opening it for writing."""
    digests, view, chunk = Digests(file), buffer(BLOCK_BYTES), blake3()
    with path.open("rb", buffering=0) as whole:
        position = 0
        while count := whole.readinto(view[: room(position)]):
            checkpoint()
            digests.feed(view[:count])
            chunk.update(view[:count])
            position += count
            if position % CHUNK_BYTES == 0:
                digests.chunks.append(chunk.hexdigest())
                chunk = blake3()
    if position % CHUNK_BYTES:
        digests.chunks.append(chunk.hexdigest())
    return digests
