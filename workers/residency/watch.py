"""Notices servers that died or hang, and has what served loaded again; and what nobody uses leave."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from shared.contracts import Unload
from shared.db import residency
from shared.db.jobs import switching, unloading
from shared.db.tables import Residency
from shared.errors import ModelyardError
from shared.states import Priority, ResidencyState
from workers.residency.pool import Pool
from workers.residency.recovery import RECOVERY, Recovery, Return
from workers.residency.sleepers import Sleepers
from workers.runtimes.base import Server

log = structlog.get_logger()

WATCH_SECONDS = 0.5
ASKS, ASK_WINDOW_SECONDS = 5, 600.0
"""A model that was lost so often in that time is in a crash loop."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Between two tries to load it, doubled each time; the first one is at once."""
HEAL_SECONDS = 300.0
"""After so long one in a crash loop is tried again: what ended it may be over."""


class Watch:
    """One thread beside a device worker, from `start` until the pool closes."""

    def __init__(
        self, pool: Pool, unused: Callable[[], list[Residency]], keep_spare: Callable[[], None] = lambda: None
    ) -> None:
        self._pool = pool
        self._keep_spare = keep_spare
        self._unused = unused
        self._sleepers = Sleepers(pool)
        self._asked: dict[str, deque[float]] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        patience = self._pool.services.settings.runners.hang_seconds
        while not self._pool.closing.wait(WATCH_SECONDS):
            with _noted():
                self._pool.record_ends()
            for residency_id, server in self._pool.running():
                with _noted():
                    self._look_at(residency_id, server, patience)
            with _noted():
                self._replace_lost()
            with _noted():
                self._rest()
            with _noted():
                self._sleepers.end_outdated()
            with _noted():
                self._prepare()

    def _prepare(self) -> None:
        """A runner without a model, for the next one; while a job is at work, later."""
        if not self._pool.changing.acquire(blocking=False):
            return
        try:
            self._keep_spare()
        finally:
            self._pool.changing.release()

    def _rest(self) -> None:
        """What nobody uses leaves memory, by a job: a load may want it at this moment."""
        for row in self._unused():
            self._pool.services.ledger.submit(
                Unload(model_id=row.model_id, if_unused=True), origin="idle", priority=Priority.LOW
            )

    def _look_at(self, residency_id: str, server: Server, patience: float) -> None:
        if server.alive() and server.hangs(patience):
            log.error("runner.hangs", residency_id=residency_id, seconds=patience, log=server.log_tail(5))
            server.stop(0)
        if not server.alive():
            self._pool.bury(residency_id, server)

    def _replace_lost(self) -> None:
        """What should be in memory and has no runner gets a job, unless one is on its way; asked again until it is.

        What a job has set aside comes back only where that job has not brought another one in its place.
        """
        if self._pool.changing.locked():
            return
        with self._pool.services.database.reading() as session:
            lost = residency.lost(session, self._pool.device.id)
            waiting = [row for row in lost if not switching(session, row.model_id)]
            waiting = [row for row in waiting if row.active or not unloading(session, row.model_id)]
        if not all(row.active for row in lost):
            with self._pool.services.database.session() as session:
                residency.stop_unpinned(session, self._pool.device.id)
        for row in waiting:
            asked = self._asked.setdefault(row.model_id, deque(maxlen=ASKS))
            while asked and time.monotonic() - asked[0] > ASK_WINDOW_SECONDS:
                asked.popleft()
            if row.state == ResidencyState.CRASH_LOOP and asked and time.monotonic() - asked[-1] < HEAL_SECONDS:
                continue
            self._ask_for(row, asked)

    def _ask_for(self, lost: Residency, asked: deque[float]) -> None:
        """Have a model loaded again, with a pause that grows where its server dies, or its loading fails, again."""
        moment = time.monotonic()
        if lost.state == ResidencyState.CRASH_LOOP:  # one more try, of which the rows are to know
            self._pool.mark(lost.id, state=ResidencyState.LOST)
        elif len(asked) == ASKS:
            log.error("runner.crash_loop", model_id=lost.model_id)
            self._pool.mark(lost.id, state=ResidencyState.CRASH_LOOP)
            self._pool.tell(lost, ResidencyState.CRASH_LOOP)
            return
        elif asked and moment - asked[-1] < min(FIRST_PAUSE_SECONDS * 2 ** (len(asked) - 1), LONGEST_PAUSE_SECONDS):
            return
        self._pool.tell(lost, ResidencyState.LOST)
        again = Recovery(model_id=lost.model_id) if lost.active else Return(model_id=lost.model_id)
        self._pool.services.ledger.submit(again, origin=RECOVERY, priority=Priority.CRITICAL)
        if lost.id in self._pool.set_aside:  # it made room, and nobody came
            self._pool.set_aside.discard(lost.id)
        else:
            asked.append(moment)  # not before: a database that is away is no failure of the model


@contextmanager
def _noted() -> Iterator[None]:
    """One step that fails keeps nobody from the others, and is tried again at the next look."""
    try:
        yield
    except ModelyardError as error:
        log.warning("watch.failed", code=error.code)
    except Exception:
        log.exception("watch.crashed")
