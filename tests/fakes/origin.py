"""An HTTP origin that misbehaves exactly as it is told to, over real sockets on loopback."""

import re
import socket
import ssl
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
STEP = 64 * 1024


@dataclass
class Manners:
    """How the origin behaves; may be changed while it runs.

    `refusals` are answered first, one per request: `(status, headers)`. `moved` maps a path to the `Location` it
    redirects to, `gone` are paths that answer 403. `cut` closes a connection after so many bytes of one body,
    `extra` follows a body. A body that runs over the offset `hold` of the file stops there until the origin does.
    `drip` sends one byte and then waits until the origin stops; `linger` only does not close; `silent` never answers.
    `endless` is sent instead of an answer, again and again until the client or the origin stops; `flood` is sent so
    after the body. `more` are further headers. `pages` are answered well, whatever else is asked for: path to
    `(body, headers)`.
    """

    ranges: bool = True
    length: bool = True
    chunked: bool = False
    etag: str | None = '"one"'
    modified: str | None = None
    content_range: str | None = None
    encoding: str | None = None
    cut: int | None = None
    hold: int | None = None
    extra: bytes = b""
    drip: bool = False
    silent: bool = False
    banner: bytes | None = None
    endless: bytes | None = None
    flood: bytes | None = None
    more: dict[str, str] = field(default_factory=dict)
    pages: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    linger: bool = False
    refusals: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    moved: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


class Origin:
    """Serves `content` under every path. `seen` and `sent` tell what was asked for and how many bytes went out."""

    def __init__(self, content: bytes = b"", certificate: Path | None = None, **manners: Any) -> None:
        self.content = content
        self.manners = Manners(**manners)
        self.seen: list[Seen] = []
        self.sent = 0
        self.lock = threading.Lock()
        self.busy = threading.Event()
        """Set once a body was begun."""
        self.held = threading.Event()
        """Set once a body stopped at `hold`."""
        self.over = threading.Event()
        self._server = _Server(self, certificate)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="origin")
        self.port = self._server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self._server.accepted

    def hang_up(self) -> None:
        """Break every connection that there is."""
        self._server.hang_up()

    def count(self, method: str = "GET") -> int:
        return sum(request.method == method for request in self.seen)


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, origin: Origin, certificate: Path | None) -> None:
        self.origin = origin
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._tls is not None and certificate is not None:
            self._tls.load_cert_chain(certificate)
        self._open: set[socket.socket] = set()
        self.accepted = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        self.accepted += 1
        if self._tls is not None:  # the handshake happens on the request's own thread, with its first read
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return sock, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for sock in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Tests read `Origin.seen`."""

    def do_HEAD(self) -> None:
        self._note()
        self._head(405, {"Content-Length": "0"})

    def do_GET(self) -> None:
        origin, manners = self.server.origin, self.server.origin.manners
        self._note()
        if (page := manners.pages.get(self.path.partition("?")[0])) is not None:
            self._head(200, {"Content-Length": str(len(page[0]))} | page[1])
            self.wfile.write(page[0])
            return
        if manners.endless is not None:
            self._repeat(manners.endless)
            return
        if manners.silent:
            origin.over.wait()
            return
        if manners.banner is not None:
            self.wfile.write(manners.banner)
            self.close_connection = True
            return
        if manners.refusals:
            status, headers = manners.refusals.popleft()
            self._head(status, {"Content-Length": "0"} | headers)
        elif self.path in manners.gone:
            self._head(403, {"Content-Length": "0"})
        elif self.path in manners.moved:
            self._head(302, {"Content-Length": "0", "Location": manners.moved[self.path]})
        else:
            self._content(origin.content, manners)

    def _note(self) -> None:
        self.server.origin.seen.append(Seen(self.command, self.path, dict(self.headers.items())))

    def _content(self, content: bytes, manners: Manners) -> None:
        headers: dict[str, str | None] = {
            "ETag": manners.etag,
            "Last-Modified": manners.modified,
            "Content-Encoding": manners.encoding,
            **manners.more,
        }
        asked = _RANGE.match(self.headers.get("Range", "")) if manners.ranges else None
        if_range = self.headers.get("If-Range")
        status, start, end = 200, 0, len(content)
        if asked and if_range in (None, manners.etag, manners.modified):
            status, start, end = 206, int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
            if start >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            headers["Content-Range"] = manners.content_range or f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:end] + manners.extra
        if manners.chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        elif manners.length:
            headers["Content-Length"] = str(len(body))
        else:
            headers["Connection"] = "close"
            self.close_connection = True
        self._head(status, {name: value for name, value in headers.items() if value is not None})
        held = manners.hold is not None and start < manners.hold < end
        self._body(body[: manners.hold - start] if held and manners.hold else body, manners, held)

    def _body(self, body: bytes, manners: Manners, held: bool) -> None:
        origin = self.server.origin
        if manners.drip:
            self._write(body[:1])
            origin.over.wait()
            return
        limit = len(body) if manners.cut is None else min(manners.cut, len(body))
        for position in range(0, limit, STEP):
            self._write(body[position : min(position + STEP, limit)])
        if manners.flood is not None:
            self._repeat(manners.flood)
        if limit < len(body):
            self.close_connection = True
        elif manners.linger or held:
            if held:
                origin.held.set()
            origin.over.wait()

    def _repeat(self, part: bytes) -> None:
        self.close_connection = True
        while not self.server.origin.over.is_set():
            self._write(part)

    def _write(self, part: bytes) -> None:
        with self.server.origin.lock:
            self.server.origin.sent += len(part)
        self.wfile.write(part)
        self.server.origin.busy.set()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
