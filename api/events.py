"""Events to clients: one Redis subscription per process feeds every stream through bounded queues."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import redis.asyncio as redis
import structlog
from fastapi.sse import ServerSentEvent

from shared import queues
from shared.settings import RedisSettings

log = structlog.get_logger()

Event = dict[str, Any]
QUEUE_LENGTH = 256
AGAIN_SECONDS = 1.0
REPLAY_LIMIT = 10_000


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
            first: Any = await self._redis.xrange(queues.EVENTS_STREAM, count=1)
            if not first or _order(first[0][0]) > _order(last_id):
                return None
            kept: Any = await self._redis.xrange(queues.EVENTS_STREAM, min=f"({last_id}", count=REPLAY_LIMIT)
        except (redis.RedisError, ValueError):
            return None
        return [{"id": key, **json.loads(fields["event"])} for key, fields in kept]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(queues.EVENTS_CHANNEL)
                    self._tell({"type": "resync", "id": None})  # what was said while nobody listened is unknown
                    while True:
                        message = await pubsub.get_message(timeout=60.0)
                        if message is not None:
                            self._take(message["data"])
            except (redis.RedisError, OSError) as error:
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


async def stream(
    hub: EventHub, last_id: str | None, snapshot: Callable[[], Any], wanted: Callable[[Event], bool]
) -> AsyncIterator[ServerSentEvent]:
    """Replay, then live, each event once and in order; a snapshot instead of a gap that cannot be filled.

    Args:
        snapshot: the state of what is watched, from the ledger; awaited.
        wanted: which events this stream is about.
    """
    with hub.client() as client:
        seen = (0, 0)
        missed = await hub.replay(last_id) if last_id else None
        if missed is None:
            yield _event({"type": "resync" if last_id else "snapshot", "id": None, **await snapshot()})
        for event in missed or ():
            seen = _order(event["id"])
            if wanted(event):
                yield _event(event)
        while True:
            event = await client.next()
            if event["type"] == "resync" or client.lost:
                client.lost = False
                yield _event({"type": "resync", "id": None, **await snapshot()})
            if event["id"] is None or _order(event["id"]) <= seen:
                continue
            seen = _order(event["id"])
            if wanted(event):
                yield _event(event)


def _event(event: Event) -> ServerSentEvent:
    return ServerSentEvent(data=event, event=event["type"], id=event["id"])
