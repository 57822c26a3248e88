"""Events to clients: one Redis subscription per process feeds every stream through bounded queues."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import redis.asyncio as redis
import structlog
from fastapi.sse import ServerSentEvent

from shared import queues
from shared.progress import PATIENCE_SECONDS
from shared.settings import RedisSettings

log = structlog.get_logger()

Event = dict[str, Any]
QUEUE_LENGTH = 256
AGAIN_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""After so long without an event a stream asks the ledger, and the hub asks Redis."""
REPLAY_LIMIT = 10_000
QUIET = "look"
"""Type of a snapshot that is told only where it is the last word."""


class Client:
    """One stream's share: a bounded queue that loses progress first, and says so when it loses more."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Event] = asyncio.Queue(QUEUE_LENGTH)
        self.lost = False

    def offer(self, event: Event) -> None:
        if self._waiting.full():
            if event["type"] == "job.progress":
                return
            self._waiting.get_nowait()
            self.lost = True
        self._waiting.put_nowait(event)

    async def next(self) -> Event:
        return await self._waiting.get()


class EventHub:
    """Listens once, tells many; keeps trying while Redis is away."""

    def __init__(self, settings: RedisSettings) -> None:
        self._redis = redis.Redis.from_url(
            settings.url.get_secret_value(), decode_responses=True, socket_connect_timeout=1, socket_keepalive=True,
            health_check_interval=25,
        )  # fmt: skip
        self._clients: set[Client] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="events")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._redis.aclose()

    @contextlib.contextmanager
    def client(self) -> Any:
        client = Client()
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)

    async def replay(self, last_id: str) -> list[Event] | None:
        """Kept events after that id; None where the gap is too old, the id is none of ours, or Redis is away."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                first: Any = await self._redis.xrange(queues.EVENTS_STREAM, count=1)
                if not first or _order(first[0][0]) > _order(last_id):
                    return None
                kept: Any = await self._redis.xrange(queues.EVENTS_STREAM, min=f"({last_id}", count=REPLAY_LIMIT)
        except (redis.RedisError, TimeoutError, ValueError):
            return None
        if len(kept) == REPLAY_LIMIT:
            return None
        return [{"id": key, **json.loads(fields["event"])} for key, fields in kept]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await asyncio.wait_for(pubsub.subscribe(queues.EVENTS_CHANNEL), PATIENCE_SECONDS)
                    self._tell({"type": "resync", "id": None})  # what was said while nobody listened is unknown
                    while True:
                        message = await pubsub.get_message(timeout=SILENCE_SECONDS)
                        if message is None:  # a connection that is half open says nothing either
                            await pubsub.ping()
                            message = await pubsub.get_message(timeout=PATIENCE_SECONDS)
                            if message is None:
                                raise TimeoutError
                        if message["type"] == "message":  # a pong has no one name
                            self._take(message["data"])
            except (redis.RedisError, OSError, TimeoutError) as error:
                log.warning("events.away", error=type(error).__name__)
                await asyncio.sleep(AGAIN_SECONDS)

    def _take(self, data: str) -> None:
        key, _, body = data.partition(" ")
        try:
            event = {"id": key, **json.loads(body)}
            _order(key)
            event["type"].split(".")
        except (ValueError, KeyError, AttributeError, TypeError):
            log.warning("events.malformed", length=len(data))
            return
        self._tell(event)

    def _tell(self, event: Event) -> None:
        for client in self._clients:
            client.offer(event)


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)


Snapshot = Callable[[], Awaitable[Event]]


async def stream(
    hub: EventHub,
    last_id: str | None,
    snapshot: Snapshot,
    wanted: Callable[[Event], bool],
    over: Callable[[Event], bool] | None = None,
) -> AsyncIterator[ServerSentEvent]:
    """Replay, then live, each event once and in order; a snapshot instead of a gap that cannot be filled.

    Args:
        snapshot: the state of what is watched, from the ledger.
        wanted: which events this stream is about.
        over: whether an event or a snapshot is the last word. It is looked for in the ledger too, after the replay
            and in silence, because an event can be lost and the ledger cannot.
    """
    with hub.client() as client:
        async for event in _told(hub, client, last_id, snapshot):
            last = over is not None and over(event)
            if event["type"] == QUIET and not last:
                continue
            if event["id"] is None or wanted(event):
                yield _event(event)
            if last:
                return


async def _told(hub: EventHub, client: Client, last_id: str | None, snapshot: Snapshot) -> AsyncIterator[Event]:
    """Everything there is to tell a client, of all subjects; a look at the ledger comes as `QUIET`."""
    seen = (0, 0)
    missed = await hub.replay(last_id) if last_id else None
    if missed is None:
        yield {"type": "resync" if last_id else "snapshot", "id": None, **await snapshot()}
    else:
        for event in missed:
            seen = _order(event["id"])
            yield event
        yield {"type": QUIET, "id": None, **await snapshot()}
    while True:
        try:
            event = await asyncio.wait_for(client.next(), SILENCE_SECONDS)
        except TimeoutError:
            yield {"type": QUIET, "id": None, **await snapshot()}
            continue
        if event["type"] == "resync" or client.lost:
            client.lost = False
            yield {"type": "resync", "id": None, **await snapshot()}
        if event["id"] is not None and _order(event["id"]) > seen:
            seen = _order(event["id"])
            yield event


def _event(event: Event) -> ServerSentEvent:
    kind = "snapshot" if event["type"] == QUIET else event["type"]
    return ServerSentEvent(data={**event, "type": kind}, event=kind, id=event["id"])
