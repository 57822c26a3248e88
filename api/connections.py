"""Connections of clients, bounded: how many, how long one may take to say what it wants, and how much of it.

uvicorn bounds the time after an answer, and what a WebSocket says; the rest is here.
"""

import resource
from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from api.problems import problem
from shared.settings import ApiSettings

LONGEST_HEAD = 64 * 1024
"""Bytes of a request before its body."""
MOST_HEADERS = 200
STALLED_SECONDS = 60.0
"""A client that takes so long to read what it asked for is hung up on."""
LONGEST_WORD = 4096
LONGEST_FAREWELL = 256
"""Bytes of a frame that closes a WebSocket, with room for a pong before it."""
SPARE_FILES = 512
"""What a process has open beside its connections, at most."""
BOUNDS = "bounds"
"""Where the application's lifespan has them for its connections."""


class Bounds:
    """Of one process, with the connections that have asked for nothing yet, the longest waiting first."""

    def __init__(self, settings: ApiSettings) -> None:
        self.most = settings.max_connections
        self.head_seconds = settings.head_seconds
        self.waiting: dict[Connection, None] = {}


def allow_files(most: int) -> None:
    """As many open files as so many connections need, or as the system lets this process have."""
    now, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = most + SPARE_FILES
    if now != resource.RLIM_INFINITY and now < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )


class Channel(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which would take all frames apart, and go on for ten seconds after it was told to close.

    Who says a word is told that nothing is listened to; who pours words out is cut off.
    """

    def data_received(self, data: bytes) -> None:
        most = LONGEST_FAREWELL if self.close_sent else LONGEST_WORD if self.handshake_complete else len(data)
        if len(data) > most:
            self.transport.abort()
        else:
            super().data_received(data)


class Connection(HttpToolsProtocol):
    """uvicorn's, whose client has to come to the point: `uvicorn --http api.connections:Connection`."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, app_state, **more)
        self._bounds: Bounds = app_state[BOUNDS]
        self._timer: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self._head = self._fields = 0
        """Bytes of the request so far, before its body: raw, and of its headers."""
        self._refusal = 400
        self.ws_protocol_class = Channel

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast("Transport", transport))
        self._wait()
        if len(self.connections) > self._bounds.most:
            next(iter(self._bounds.waiting)).hang_up()  # this one, where all the others are being answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._begin()
        self.resume_writing()
        super().connection_lost(exc)

    def hang_up(self) -> None:
        """At once, whatever is on its way."""
        self._begin()
        self.connections.discard(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._head += len(data)
        super().data_received(data)
        if self._timer is not None and self._head > LONGEST_HEAD and not self.transport.is_closing():
            self._refusal = 431
            self.send_400_response("")

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > LONGEST_HEAD:
            self._refusal = 414
            raise ValueError("a URL without end")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._fields += len(name) + len(value)
        if len(self.headers) > MOST_HEADERS or self._fields > LONGEST_HEAD:
            self._refusal = 431
            raise ValueError("headers without end")

    def on_headers_complete(self) -> None:
        self._begin()
        self._fields = 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(STALLED_SECONDS, self.hang_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """A problem, like every other refusal."""
        hint = "Send well-formed HTTP with less in front of the body."
        refusal = problem(self._refusal, "bad_request", "This request cannot be read.", hint)
        headers = [*refusal.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 %d \r\n%b\r\n%b" % (self._refusal, head, bytes(refusal.body)))
        self.transport.close()

    def _wait(self) -> None:
        """For the next request, and not for ever."""
        self._begin()
        self._head = self._fields = 0
        self._bounds.waiting[self] = None
        self._timer = self.loop.call_later(self._bounds.head_seconds, self.hang_up)

    def _begin(self) -> None:
        self._bounds.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
