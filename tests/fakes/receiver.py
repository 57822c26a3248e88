"""A receiver of webhooks on loopback, which takes, refuses, delays, redirects or drops what comes, as it is told."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Message:
    """One POST as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]


@dataclass
class Manners:
    """`answers` are given first, one per request: `(status, headers)`; then 204. Of a path in `slow` the answer comes
    when the receiver stops; one in `drip` comes a byte at a time until then; `cut` closes without an answer; `on`
    is called before an answer is given."""

    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    slow: bool = False
    drip: bool = False
    cut: bool = False
    on: Callable[[Message], None] | None = None


class Receiver:
    """Listens while it is entered."""

    def __init__(self) -> None:
        self.manners = Manners()
        self.messages: list[Message] = []
        self.arrived = threading.Condition()
        self.over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.place}/hook"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, condition: Callable[[list[Message]], Any], seconds: float = 90) -> list[Message]:
        """What has come, once that is so."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: condition(self.messages), seconds), self.messages
            return list(self.messages)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.take(self, Message(self.path, headers, body, self.client_address))

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def take(self, handler: BaseHTTPRequestHandler, message: Message) -> None:
        manners = self.manners
        with self.arrived:
            self.messages.append(message)
            status, headers = manners.answers.popleft() if manners.answers else (204, {})
            self.arrived.notify_all()
        if manners.on is not None:
            manners.on(message)
        if manners.slow:
            self.over.wait(60)
        handler.close_connection = manners.cut or handler.close_connection
        with suppress(OSError):
            if not manners.cut:
                self._answer(handler, status, headers, drip=manners.drip)

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], *, drip: bool) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if drip:
            handler.flush_headers()
            while not self.over.wait(0.05):
                handler.wfile.write(b"X-Drip: 1\r\n")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
