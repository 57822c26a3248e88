"""One resource for work of every kind."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.bodies import JobChange
from api.cursor import Cursor, decode_cursor, encode_cursor
from api.deps import FrontDep
from api.views import JobPage, JobView, view_job
from api.waiting import place
from shared.db import jobs
from shared.states import JobState, Priority

router = APIRouter(tags=["jobs"])


@router.get("/jobs", summary="List jobs")
def list_jobs(
    front: FrontDep,
    status: Annotated[JobState | None, Query(description="In this state.")] = None,
    kind: Annotated[str | None, Query(max_length=64, description="Of this kind, such as model.download.")] = None,
    model_id: Annotated[str | None, Query(alias="modelId", max_length=96)] = None,
    cursor: Cursor = None,
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
    return view_job(job, *place(front.database, job))


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
