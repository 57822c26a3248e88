"""Follow a job, or everything: server-sent events, and the same over a WebSocket."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, WebSocket
from starlette.requests import HTTPConnection

from api.deps import Front, FrontDep
from api.events.streams import EventStream, converse
from api.events.subscriber import Topic
from api.keyring import Caller

router = APIRouter(tags=["events"])

LastEventId = Annotated[
    str | None, Header(max_length=64, description="Id of the last event seen, to have what came since.")
]
Types = Annotated[
    str | None, Query(max_length=200, description="Only types that start with one of these, comma-separated.")
]

EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One of them; `data` is JSON with `type`, and the times and facts of what happened.",
    "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
}
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": EVENT}}}}


def _topic(connection: HTTPConnection, job_id: str | None, types: str | None) -> Topic:
    prefixes = tuple(part.strip() for part in (types or "").split(",") if part.strip()) or ("",)
    caller: Caller = connection.state.caller
    return Topic(job_id, prefixes, caller.name)


@router.get(
    "/jobs/{job_id}/events", summary="Follow one job", status_code=200, response_class=EventStream, responses=EVENTS
)
async def job_events(front: FrontDep, request: Request, job_id: str, last_event_id: LastEventId = None) -> EventStream:
    """Server-sent events until the job ends: a snapshot first, then each change. Reconnects miss nothing."""
    return EventStream(front.hub, _topic(request, job_id, None), last_event_id)


@router.get("/events", summary="Follow everything", status_code=200, response_class=EventStream, responses=EVENTS)
async def events(
    front: FrontDep, request: Request, last_event_id: LastEventId = None, types: Types = None
) -> EventStream:
    """Server-sent events of jobs, models and residencies; a snapshot of live jobs first."""
    return EventStream(front.hub, _topic(request, None, types), last_event_id)


@router.websocket("/ws")
async def follow(
    socket: WebSocket,
    job_id: Annotated[str | None, Query(alias="jobId", max_length=128)] = None,
    types: Types = None,
    last_event_id: Annotated[str | None, Query(alias="lastEventId", max_length=64)] = None,
) -> None:
    """The same events, one JSON message each; nothing is listened to."""
    front: Front = socket.app.state.front
    await converse(socket, front.hub, _topic(socket, job_id, types), last_event_id)
