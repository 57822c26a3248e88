"""Counts jobs as they end, by looking at the ledger for those that ended since the last look.

So no job pays for being counted, whichever process it ran in. A job that failed and was retried ended twice.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from api.metrics.counters import UNKNOWN_KIND, Counters
from shared.contracts import KINDS, Cleanup
from shared.db import devices, metrics
from shared.db.metrics import Ended
from shared.db.session import Database
from shared.states import ENDED, JobState

OVERLAP_SECONDS = 30.0
"""What ended before another one may be committed after it; no statement of ours takes half so long."""
PAGE = 2000
PAGES = 10
"""Of each state at one look; the next one goes on there."""
REMEMBERED = 10_000
"""Jobs that failed or were cancelled: their attempts go on counting when somebody has them retried."""


Place = tuple[float, str]
"""The moment and the id of the last job that was read."""


class Tally:
    """Not for several threads at a time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._begun = 0.0
        self._place: dict[JobState, Place] = {}
        self._seen: dict[JobState, dict[str, float]] = {state: {} for state in ENDED}
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def begin(self, database: Database) -> None:
        """What ends from now on is counted."""
        with database.reading() as session:
            self._begun = devices.clock(session)
        self._place = dict.fromkeys(ENDED, (self._begun, ""))

    def catch_up(self, database: Database) -> None:
        """Count what ended since.

        Raises:
            Unavailable: the database does not answer; nothing is lost by that.
        """
        for state in ENDED:
            seen = self._seen[state]
            for _ in range(PAGES):
                with database.reading() as session:
                    page = metrics.ended(session, state, self._place[state], PAGE)
                for job in page:
                    if seen.get(job.id) != job.finished_at:
                        seen[job.id] = job.finished_at
                        self._count(state, job)
                if len(page) < PAGE:
                    newest = max(seen.values(), default=self._begun)
                    again = max(self._begun, newest - OVERLAP_SECONDS)
                    self._place[state] = (again, "")
                    self._seen[state] = {each: at for each, at in seen.items() if at >= again}
                    break
                self._place[state] = (page[-1].finished_at, page[-1].id)

    def _count(self, state: JobState, job: Ended) -> None:
        counters, kind = self._counters, job.kind if job.kind in KINDS else UNKNOWN_KIND
        counters.ended.labels(kind, state.value).inc()
        before = self._attempts.pop(job.id, 0)
        counters.attempts.labels(kind).inc(max(0, job.attempt - before))
        if state in (JobState.FAILED, JobState.CANCELLED):
            self._attempts[job.id] = job.attempt
            if len(self._attempts) > REMEMBERED:
                self._attempts.popitem(last=False)
        counters.retries.labels(kind).inc(job.retries)
        counters.lost.labels(kind).inc(job.lost)
        counters.bytes.labels(kind).inc(job.bytes_done or 0)
        if state == JobState.SUCCEEDED:
            if job.started_at is not None:
                counters.work.labels(kind).observe(max(0.0, job.finished_at - job.started_at))
            self._count_result(kind, job.result or {})

    def _count_result(self, kind: str, result: Mapping[str, Any]) -> None:
        counters = self._counters
        if (seconds := result.get("loadSeconds")) is not None:
            counters.loads.labels(result.get("runtime", "")).observe(seconds)
        counters.shared.inc(result.get("sharedBytes") or 0)
        counters.refetched.inc(result.get("refetchedBytes") or 0)
        if kind == Cleanup.kind and not result.get("dryRun"):
            counters.freed.inc(result.get("frees") or 0)
