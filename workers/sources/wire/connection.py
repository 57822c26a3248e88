"""One keep-alive HTTP connection of a file: redirects, range requests, bodies read straight into a buffer."""

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

from shared.errors import Failed, ModelyardError, Unavailable
from workers.sources.wire import answers
from workers.sources.wire.dial import Stopped, dial
from workers.sources.wire.lines import Line, Lines
from workers.sources.wire.route import Place, Route, place

MAX_REDIRECTS = 5
FILL_SECONDS = 0.2
MAX_PASSED = 16 * 1024
"""No more than so many bytes are ever passed over."""


class Trouble(Exception):
    """The connection or an answer broke; a new connection may do better. `error` is raised when patience ends."""

    def __init__(self, error: ModelyardError) -> None:
        super().__init__(error.message)
        self.error = error


class Body:
    """The body of one answer, read straight into the caller's buffer.

    Args:
        sock: what it comes over, where that lives longer than the answer.
    """

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket | None = None) -> None:
        self.response = response
        self._sock = sock if response.length is not None else None
        self._buffered = True
        """Some of it may have come with the head, and lie in the response's own buffer."""
        self.status = response.status
        self.etag = response.headers.get("ETag")
        self.modified = response.headers.get("Last-Modified")
        self.span = answers.content_range(response.headers) if response.status == HTTPStatus.PARTIAL_CONTENT else None
        self._broken: Exception | None = None
        self.remaining = response.length
        """Bytes still to come, None where the server does not tell."""

    @property
    def whole(self) -> int | None:
        """Bytes of the whole file, None where the server does not tell."""
        if self.status == HTTPStatus.PARTIAL_CONTENT:
            return self.span.total if self.span is not None else None
        if self.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return answers.unsatisfied_size(self.response.headers)
        return self.response.length

    @property
    def self_delimiting(self) -> bool:
        """Whether its end can be told from a connection that broke."""
        return self.response.length is not None or bool(self.response.chunked)

    def fill(self, view: memoryview) -> int:
        """Read until the view is full, the body ends or `FILL_SECONDS` are over. 0 is the end.

        Raises:
            Trouble: the connection broke or was silent too long.
        """
        if self.remaining is not None:
            view = view[: self.remaining]
        if self._broken is not None:
            raise trouble(self._broken) from self._broken
        filled, until = 0, time.monotonic() + FILL_SECONDS
        try:
            while filled < len(view):
                count = self._read(view[filled:])
                filled += count
                if not count or time.monotonic() > until:
                    break
        except (OSError, http.client.HTTPException, ValueError) as broken:
            if not filled:
                raise trouble(broken) from broken
            self._broken = broken  # what came before the break is kept; the next call tells of it
        if self.remaining is not None:
            self.remaining -= filled
        return filled

    def _read(self, view: memoryview) -> int:
        if self.response.chunked:
            data = self.response.read1(len(view))
            view[: len(data)] = data
            return len(data)
        if self._sock is not None and not self._buffered:
            return self._sock.recv_into(view)  # TLS brings 16 KiB at a time: three calls less for each count
        # HTTPResponse.readinto would wait for a full buffer, which hides a slow server's progress
        count = self.response.fp.readinto1(view) if self.response.fp is not None else 0
        self._buffered = self._buffered and len(view) < io.DEFAULT_BUFFER_SIZE
        return count


