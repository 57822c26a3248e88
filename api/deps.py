"""What routes work with: made once per process, handed to each route by type."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import redis
from fastapi import Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.backlog import Backlog
from api.doorbell import Doorbell
from api.events.hub import EventHub
from api.gateway import Gateway
from api.keyring import Keyring, Tries
from api.metrics.page import Page
from api.summary import Summaries
from api.types import Types
from api.usage import Meter
from api.views import Accepted, Part, view_job
from shared.contract import Contract
from shared.db import catalog, jobs, names
from shared.db.session import Database
from shared.db.tables import Job
from shared.jobs import Ask, Ledger, Submitted
from shared.points import reached
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
    doorbell: Doorbell
    redis: "redis.Redis"
    workers: Workers
    hub: EventHub
    gateway: Gateway
    meter: Meter
    types: Types
    metrics: Page
    summaries: Summaries
    backlog: Backlog
    keyring: Keyring
    refused: Tries
    """Of requests whose role was too low: as many a minute are in the audit log."""
    profile: Part | None = None
    """What became of the profile that was to be applied at start; None: none was."""


async def front(request: Request) -> Front:  # async, as all that only looks: FastAPI gives others a thread each
    found: Front = request.app.state.front
    return found


FrontDep = Annotated[Front, Depends(front)]


def by_any_name(request: Request, front: FrontDep) -> None:
    """A path may name a model by an alias or a mode; routes see its id. What is deleted has to be named by its id.

    Runs before the path is read: FastAPI solves dependencies first.
    """
    name = request.path_params.get("model_id")
    if name is None or request.method == "DELETE":
        return
    with front.database.reading() as session:
        if (model_id := names.meant(session, name)) is not None and not catalog.exists(session, name):
            request.path_params["model_id"] = model_id


NAMED = Depends(by_any_name)
Wait = Annotated[
    float, Query(ge=0, le=600, description="Wait up to so many seconds for the job's end before answering.")
]


Check = Callable[[Front, str], None]


class Asking:
    """How a caller asks for long work: how long it waits for the end, and under which key of its own."""

    def __init__(self, front: Front, response: Response, wait: float, key: str | None, *, by_name: bool) -> None:
        """Args:
        by_name: an alias or a mode does for the id of a model.
        """
        self._front = front
        self._by_name = by_name
        self._response = response
        self._wait = wait
        self._key = key

    async def accept(
        self,
        kind: type[Contract],
        model_id: str | None,
        check: Check | None = None,
        *,
        priority: Priority | None = None,
        registered: bool = True,
        **args: Any,
    ) -> Accepted:
        """202 with the job; 200 where the ask joined a live one, or the job has ended within the wait.

        Args:
            model_id: None for work on no model in particular.
            check: refuses what the job would refuse anyway, before there is a job.
            registered: the model must be in the registry.

        Raises:
            NotFound: no such model.
            Conflict: `idempotency_key_reused`.
            TooMany: `too_many_jobs`.
        """
        submitted = await run_in_threadpool(self._submit, kind, model_id, check, priority, args, registered)
        reached("api.answer")
        job = await _ended(self._front, submitted.job, self._wait) if self._wait else submitted.job
        self._response.status_code = 202 if submitted.created and not (self._wait and job.state in ENDED) else 200
        self._response.headers["Location"] = f"/api/v1/jobs/{job.id}"
        return Accepted.of(view_job(job))

    def _submit(
        self,
        kind: type[Contract],
        model_id: str | None,
        check: Check | None,
        priority: Priority | None,
        args: dict[str, Any],
        registered: bool,
    ) -> Submitted:
        ask = Ask.of(self._key, kind.kind, model_id, args, priority) if self._key is not None else None
        if ask is not None and (known := self._front.ledger.asked(ask)) is not None:
            return known
        if model_id is not None:
            with self._front.database.reading() as session:
                if registered:
                    model_id = names.resolved(session, model_id) if self._by_name else model_id
                    catalog.get_model(session, model_id)  # an impossible id is simply not found
            if check is not None:
                check(self._front, model_id)
            args = {"model_id": model_id, **args}
        contract = kind(**args)
        self._front.backlog.refuse_if_full()
        return self._front.ledger.submit(contract, origin="rest", priority=priority, ask=ask)


async def asking(
    front: FrontDep,
    request: Request,
    response: Response,
    wait: Wait = 0,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1, max_length=255, pattern=r"^[!-~]+$",
            description="Your own name for this request: sent again with the same key, it finds the same job.",
        ),
    ] = None,
) -> Asking:  # fmt: skip
    """What a route for long work is given."""
    return Asking(front, response, wait, idempotency_key, by_name=request.method != "DELETE")


AskingDep = Annotated[Asking, Depends(asking)]


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
