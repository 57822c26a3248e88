"""Which events are believed: anybody who reaches Redis can write one, and the ledger knows better.

Events are read in batches, and a batch costs one look at the ledger at most.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog
from starlette.concurrency import run_in_threadpool

from shared.db.tables import Job
from shared.errors import ModelyardError
from shared.states import ENDED, JobState

log = structlog.get_logger()

Event = dict[str, Any]
Order = tuple[int, int]
"""A stream id as numbers: milliseconds, and a count within them."""
Look = Callable[[list[str]], list[Job]]
"""Reads these jobs from the ledger; those it does not know are missing."""

LARGEST_BYTES = 64 * 1024
LONGEST_ID = 128
REMEMBERED = 10_000
"""Jobs whose standing is kept; a forgotten one costs a look."""
_TYPE = re.compile(r"[a-z]+(\.[a-z_]+)+")


class Told(NamedTuple):
    """One event as every client gets it, encoded once."""

    order: Order
    type: str
    job_id: str | None
    last: bool
    """Nothing comes after it: its job has ended."""
    wire: bytes

    @property
    def body(self) -> str:
        """Its JSON, without what server-sent events put around it; empty for a sign of life."""
        return self.wire.partition(b"data: ")[2].partition(b"\n")[0].decode()


def encode(kind: str, event: Event, order: Order | None) -> bytes:
    """As a server-sent event; `order` is where a client goes on when it comes back."""
    lines = [f"event: {kind}", f"data: {json.dumps(event, separators=(',', ':'))}"]
    if order is not None:
        lines.append(f"id: {order[0]}-{order[1]}")
    return ("\n".join(lines) + "\n\n").encode()


def parse_order(event_id: str) -> Order:
    """Raises: ValueError."""
    milliseconds, _, count = event_id.partition("-")
    return int(milliseconds), int(count or 0)


class _Standing:
    """What is known of a job by the ledger, and by the events believed since."""

    def __init__(self) -> None:
        self.attempt = 0
        self.ended = False
        self.over = False
        """Its end was told, so that nothing may follow."""
        self.progress = 0.0

    def learn(self, job: Job) -> None:
        ended = job.state in ENDED
        if (self.ended or self.over) and not ended:  # a retry begins from nothing
            self.over, self.progress = False, 0.0
        self.attempt, self.ended = job.attempt, ended
        if not ended:  # events from before the end may be on their way still
            self.progress = max(self.progress, job.progress or 0.0)


class Judge:
    """Believes what is well formed and does not contradict the ledger; progress never goes back."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._standings: dict[str, _Standing] = {}

    async def believe(self, batch: list[tuple[Order, bytes | None]]) -> tuple[list[Told], bool]:
        """Those of a batch that may be told, in order. False: the ledger was asked and did not answer."""
        parsed = [(order, event) for order, raw in batch if (event := _parse(raw)) is not None]
        asked = {event["jobId"] for _, event in parsed if self._needs_look(event)}
        try:
            found = await run_in_threadpool(self._look, list(asked)) if asked else []
        except ModelyardError as error:
            log.warning("events.unjudged", code=error.code, count=len(asked))
            return self._told([each for each in parsed if each[1].get("jobId") not in asked], {}), False
        jobs = {job.id: job for job in found}
        self.learn(found)
        return self._told(parsed, jobs), True

    def learn(self, jobs: list[Job]) -> None:
        """Take in what the ledger says."""
        if len(self._standings) > REMEMBERED:
            self._standings.clear()
        for job in jobs:
            self._standings.setdefault(job.id, _Standing()).learn(job)

    def progress(self, job_id: str) -> float:
        """The most that was told of the job so far."""
        standing = self._standings.get(job_id)
        return standing.progress if standing else 0.0

    def _needs_look(self, event: Event) -> bool:
        if event["type"] == "job.progress":
            standing = self._standings.get(event["jobId"])
            return standing is None or standing.over or bool(event["attempt"] > standing.attempt)
        return bool(event["type"] == "job.state")

    def _told(self, parsed: list[tuple[Order, Event]], jobs: dict[str, Job]) -> list[Told]:
        told = []
        for order, event in parsed:
            last = False
            if event["type"] == "job.progress":
                if not self._clamp(event):
                    continue
            elif event["type"] == "job.state":
                job = jobs.get(event["jobId"])
                if job is None or not _agrees(event, job):
                    log.warning("events.contradicted", job_id=event["jobId"], status=str(event["status"]))
                    continue
                last = self._standings[job.id].over = event["status"] in ENDED
            name = f"{order[0]}-{order[1]}"
            wire = encode(event["type"], {"id": name} | event | {"id": name}, order)
            told.append(Told(order, event["type"], event.get("jobId"), last, wire))
        return told

    def _clamp(self, event: Event) -> bool:
        """Keep progress from going back. False: it is of no attempt that runs."""
        standing = self._standings.get(event["jobId"])
        if standing is None or standing.over or event["attempt"] != standing.attempt:
            return False
        if event.get("progress") is not None:
            standing.progress = event["progress"] = max(standing.progress, event["progress"])
        return True


def _agrees(event: Event, job: Job) -> bool:
    """The ledger is ahead of every true event, so an older state that is no end may be told still."""
    status, attempt = event["status"], event["attempt"]
    return attempt <= job.attempt and (job.state == status if status in ENDED else status in set(JobState))


def _parse(raw: bytes | None) -> Event | None:
    """The event, with every field that we rely on of its type; None where it is none of ours."""
    if raw is None or len(raw) > LARGEST_BYTES:
        log.warning("events.malformed", length=len(raw or b""))
        return None
    try:
        event = json.loads(raw, parse_constant=_refuse)
        if _is_ours(event):
            return dict(event)
    except (ValueError, RecursionError):
        pass
    log.warning("events.malformed", length=len(raw))
    return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_ours(event: Any) -> bool:
    if not isinstance(event, dict) or not isinstance(event.get("type"), str) or not _TYPE.fullmatch(event["type"]):
        return False
    if not event["type"].startswith("job."):
        return event.get("jobId") is None
    known = (
        type(event.get("attempt")) is int and isinstance(event.get("jobId"), str) and len(event["jobId"]) <= LONGEST_ID
    )
    if event["type"] == "job.state":
        return known and isinstance(event.get("status"), str)
    progress = event.get("progress")
    return known and (progress is None or (type(progress) in (int, float) and 0 <= progress <= 1))
