"""What a client of the events gets: replay or a snapshot, then all that follows, over HTTP or a WebSocket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.events.hub import AGAIN_SECONDS, EventHub
from api.events.judge import Told
from api.events.subscriber import Client, Topic
from shared.errors import NotFound, Unavailable

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
PIECE = 50
NO_MESSAGES = 1008
"""WebSocket's code for a client that breaks the rules: it sent something."""


class EventStream(Response):
    """Server-sent events. Refuses, before its first byte, a job that is unknown and a stream that is one too many."""

    media_type = "text/event-stream"

    def __init__(self, hub: EventHub, topic: Topic, last_id: str | None) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)
        self._hub, self._last_id = hub, last_id
        self._topic = topic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.client(self._topic) as client:
            parts = stories(self._hub, client, self._last_id)
            first = await anext(parts)
            with _watched(client, _until_gone(receive)):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _write(send, client, first)
                async for part in parts:
                    await _write(send, client, part)
                if not client.gone:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Send, client: Client, part: list[Told]) -> None:
    client.writing_since = asyncio.get_running_loop().time()
    await send({"type": "http.response.body", "body": b"".join(told.wire for told in part), "more_body": True})
    client.writing_since = None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def converse(socket: WebSocket, hub: EventHub, topic: Topic, last_id: str | None) -> None:
    """The same events, one message of JSON each."""
    with hub.client(topic) as client:
        parts = stories(hub, client, last_id)
        first = await anext(parts)
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect), _watched(client, _until_silent(socket)):
            await _say(socket, client, first)
            async for part in parts:
                await _say(socket, client, part)
            await socket.close()


async def _say(socket: WebSocket, client: Client, part: list[Told]) -> None:
    client.writing_since = asyncio.get_running_loop().time()
    for body in filter(None, (told.body for told in part)):
        await socket.send_text(body)
    client.writing_since = None


async def _until_silent(socket: WebSocket) -> None:
    if (await socket.receive())["type"] != "websocket.disconnect":
        await socket.close(NO_MESSAGES, "Nothing is listened to here.")


@contextlib.contextmanager
def _watched(client: Client, end: Any) -> Iterator[None]:
    """Tell the client when its connection ends, and let the hub end one that does not read."""
    current, watch = asyncio.current_task(), asyncio.ensure_future(end)
    watch.add_done_callback(lambda _: client.leave())
    dropped = False

    def drop() -> None:
        nonlocal dropped
        dropped = True
        if current is not None:
            current.cancel()

    client.drop = drop
    try:
        yield
    except asyncio.CancelledError:
        if not dropped:
            raise
    finally:
        watch.cancel()


async def stories(hub: EventHub, client: Client, last_id: str | None) -> AsyncIterator[list[Told]]:
    """Replay, then live, each event once and in order; a snapshot instead of a gap that cannot be filled.

    Raises:
        NotFound: no such job.
        Unavailable: the ledger does not answer, and nothing was told yet.
    """
    missed = hub.replay(client, last_id) if last_id else None
    snapshot = await hub.snapshot(client.job_id)
    last = snapshot.last
    if missed is None:
        client.forget(snapshot)
        yield [snapshot.told("resync" if last_id else "snapshot")]
    else:
        for piece in _pieces(missed):
            yield piece
        if last and not (missed and missed[-1].last):
            yield [snapshot.told("snapshot")]
    while not last and not client.gone:
        part = await (_resync(hub, client) if client.lost else client.take())
        last = client.job_id is not None and bool(part) and part[-1].last
        for piece in _pieces(part):
            yield piece


def _pieces(part: list[Told]) -> Iterator[list[Told]]:
    """What is written at once: a client that stalls holds no more than that in the server's buffers."""
    return (part[start : start + PIECE] for start in range(0, len(part), PIECE))


async def _resync(hub: EventHub, client: Client) -> list[Told]:
    """A new snapshot, however long the ledger is away; nothing where the client or its job is gone meanwhile."""
    while not client.gone:
        client.lost = False
        try:
            snapshot = await hub.snapshot(client.job_id)
        except NotFound:
            client.leave()
        except Unavailable:
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            client.forget(snapshot)
            return [snapshot.told("resync")]
    return []
