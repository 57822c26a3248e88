"""What routes work with: made once per process, handed to each route by type."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.events import EventHub
from api.gateway import Gateway
from api.views import Accepted, view_job
from shared.contracts import Contract
from shared.db import catalog, jobs
from shared.db.session import Database
from shared.db.tables import Job
from shared.jobs import Ledger, Submitted
from shared.progress import Workers
from shared.settings import Settings
from shared.states import ENDED, Priority

POLL_SECONDS = 0.1


@dataclass
class Front:
    """The API's side of the house."""

    settings: Settings
    database: Database
    ledger: Ledger
    workers: Workers
    hub: EventHub
    gateway: Gateway


def front(request: Request) -> Front:
    found: Front = request.app.state.front
    return found


FrontDep = Annotated[Front, Depends(front)]
Wait = Annotated[
    float, Query(ge=0, le=600, description="Wait up to so many seconds for the job's end before answering.")
]


def submit(front: Front, contract: Contract, priority: Priority | None = None) -> Submitted:
    """Every write of ours: a job for a model that exists.

    Raises:
        NotFound: no such model.
    """
    with front.database.reading() as session:
        catalog.get_model(session, contract.model_id)
    return front.ledger.submit(contract, origin="rest", priority=priority)


async def accepted(front: Front, response: Response, submitted: Submitted, wait: float = 0) -> Accepted:
    """202 with the job, 200 where the ask joined a live one or the job has ended within `wait` seconds."""
    job = await _ended(front, submitted.job, wait) if wait else submitted.job
    response.status_code = 202 if submitted.created and job.state not in ENDED else 200
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return Accepted.of(view_job(job))


async def _ended(front: Front, job: Job, seconds: float) -> Job:
    deadline = time.monotonic() + seconds
    while job.state not in ENDED and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        job = await run_in_threadpool(read_job, front, job.id)
    return job


def read_job(front: Front, job_id: str) -> Job:
    """Raises: NotFound."""
    with front.database.reading() as session:
        return jobs.get(session, job_id)


async def run_sync(function: Any, *args: Any) -> Any:
    """Ledger and database are sync; the few async routes call them from here."""
    return await run_in_threadpool(function, *args)
