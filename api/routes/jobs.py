"""One resource for work of every kind, and the events that tell of it."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.cursor import decode_cursor, encode_cursor
from api.deps import Front, FrontDep, read_job, run_sync
from api.events import stream
from api.forecast import seconds_left, seconds_until_start
from api.views import JobChange, JobPage, JobView, eta_seconds, view_job
from shared.db import jobs
from shared.db.tables import Job
from shared.states import ENDED, LIVE, JobState, Priority

router = APIRouter(tags=["jobs"])

LastEventId = Annotated[str | None, Header(description="Id of the last event seen, to have what came since.")]


@router.get("/jobs", summary="List jobs")
def list_jobs(
    front: FrontDep,
    status: Annotated[JobState | None, Query(description="In this state.")] = None,
    kind: Annotated[str | None, Query(max_length=64, description="Of this kind, such as model.download.")] = None,
    model_id: Annotated[str | None, Query(alias="modelId", max_length=96)] = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobPage:
    """Newest first."""
    before = tuple(decode_cursor(cursor, float, str)) if cursor else None
    with front.database.reading() as session:
        found = jobs.find(session, state=status, kind=kind, model_id=model_id, before=before, limit=limit)
    more = encode_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else None
    return JobPage(jobs=[view_job(job) for job in found], next_cursor=more)


@router.get("/jobs/{job_id}", summary="One job")
def get_job(front: FrontDep, job_id: str) -> JobView:
    """State, progress, result or error, as the ledger knows them."""
    with front.database.reading() as session:
        job = jobs.get(session, job_id)
        if job.state != JobState.QUEUED:
            return view_job(job)
        position = jobs.position(session, job)
        usual, running = jobs.usual_seconds(session, job.lane), jobs.running(session, job.lane)
    return view_job(job, position, _predicted_start(job, position, running, usual))


def _predicted_start(job: Job, position: int, running: list[Job], usual: float | None) -> float | None:
    moment = time.time()
    left = [seconds_left(moment - (one.started_at or moment), eta_seconds(one), usual) for one in running]
    seconds = seconds_until_start(position, left, usual)
    return None if seconds is None else max(moment + seconds, job.not_before)


@router.patch("/jobs/{job_id}", summary="Change a job's priority")
def change(front: FrontDep, job_id: str, body: JobChange) -> JobView:
    """A waiting job moves at once; a running one may from now on give its slot to others, or keep it."""
    return view_job(front.ledger.reprioritise(job_id, Priority[body.priority]))


@router.post("/jobs/{job_id}/cancel", summary="Cancel a job")
def cancel(front: FrontDep, job_id: str) -> JobView:
    """At once while it waits; at its next checkpoint while it runs. Twice is once."""
    return view_job(front.ledger.cancel(job_id))


@router.post("/jobs/{job_id}/pause", summary="Pause a job")
def pause(front: FrontDep, job_id: str) -> JobView:
    """What it has proven stays on disk."""
    return view_job(front.ledger.pause(job_id))


@router.post("/jobs/{job_id}/resume", summary="Resume a paused job")
def resume(front: FrontDep, job_id: str) -> JobView:
    """It goes on where it stopped."""
    return view_job(front.ledger.resume(job_id))


@router.post("/jobs/{job_id}/retry", summary="Retry a job that failed or was cancelled")
def retry(front: FrontDep, job_id: str) -> JobView:
    """The same job, queued again with fresh counters."""
    return view_job(front.ledger.retry(job_id))


def _exists(front: FrontDep, job_id: str) -> None:
    """A stream has sent its 200 before its body runs: an unknown job must be noticed here."""
    read_job(front, job_id)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow one job",
    response_class=EventSourceResponse,
    dependencies=[Depends(_exists)],
)
async def job_events(front: FrontDep, job_id: str, last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events until the job ends: a snapshot first, then each change. Reconnects miss nothing."""

    async def snapshot() -> dict[str, Any]:
        job: Job = await run_sync(read_job, front, job_id)
        return {"job": view_job(job).model_dump(mode="json", by_alias=True)}

    async for event in stream(front.hub, last_event_id, snapshot, lambda event: event.get("jobId") == job_id, _ends):
        yield event


def _ends(event: dict[str, Any]) -> bool:
    status = event.get("status") or event.get("job", {}).get("status")
    return event["type"] != "job.progress" and status in ENDED


@router.get("/events", summary="Follow everything", response_class=EventSourceResponse)
async def events(
    front: FrontDep,
    last_event_id: LastEventId = None,
    types: Annotated[
        str | None, Query(max_length=200, description="Only types that start with one of these, comma-separated.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events of jobs, models and residencies; a snapshot of live jobs first."""
    prefixes = tuple(part.strip() for part in types.split(",")) if types else ("",)

    async def snapshot() -> dict[str, Any]:
        return {"jobs": [view.model_dump(mode="json", by_alias=True) for view in await run_sync(_live, front)]}

    async for event in stream(front.hub, last_event_id, snapshot, lambda event: event["type"].startswith(prefixes)):
        yield event


def _live(front: Front) -> list[JobView]:
    with front.database.reading() as session:
        found = [job for state in LIVE for job in jobs.find(session, state=state, limit=100)]
    return [view_job(job) for job in found]
