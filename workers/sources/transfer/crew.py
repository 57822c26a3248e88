"""One attempt at one file: connections, the hash and the journal, each on a thread, watched by the caller's."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from shared.errors import Unavailable
from shared.settings import SourceSettings
from workers.sources.base import Checkpoint, RemoteFile
from workers.sources.transfer.board import CHUNK_BYTES, Board
from workers.sources.transfer.carrier import Carrier, Patience, Terms
from workers.sources.transfer.journal import Partial, Proof
from workers.sources.transfer.proof import Digests, Scribe, follow, recheck
from workers.sources.transfer.throttle import Throttle
from workers.sources.transfer.width import Chooser
from workers.sources.wire.connection import Link
from workers.sources.wire.dial import Stopped
from workers.sources.wire.lines import Lines
from workers.sources.wire.route import Route

TICK_SECONDS = 0.05


class Crew:
    """Brings one file once; `run` may be called once. Afterwards no thread and no connection is left."""

    def __init__(
        self,
        file: RemoteFile,
        partial: Partial,
        route: Route,
        terms: Terms,
        settings: SourceSettings,
        patience: Patience,
        throttle: Throttle,
        lines: Lines | None = None,
    ) -> None:
        self._file = file
        self._partial = partial
        self._route = route
        self._settings = settings
        self._patience = patience
        self._throttle = throttle
        self._lines = lines
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._carriers: list[Carrier] = []
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._working: set[Carrier] = set()
        self._lost: list[Unavailable] = []
        self._chooser = Chooser(settings.connections)
        self.terms = terms
        self.board = Board()
        self.scribe = Scribe(partial)
        self.digests = Digests(file)
        self._hashed = False
        self.wrong = 0
        """Journalled bytes that were not on disk as they should be."""

    @property
    def unverified(self) -> bool:
        """Whether the end of the file was told by nothing but a closed connection."""
        return any(carrier.unverified for carrier in self._carriers)

    def run(self, claims: Sequence[Proof], checkpoint: Checkpoint, report: Callable[[int], None]) -> None:
        """Return when every byte is on disk, journalled and hashed.

        Args:
            claims: what the journal says is there already.
            report: told the bytes proven so far, from this thread.

        Raises:
            Restart: the file has to be started again from its first byte.
            Stop: from `checkpoint`.
            ModelyardError: see `fetch`.
        """
        size = self.terms.origin.size if self.terms.origin is not None else self._file.size
        fitting = self.board.plan(size, claims)
        try:
            self._start(self._record)
            self._start(self._hash)
            if fitting:
                self._start(lambda: self._recheck(fitting))
            self._start_carrier()
            self._watch(checkpoint, report)
        finally:
            self._halt()
        if self._failure is not None:
            raise self._failure
        report(self.scribe.proven)

    def _watch(self, checkpoint: Checkpoint, report: Callable[[int], None]) -> None:
        since, before = time.monotonic(), 0
        while self._failure is None and any(thread.is_alive() for thread in self._threads):
            self._woken.wait(TICK_SECONDS)
            self._woken.clear()
            checkpoint()
            report(self.scribe.proven)
            self._widen()
            if self._lost and not self._working and not self.board.finished:
                raise self._lost[-1]
            if self._hashed:
                self.scribe.close()
            now, received = time.monotonic(), self.board.received
            if not self.board.transferring or self._throttle.holding:  # then the server could be faster
                since, before = now, received
            elif now - since >= self._patience.window:
                if received - before < self._settings.minimum_rate * (now - since):
                    raise Unavailable(
                        "source_too_slow",
                        f"The server brought less than {self._settings.minimum_rate} bytes a second.",
                        "It will be tried again; MODELYARD_SOURCES__MINIMUM_RATE is the limit.",
                    )
                since, before = now, received

    def _widen(self) -> None:
        """Open further connections where they help, once the server has shown that it serves ranges."""
        origin = self.terms.origin
        if origin is None or origin.size is None or not self.terms.ranged or self.terms.streaming:
            return
        if self._throttle.holding:  # more connections would share the same rate
            return
        bringing = sum(carrier.brings for carrier in self._carriers if carrier in self._working)
        width = self._chooser.look(time.monotonic(), self.board.received, bringing)
        useful = min(width, -(-origin.size // CHUNK_BYTES))
        while self._failure is None and len(self._working) + len(self._lost) < useful and not self.board.finished:
            self._start_carrier()

    def _is_spare(self, carrier: Carrier) -> bool:
        """Whether there is a connection too many; the one that asks, between two pieces, is then counted no more."""
        with self._lock:
            spare = len(self._working) > self._chooser.width
            if spare:
                self._working.discard(carrier)
            return spare

    def _start_carrier(self) -> None:
        carrier = Carrier(
            file=self._file,
            partial=self._partial,
            board=self.board,
            scribe=self.scribe,
            terms=self.terms,
            link=Link(self._route, self._stop, self._lines),
            stop=self._stop,
            patience=self._patience,
            settled=self._woken.set,
            is_spare=self._is_spare,
            throttle=self._throttle,
            max_unsized=self._settings.max_unsized_bytes,
        )
        self._carriers.append(carrier)
        with self._lock:
            self._working.add(carrier)
        self._start(lambda: self._carry(carrier))

    def _carry(self, carrier: Carrier) -> None:
        """A connection that fails in passing leaves its work to the others; the last one's failure is the file's."""
        try:
            carrier.run()
        except Unavailable as passing:
            self._lost.append(passing)
        finally:
            with self._lock:
                self._working.discard(carrier)

    def _recheck(self, claims: Sequence[Proof]) -> None:
        self.wrong = recheck(self._partial, self.board, claims, self._stop, self.scribe.credit)

    def _hash(self) -> None:
        self._hashed = follow(self._partial, self.board, self.digests)

    def _record(self) -> None:
        self.scribe.run()

    def _start(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                with contextlib.suppress(Stopped):
                    work()
            except BaseException as failure:  # noqa: BLE001 - carried to the caller's thread, nothing is swallowed
                with self._lock:
                    self._failure = self._failure or failure
            finally:
                self._woken.set()

        thread = threading.Thread(target=guarded, name=f"fetch-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _halt(self) -> None:
        self._stop.set()
        self.board.stop()
        recorder, *others = self._threads
        for thread in others:
            while thread.is_alive():
                for carrier in self._carriers:
                    carrier.link.abort()  # again each round: a socket may have been opened meanwhile
                thread.join(TICK_SECONDS)
        self.scribe.close()
        recorder.join()
