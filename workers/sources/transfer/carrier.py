"""One connection's work: take a piece, ask for it, check that the answer is what was asked for, write and hash it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from shared.errors import Corrupt, Failed, ModelyardError, Unavailable
from shared.points import reached
from workers.sources.base import RemoteFile
from workers.sources.pinned import lock_mismatch
from workers.sources.transfer.blocks import Block, room
from workers.sources.transfer.board import Board, Piece
from workers.sources.transfer.journal import Origin, Partial
from workers.sources.transfer.proof import Scribe
from workers.sources.transfer.throttle import Throttle
from workers.sources.wire import answers
from workers.sources.wire.connection import Body, Link, Trouble, truncated
from workers.sources.wire.dial import Stopped

PEEK_SECONDS = 0.25


@dataclass(frozen=True)
class Patience:
    """When a transfer is given up.

    Args:
        window: seconds over which `minimum_rate` is judged.
        tries: connections in a row that bring nothing before one gives up.
        backoff: seconds before the second of them, doubled each time.
    """

    window: float = 60.0
    tries: int = 5
    backoff: float = 0.2


class Why(Enum):
    """Why a file has to be started again from its first byte."""

    CHANGED = auto()
    RANGES = auto()
    BROKEN = auto()


class Restart(Exception):
    """What was brought so far cannot be continued. `error` is raised where a restart would not help any more."""

    def __init__(self, why: Why, error: ModelyardError) -> None:
        super().__init__(error.message)
        self.why = why
        self.error = error


class Terms:
    """What the server serves: settled by its first answer, and every later answer has to agree.

    Args:
        identity: stands for what was asked for; goes into the journal.
        origin: what an earlier attempt settled, or None.
        ranged: ask for ranges; otherwise the whole file is read from its start.
    """

    def __init__(self, file: RemoteFile, identity: str, origin: Origin | None, ranged: bool) -> None:
        self._file = file
        self._identity = identity
        self._lock = threading.Lock()
        self.origin = origin
        self.ranged = ranged
        self.streaming = False
        """One answer carries the whole file."""

    @property
    def condition(self) -> str | None:
        """The `If-Range` of the next request."""
        origin = self.origin
        return answers.condition(origin.etag, origin.modified) if origin is not None else None

    def admit(self, body: Body, asked: tuple[int, int], board: Board, piece: Piece, partial: Partial) -> None:
        """Accept an answer for the bytes `asked` (first, last), or say why not.

        Raises:
            Restart: it belongs to other content, or the server's ranges cannot be trusted.
            Corrupt: code `size_mismatch`, the file is not as long as its source says.
        """
        with self._lock:
            size = self._offered(body, asked)
            if self.origin is not None:
                self._compare(body, size)
                return
            if size is not None and self._file.size not in (None, size):
                raise size_mismatch(self._file, size)
            if differ(body.etag, self._file.etag):
                raise Restart(Why.CHANGED, changed())
            self.streaming = body.status == HTTPStatus.OK
            known = self._file.size if size is None else size
            self.origin = Origin(self._identity, known, body.etag, body.modified)
            partial.begin(self.origin)
            if board.size is None and known is not None:
                board.learn(piece, known)

    def _offered(self, body: Body, asked: tuple[int, int]) -> int | None:
        """The size of the whole file that the answer tells, None where it does not."""
        if body.status == HTTPStatus.PARTIAL_CONTENT:
            span = body.span
            if not self.ranged or span is None or span.first != asked[0] or span.last > asked[1]:
                raise _distrust("it sends other bytes than were asked for")
            if span.total is None and self._file.size is None:
                raise _distrust("it does not tell the size of the file")
            return span.total
        if body.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            size = answers.unsatisfied_size(body.response.headers)
            if size != 0 or (self.origin is not None and self.origin.size != 0):
                raise Restart(Why.CHANGED, changed()) if self.origin is not None else _distrust("it has no such bytes")
            return size
        if self.ranged and self.origin is None and asked[0] > 0:
            raise _distrust("it ignores what is asked for")
        return body.remaining

    def _compare(self, body: Body, size: int | None) -> None:
        origin = self.origin
        if origin is None:
            return
        other_date = body.etag is None and differ(body.modified, origin.modified)
        if size not in (None, origin.size) or differ(body.etag, origin.etag) or other_date:
            raise Restart(Why.CHANGED, changed())
        if body.status != HTTPStatus.PARTIAL_CONTENT:
            raise _distrust("it stopped serving ranges")


@dataclass(eq=False)
class Carrier:
    """Works on the board until there is nothing left to do, or it is one too many.

    Raises from `run`:
        Restart, Stopped: see there.
        Unavailable: this connection is of no more use; others may be.
        Forbidden, NotFound, Failed, Corrupt, Exhausted: final.
    """

    file: RemoteFile
    partial: Partial
    board: Board
    scribe: Scribe
    terms: Terms
    link: Link
    stop: threading.Event
    patience: Patience
    settled: Callable[[], None]
    """Told after an answer was accepted."""
    is_spare: Callable[["Carrier"], bool]
    """Asked between two pieces: whether this connection is one too many."""
    throttle: Throttle
    max_unsized: int
    """Bytes after which a file whose size nobody tells is given up."""
    unverified: bool = False
    brings: bool = False
    """Whether it has brought something."""

    def run(self) -> None:
        try:
            while not self.is_spare(self) and (piece := self.board.take()) is not None:
                try:
                    self._bring(piece)
                except BaseException:
                    self.scribe.mark(piece, at_once=True)
                    self.board.give_back(piece)
                    raise
        finally:
            self.link.hand_back()

    def _bring(self, piece: Piece) -> None:
        """One piece, over as many connections as it takes while each brings something."""
        failures = 0
        while True:
            before = piece.done
            try:
                self._ask(piece)
            except Trouble as trouble:
                self.link.close()
                failures = 0 if piece.done > before else failures + 1
                if failures >= self.patience.tries:
                    raise trouble.error from trouble
                if self.stop.wait(self.patience.backoff * 2 ** (failures - 1) if failures else 0):
                    raise Stopped from None
            else:
                return

    def _ask(self, piece: Piece) -> None:
        asked = (piece.done, piece.end - 1)
        body = self.link.get(asked if self.terms.ranged else None, self.terms.condition)
        self.terms.admit(body, asked, self.board, piece, self.partial)
        self.settled()
        if body.status == HTTPStatus.PARTIAL_CONTENT:
            if not self._pump(body, piece):
                raise Trouble(truncated())
        elif body.status == HTTPStatus.OK:
            try:
                self._stream(body, piece)
            except Trouble as trouble:
                raise Restart(Why.BROKEN, trouble.error) from trouble
            self.link.release(body)
            return
        self._finish(piece)
        self.link.release(body)

    def _pump(self, body: Body, piece: Piece) -> bool:
        """Read until the piece is complete; False when the body ends before it."""
        while piece.done < piece.end:
            granted = self.throttle.take(min(piece.end - piece.done, room(piece.done)), self.stop)
            blank = self.board.blocks.blank()
            count = body.fill(blank[:granted])
            if count < granted:
                self.throttle.give_back(granted - count)
            if count:  # what has come is kept, also where this is the last of it
                block = Block(blank, count)
                self.partial.write(block.view, piece.done)
                reached("download.written")
                piece.hasher.update(block.view)
                self.board.advance(piece, block)
                self.brings = True
                self.scribe.mark(piece)
            if self.stop.is_set():
                raise Stopped
            if not count:
                return False
        return True

    def _stream(self, body: Body, piece: Piece) -> None:
        """Read a whole file from its first byte, piece after piece out of one answer."""
        while self._pump(body, piece):
            self._finish(piece)
            if self.board.size is None and piece.end >= self.max_unsized:
                raise _endless(self.max_unsized)
            following = self.board.grow(piece.end) if self.board.size is None else self.board.take()
            if following is None:
                self._refuse_more(body)
                return
            piece = following
        if self.board.size is not None or body.remaining:
            raise Trouble(truncated())
        self.unverified = not body.self_delimiting
        self.scribe.mark(piece, at_once=True)
        self.board.end_at(piece)

    def _refuse_more(self, body: Body) -> None:
        """A body of unknown length may not go on after the file's size; a server that just hangs is forgiven."""
        if body.remaining is not None or self.stop.is_set():
            return
        self.link.patience(PEEK_SECONDS)
        try:
            extra = body.fill(memoryview(bytearray(1)))
        except Trouble:
            return
        if extra:
            raise size_mismatch(self.file, "more")

    def _finish(self, piece: Piece) -> None:
        self.scribe.mark(piece)
        self.board.finish(piece)


def size_mismatch(file: RemoteFile, got: int | str) -> Corrupt:
    """The server's file is not as long as its source, or a lock, says."""
    if file.locked is not None:
        return lock_mismatch(file.name, "size", file.size, got)
    return Corrupt(
        "size_mismatch",
        f"{file.name} should have {file.size} bytes; the server offers {got}.",
        "The address may lead to a page instead of the file, or the source is wrong. Check it in a browser.",
        {"want": file.size, "got": got},
    )


def _endless(most: int) -> Failed:
    return Failed(
        "source_too_large",
        f"The server sent {most:,} bytes without telling how many there are, and did not end.",
        "Use an address that tells its size; MODELYARD_SOURCES__MAX_UNSIZED_BYTES is the limit.",
    )


def differ(one: str | None, other: str | None) -> bool:
    """Whether two validators contradict each other; a missing one contradicts nothing."""
    return one is not None and other is not None and one != other


def changed() -> Unavailable:
    """The content behind an address was replaced while it was fetched."""
    return Unavailable(
        "source_changed",
        "The file changed at its source while it was fetched.",
        "It will be tried again from its start.",
    )


def _distrust(reason: str) -> Restart:
    return Restart(Why.RANGES, answers.protocol_error(reason))
