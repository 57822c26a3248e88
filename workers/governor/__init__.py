"""The bandwidth governor: in every worker process one, which agrees with the others over Redis."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import redis
import structlog

from shared.db import jobs, limits
from shared.db.session import Database
from shared.errors import Unavailable
from shared.states import Priority
from workers.governor.flows import Flows
from workers.governor.shares import Flow, shares
from workers.sources.transfer import Throttle

log = structlog.get_logger()

LOOK_SECONDS = 0.25
"""How soon a new limit, a new download or another priority is felt."""


@dataclass(frozen=True, eq=False)
class _Running:
    job_id: str
    source: str
    throttle: Throttle


class Governor:
    """Tells the downloads of this process how fast they may be, while any of them run.

    Without the database the limits stay as they were, and without Redis what is known of other processes.
    """

    def __init__(self, database: Database, flows: Flows) -> None:
        self._database = database
        self._flows = flows
        self._lock = threading.Lock()
        self._running: list[_Running] = []
        self._everybody: dict[str, Flow] = {}
        self._watched = False

    @contextmanager
    def flow(self, job_id: str, source: str) -> Iterator[Throttle]:
        """A download runs for the length of the block, and all its connections keep to this throttle."""
        running = _Running(job_id, source, Throttle())
        with self._lock:
            self._running.append(running)
            starts, self._watched = not self._watched, True
        if starts:
            threading.Thread(target=self._watch, name="governor", daemon=True).start()
        try:
            self._look()
            yield running.throttle
        finally:
            with self._lock:
                self._running.remove(running)
                told = self._everybody.pop(job_id, None) is not None
            if told:
                with suppress(redis.RedisError):  # then it is forgotten a little later
                    self._flows.forget(job_id)

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(LOOK_SECONDS)
            with self._lock:
                self._watched = bool(self._running)
                if not self._watched:
                    return
            try:
                self._look()
            except Exception:
                log.exception("governor.crashed")  # the next look may be a better one

    def _look(self) -> None:
        """Give every download of this process its share of what is allowed now."""
        with self._lock, suppress(Unavailable):
            with self._database.reading() as session:
                found = [limit for limit in limits.in_force(session) if limit.bytes_per_second is not None]
                priorities = jobs.priorities(session, [one.job_id for one in self._running]) if found else {}
            mine = {
                one.job_id: Flow(one.source, priorities.get(one.job_id, Priority.MEDIUM), one.throttle.demand())
                for one in self._running
            }
            self._everybody = self._exchange(mine) if found else {}
            granted = shares(found, self._everybody)
            for one in self._running:
                one.throttle.allow(granted.get(one.job_id, math.inf))

    def _exchange(self, mine: dict[str, Flow]) -> dict[str, Flow]:
        try:
            return self._flows.exchange(mine) | mine
        except redis.RedisError as error:
            log.warning("governor.alone", error=type(error).__name__)
            return self._everybody | mine
