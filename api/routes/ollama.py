"""The Ollama dialect: its clients list, look at, pull and delete our models with no change but the address.

A name is a model id of ours, with or without Ollama's `:latest`, or a name of Ollama's library; `hf.co/owner/name`
stands for a repository on HuggingFace, as it does there.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from api import problems
from api.deps import POLL_SECONDS, AskingDep, Front, FrontDep, read_job, run_sync
from api.entries import AddModel
from api.routes.models import removable
from shared.contracts import Download, Remove
from shared.db import catalog, names, registry
from shared.db.reports import Device
from shared.db.tables import Installation, Job, Model
from shared.errors import Invalid, ModelyardError, NotFound, Unavailable
from shared.refs import Ref, SourceKind, checked, slug
from shared.states import ENDED, JobState, ResidencyState

DIALECT = "0.17.1"
"""The version of Ollama's API whose shapes these are; clients ask for it to learn what they may ask."""
NEVER = datetime(2318, 1, 1, tzinfo=UTC)
"""When a model leaves memory that is kept until somebody unloads it, as Ollama tells it."""
DELETE_SECONDS = 60.0
"""Longest wait for a removal: a rename, behind whatever else is in the queue."""
HUBS = ("hf.co/", "huggingface.co/")


class _Route(APIRoute):
    """Errors have what Ollama's clients read, too: `error`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except ModelyardError as error:
                return _as_ollama(problems.from_error(error))
            except RequestValidationError as error:
                return _as_ollama(problems.invalid(error.errors(), []))

        return told


def _as_ollama(problem: JSONResponse) -> JSONResponse:
    told = json.loads(bytes(problem.body))
    headers = {name: value for name, value in problem.headers.items() if name in ("retry-after", "www-authenticate")}
    told["error"] = f"{told['detail']} {told['hint']}"
    return JSONResponse(told, problem.status_code, headers, problem.media_type)


router = APIRouter(prefix="/api", tags=["ollama"], route_class=_Route)


class Named(BaseModel):
    """A request about one model. What else clients send along changes nothing here, as with Ollama."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "qwen3-0.6b"}]})

    model: Annotated[str, Field(min_length=1, max_length=300, validation_alias=AliasChoices("model", "name"))]


class PullBody(Named):
    stream: bool = True


@router.get("/version", summary="Version of Ollama's API")
async def version() -> dict[str, str]:
    """The version of Ollama whose API this speaks."""
    return {"version": DIALECT}


@router.get("/tags", summary="Models on disk, as Ollama lists them")
def tags(front: FrontDep) -> dict[str, Any]:
    """Every model that is whole on disk."""
    with front.database.reading() as session:
        rows = catalog.whole(session)
    return {"models": [_entry(model, row) for model, row in rows]}


@router.get("/ps", summary="Models in memory, as Ollama lists them")
def ps(front: FrontDep) -> dict[str, Any]:
    """Every model that can be asked now, with the memory that it takes."""
    with front.database.reading() as session:
        rows = [
            (row, catalog.get_model(session, row.model_id), session.get(Device, row.device),
             catalog.installation(session, row.model_id))
            for row in catalog.in_state(session, ResidencyState.READY)
        ]  # fmt: skip
    return {
        "models": [
            {
                **_entry(model, installation), "size": residency.memory_bytes or 0, "expires_at": NEVER,
                "size_vram": (residency.memory_bytes or 0) if device is not None and device.kind != "cpu" else 0,
                "context_length": model.config.get("context_length") or _fact(installation, "contextLength") or 0,
            }
            for residency, model, device, installation in rows
        ]
    }  # fmt: skip


@router.post("/show", summary="One model, as Ollama shows it")
def show(front: FrontDep, body: Named) -> dict[str, Any]:
    """What its files say about it."""
    model = _known(front, body.model)
    with front.database.reading() as session:
        installation = catalog.installation(session, model.id)
    if installation is None:
        raise NotFound(
            "model_not_found", f"Model {model.id!r} is not on disk.", f"Pull it first: modelyard pull {model.id}."
        )
    architecture = _fact(installation, "architecture") or "unknown"
    told = {
        "general.architecture": architecture,
        "general.parameter_count": _fact(installation, "parameterCount"),
        f"{architecture}.context_length": _fact(installation, "contextLength"),
    }
    return {
        "modelfile": f"# {model.name}\nFROM {model.source}:{model.source_url}\n",
        "parameters": "", "template": "", "license": "",
        "details": _details(installation), "modified_at": _moment(installation.published_at),
        "model_info": {name: value for name, value in told.items() if value is not None},
        "capabilities": ["completion"] if model.type == "llm" else [],
    }  # fmt: skip