class Link:
    """A connection that a single thread uses, and that any thread may `abort`.

    Args:
        lines: where connections come from and go to that outlive this link, None where there are none.

    Raises from `get`:
        Trouble: worth another try on a new connection.
        Stopped: `stop` was set.
        Forbidden, NotFound, Failed: final.
        Unavailable: the server asks us to come back later.
    """

    def __init__(self, route: Route, stop: threading.Event, lines: Lines | None = None) -> None:
        self._route = route
        self._stop = stop
        self._lines = lines
        self._where: Place | None = None
        self._socket: socket.socket | None = None
        self._connection: Line | None = None
        self._idle = False
        """Nothing is on its way on the connection."""
        self._response: http.client.HTTPResponse | None = None

    def get(self, span: tuple[int, int] | None = None, if_range: str | None = None) -> Body:
        """Ask for the file, or for its bytes from the first to the last of `span`; follows redirects."""
        extra = {} if span is None else {"Range": f"bytes={span[0]}-{span[1]}"}
        if span is not None and if_range is not None:
            extra["If-Range"] = if_range
        url, hops = self._route.here, 0
        while True:
            response = self._exchange(url, extra)
            if response.status in answers.USABLE:
                break
            self._leave(response)
            if response.status in answers.REDIRECTS:
                hops += 1
                if hops > MAX_REDIRECTS:
                    raise Failed("too_many_redirects", f"More than {MAX_REDIRECTS} redirects.", "Use another address.")
                url = self._route.next_hop(url, response.headers.get("Location"))
            elif not hops and response.status in answers.DENIED | answers.MISSING and self._route.forget(url):
                url = self._route.url
            else:
                raise _status_error(response, url)
        unreadable = answers.malformed(response)
        if unreadable is not None:
            self.close()
            raise unreadable
        self._route.settle(url)
        return Body(response, None if response.will_close else self._socket)

    def release(self, body: Body) -> None:
        """Keep the connection for the next request, if nothing of this body is left on it."""
        if body.remaining == 0 and not body.response.will_close:
            body.response.close()
            self._idle = True
        else:
            self.close()

    def hand_back(self) -> None:
        """This link is done: a connection that can carry another file's bytes is kept for them."""
        if self._idle and self._lines is not None and self._connection is not None and self._where is not None:
            self._lines.give(self._where, self._connection)
            self._response = self._connection = self._socket = self._where = None
            self._idle = False
        else:
            self.close()

    def abort(self) -> None:
        """Wake the thread that is reading or writing. Any thread may call this."""
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                # the plain socket's method: an SSLSocket's own would take the TLS state from under its reader
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def patience(self, seconds: float) -> None:
        """Wait at most this long for the next bytes."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def close(self) -> None:
        for part in (self._response, self._connection, self._socket):
            if part is not None:
                part.close()
        self._response = self._connection = self._socket = self._where = None
        self._idle = False

    def _hold(self, sock: socket.socket) -> None:
        self._socket = sock

    def _leave(self, response: http.client.HTTPResponse) -> None:
        """An answer that is not wanted: its body is passed over if it came with its head, else the connection goes."""
        try:
            whole = response.length == 0 or len(response.fp.peek(1)) >= (response.length or MAX_PASSED)
        except (OSError, AttributeError, ValueError):
            whole = False
        if whole and not response.will_close and not response.chunked:
            response.read()
            self._idle = True
        else:
            self.close()

    def _exchange(self, url: str, extra: dict[str, str]) -> http.client.HTTPResponse:
        kept = self._connect(place(url))
        try:
            return self._ask(url, extra)
        except Trouble:
            if not kept or self._stop.is_set():
                raise
        self._connect(place(url), anew=True)  # the server had closed it meanwhile
        return self._ask(url, extra)

    def _connect(self, where: Place, *, anew: bool = False) -> bool:
        """Have a connection to that place; whether it is one that another link has left."""
        if self._connection is not None and self._where == where:
            return False
        self.hand_back()
        kept = self._lines.take(where) if self._lines is not None and not anew else None
        if kept is not None:
            kept.sock.settimeout(self._route.settings.read_timeout)
            self._hold(kept.sock)
        with self._breaking():
            self._connection = kept or Line(where, dial(self._route, where, self._stop, self._hold))
        self._where = where
        return kept is not None

    def _ask(self, url: str, extra: dict[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._connection
        with self._breaking():
            if connection is None:
                raise ConnectionError
            self._idle = False
            connection.request("GET", target, headers=self._route.headers(url) | extra)
            self._response = connection.getresponse()
            return self._response

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Whatever breaks inside leaves no connection, and is told as trouble unless it is final."""
        try:
            yield
        except Unavailable as unresolved:
            raise Trouble(unresolved) from unresolved
        except (OSError, http.client.HTTPException, ValueError) as broken:
            self.close()
            if self._stop.is_set():
                raise Stopped from None
            raise trouble(broken) from broken
        except BaseException:
            self.close()
            raise


def trouble(broken: Exception) -> Trouble:
    """What a broken connection is, once patience with it ends."""
    if isinstance(broken, TimeoutError):
        return Trouble(Unavailable("source_timeout", "The server was silent for too long.", "It will be tried again."))
    if isinstance(broken, http.client.IncompleteRead):
        return Trouble(truncated())
    if isinstance(broken, OSError):
        return Trouble(
            Unavailable("source_unreachable", "The connection to the server failed.", "It will be tried again.")
        )
    return Trouble(answers.protocol_error("it is not the HTTP it should be"))


def truncated() -> Unavailable:
    """The body ended before the bytes did."""
    return Unavailable(
        "truncated", "The server ends its answers before the file does.", "It will be tried again from where it ended."
    )


def _status_error(response: http.client.HTTPResponse, url: str) -> Exception:
    error = answers.refusal(response, place(url)[1])
    passing = isinstance(error, Unavailable) and error.code != "source_busy"
    return Trouble(error) if passing else error
