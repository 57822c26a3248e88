"""Rings and tells from one thread of its own, in order: no request waits for Redis, whatever ails it.

What comes while it is busy it announces together: one note in the ledger for many tickets. What is not rung when this
process dies waits in its row, and the rescue sends it.
"""

import queue
import threading
from collections.abc import Callable

import structlog

from shared.db.tables import Job
from shared.errors import ModelyardError

log = structlog.get_logger()

AT_ONCE = 100
CLOSE_SECONDS = 10.0


class Doorbell:
    """For `Ledger`: takes jobs once their change is committed."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, job: Job) -> None:
        self._waiting.put(job)

    def start(self, announce: Callable[[list[Job]], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(announce,), name="doorbell", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Announce what still waits; seconds at most, because Redis is given one."""
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self, announce: Callable[[list[Job]], None]) -> None:
        while batch := self._batch():
            try:
                announce(batch)
            except ModelyardError as error:
                log.warning("doorbell.failed", code=error.code, reason=error.message)
            except Exception:
                log.exception("doorbell.crashed")

    def _batch(self) -> list[Job]:
        """What waits, as soon as something does; empty at the end."""
        batch: list[Job] = []
        job = self._waiting.get()
        while job is not None:
            batch.append(job)
            if len(batch) == AT_ONCE:
                return batch
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._waiting.put(None)
        return batch