@router.post(
    "/pull", summary="Download a model, as Ollama pulls it", response_model=None,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def pull(front: FrontDep, asking: AskingDep, body: PullBody) -> Response:
    """Streams the progress as lines of JSON. The download is a job like any other: it goes on if the client leaves."""
    model = await run_sync(_entered, front, body.model)
    accepted = await asking.accept(Download, model.id)
    lines = _progress(front, accepted.job.id)
    if body.stream:
        return StreamingResponse((json.dumps(line) + "\n" async for line in lines), media_type="application/x-ndjson")
    async for line in lines:
        if "error" in line:
            raise await run_sync(_failure, front, accepted.job.id)
    return JSONResponse({"status": "success"})


@router.delete("/delete", summary="Remove a model, as Ollama deletes it", response_class=Response)
async def delete(front: FrontDep, asking: AskingDep, body: Named) -> Response:
    """Its files go to the trash; refused while it is in memory or comes down."""
    model = await run_sync(_known, front, body.model)
    accepted = await asking.accept(Remove, model.id, removable)
    try:
        async with asyncio.timeout(DELETE_SECONDS):
            async for line in _progress(front, accepted.job.id):
                if "error" in line:
                    raise await run_sync(_failure, front, accepted.job.id)
    except TimeoutError:
        raise Unavailable(
            "still_waiting", "It has not happened yet.", f"It goes on by itself; it is job {accepted.job.id}."
        ) from None
    return Response(status_code=200)


def _known(front: Front, name: str) -> Model:
    """Raises: NotFound."""
    with front.database.reading() as session:
        for model_id in (name, name.removesuffix(":latest"), slug(name)):
            if catalog.exists(session, found := names.resolved(session, model_id)):
                return catalog.get_model(session, found)
    raise NotFound("model_not_found", f"model {name!r} not found.", "GET /api/tags lists what is here.")


def _entered(front: Front, name: str) -> Model:
    """The model of that name, which is entered in the registry if it is new.

    Raises:
        Invalid: no name that could be pulled.
        Conflict: somebody entered it at the same moment.
    """
    try:
        return _known(front, name)
    except NotFound:
        ref = _reference(name)
    model_id = slug(name.removesuffix(":latest"))
    entry = AddModel(model_id=model_id, model_type="llm", name=name, source=ref.kind, source_url=ref.location)
    with front.database.session() as session:
        model = registry.add(session, entry.entry(front.types))
    front.ledger.events.publish("model.added", modelId=model_id)
    return model


def _reference(name: str) -> Ref:
    hub = next((hub for hub in HUBS if name.startswith(hub)), None)
    if hub is not None:
        return checked(Ref(SourceKind.HUGGINGFACE, name.removeprefix(hub).removesuffix(":latest")))
    return checked(Ref(SourceKind.OLLAMA, name))


async def _progress(front: Front, job_id: str) -> AsyncIterator[dict[str, Any]]:
    """What a job does, in Ollama's words; the last line is `success` or an error."""
    yield {"status": "pulling manifest"}
    while (job := await run_sync(read_job, front, job_id)).state not in ENDED:
        for line in _lines(job):
            yield line
        await asyncio.sleep(POLL_SECONDS)
    if job.state == JobState.SUCCEEDED:
        yield {"status": "success"}
    else:
        error = _error(job)
        yield {"error": f"{error['message']} {error['hint']}"}


def _failure(front: Front, job_id: str) -> ModelyardError:
    """Why a job did not succeed, for who waited for it."""
    error = _error(read_job(front, job_id))
    kind = Unavailable if error.get("retryable") else Invalid
    return kind(error["code"], error["message"], error["hint"])


def _error(job: Job) -> dict[str, Any]:
    ended = {"code": f"job_{job.state}", "message": f"The job is {job.state}.", "hint": "Pull it again."}
    return job.error or ended


def _lines(job: Job) -> list[dict[str, Any]]:
    if job.state != JobState.RUNNING:
        return [{"status": f"waiting: the job is {job.state}"}]
    parts = [
        # clients draw one bar for each digest; ours stands for the file's name, its own is known at the end
        {"status": f"pulling {part['name']}", "digest": _digest(part["name"]), "total": part["bytesTotal"],
         "completed": part["bytesDone"]}
        for part in job.parts if part.get("bytesTotal")
    ]  # fmt: skip
    return parts or [{"status": job.phase or "pulling manifest"}]


def _entry(model: Model, installation: Installation | None) -> dict[str, Any]:
    return {
        "name": model.id, "model": model.id,
        "modified_at": _moment(installation.published_at if installation else model.updated_at),
        "size": installation.size if installation else 0,
        "digest": _digest(f"{model.id} {installation.revision if installation else ''}").removeprefix("sha256:"),
        "details": _details(installation),
    }  # fmt: skip


def _details(installation: Installation | None) -> dict[str, Any]:
    family, count = _fact(installation, "architecture") or "", _fact(installation, "parameterCount")
    return {
        "parent_model": _fact(installation, "baseModel") or "", "format": _fact(installation, "format") or "",
        "family": family, "families": [family] if family else [],
        "parameter_size": _count_text(count) if count else "",
        "quantization_level": _fact(installation, "quantization") or "",
    }  # fmt: skip


def _fact(installation: Installation | None, name: str) -> Any:
    return installation.facts.get(name) if installation is not None else None


def _count_text(count: int) -> str:
    """8030261248 as `8.0B`."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
