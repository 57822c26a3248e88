"""Proving bytes while they are hot: what is synced is journalled, what was journalled is read again, all is hashed."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from blake3 import blake3

from shared.points import reached
from workers.sources.base import Checkpoint, RemoteFile
from workers.sources.transfer.board import CHUNK_BYTES, Board, Piece
from workers.sources.transfer.journal import Partial, Proof

READ_BYTES = 1024**2
MARK_BYTES = 256 * 1024
MARK_SECONDS = 1.0
BACKLOG_BYTES = 256 * 1024**2
"""Connections wait while more than this is written and not yet synced, so that a stop is never far from the disk."""


class Scribe:
    """Turns written bytes into journalled ones: one sync for everything that came in during the last."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._changed = threading.Condition()
        self._marks: list[Proof] = []
        self._backlog = 0
        self._closing = False
        self._broken = False
        self.proven = 0
        """Bytes known to be on disk and right, never falling."""

    def mark(self, piece: Piece, *, at_once: bool = False) -> None:
        """Hand in what a piece has come to, if that is worth a line; waits while the disk is far behind."""
        fresh = piece.done - piece.marked
        due = fresh >= MARK_BYTES and time.monotonic() - piece.marked_at >= MARK_SECONDS
        if not fresh or not (due or at_once or piece.done == piece.end):
            return
        proof = Proof(piece.start, piece.done - piece.start, piece.hasher.hexdigest())
        piece.marked, piece.marked_at = piece.done, time.monotonic()
        with self._changed:
            self._marks.append(proof)
            self._backlog += fresh
            self._changed.notify_all()
            while self._backlog > BACKLOG_BYTES and not (self._closing or self._broken):
                self._changed.wait()

    def credit(self, count: int) -> None:
        """Bytes that an earlier attempt proved and that are still right."""
        with self._changed:
            self.proven += count

    def run(self) -> None:
        """Record until closed; what was handed in before that is recorded.

        Raises:
            Exhausted, Failed: from the disk.
        """
        try:
            while True:
                with self._changed:
                    while not self._marks and not self._closing:
                        self._changed.wait()
                    marks, self._marks = self._marks, []
                    backlog = self._backlog
                if not marks:
                    return
                self._partial.record(marks)
                reached("download.proven")
                with self._changed:
                    self._backlog -= backlog
                    self.proven += backlog
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
    view, wrong = memoryview(bytearray(READ_BYTES)), 0
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
        self._chunk = blake3()
        self.chunks: list[str] = []

    def feed(self, view: memoryview, *, chunk: bool = True) -> None:
        """The next bytes; `chunk=False` where the digest of their chunk is known already."""
        self._sha256.update(view)
        for hasher in (self._md5, self._git_sha1):
            if hasher is not None:
                hasher.update(view)
        if chunk:
            self._chunk.update(view)

    def end_chunk(self, digest: str | None = None) -> None:
        self.chunks.append(digest or self._chunk.hexdigest())
        self._chunk = blake3()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str | None:
        return self._md5.hexdigest() if self._md5 is not None else None

    @property
    def git_sha1(self) -> str | None:
        return self._git_sha1.hexdigest() if self._git_sha1 is not None else None


def follow(partial: Partial, board: Board, digests: Digests, stop: threading.Event) -> bool:
    """Hash chunk by chunk, right behind the connections; whether the end of the file was reached."""
    view, index = memoryview(bytearray(READ_BYTES)), 0
    while length := board.wait_chunk(index):
        known = board.digest(index)
        start = index * CHUNK_BYTES
        for position in range(start, start + length, READ_BYTES):
            if stop.is_set():
                return False
            count = partial.read(view[: start + length - position], position)
            digests.feed(view[:count], chunk=known is None)
        digests.end_chunk(known)
        index += 1
    return not stop.is_set()


def standing_digests(file: RemoteFile, path: Path, checkpoint: Checkpoint) -> Digests:
    """Hash a file that lies there already, without opening it for writing."""
    digests, view = Digests(file), memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as whole:
        position = 0
        while count := whole.readinto(view):
            checkpoint()
            digests.feed(view[:count])
            position += count
            if position % CHUNK_BYTES == 0:
                digests.end_chunk()
    if position % CHUNK_BYTES:
        digests.end_chunk()
    return digests
