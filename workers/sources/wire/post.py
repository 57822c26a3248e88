"""POSTs to a server that is nobody's: at an address that was judged, in a bounded time, following nothing it says."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import urlsplit

from shared.errors import ModelyardError, Unavailable
from workers.sources.wire.answers import seconds_after
from workers.sources.wire.dial import Stopped, dial
from workers.sources.wire.lines import Line
from workers.sources.wire.route import Route, place

LOOK_SECONDS = 0.25
MOST_READ = 64 * 1024
"""Bytes of an answer that are passed over to keep its connection; nobody looks at them."""


class Answer(NamedTuple):
    """What a server said to a POST. `retry_after` in seconds, None where it asked for nothing."""

    status: int
    retry_after: float | None


class Poster:
    """Posts to one URL, over one connection where the server keeps it.

    Args:
        checkpoint: called several times a second; raises Stop to end the work.
        seconds: longest time from the first byte of a request to the last of its answer.
    """

    def __init__(self, route: Route, checkpoint: Callable[[], None], seconds: float) -> None:
        self._route = route
        self._checkpoint = checkpoint
        self._seconds = seconds
        self._line: Line | None = None
        self._socket: socket.socket | None = None

    def send(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Send once; what came of it.

        Raises:
            Unavailable: `webhook_timeout`, `webhook_unreachable`: nothing is known of what arrived.
            Forbidden: `source_not_allowed`, `tls_error`.
            Stop: from the checkpoint.
        """
        found: queue.SimpleQueue[Answer | Exception] = queue.SimpleQueue()
        stop = threading.Event()
        threading.Thread(
            target=self._carry, args=(body, headers, stop, found), name="webhook-post", daemon=True
        ).start()
        until = time.monotonic() + self._seconds
        try:
            while True:
                self._checkpoint()
                with contextlib.suppress(queue.Empty):
                    answer = found.get(timeout=LOOK_SECONDS)
                    break
                if time.monotonic() > until:
                    raise _late()
        except BaseException:
            stop.set()
            self.close()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Whoever reads from the connection wakes up, and finds it closed."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._drop()

    def _drop(self) -> None:
        for part in (self._line, self._socket):
            if part is not None:
                part.close()
        self._line = self._socket = None

    def _hold(self, sock: socket.socket) -> None:
        self._socket = sock

    def _carry(
        self,
        body: bytes,
        headers: dict[str, str],
        stop: threading.Event,
        found: "queue.SimpleQueue[Answer | Exception]",
    ) -> None:
        """On a thread of its own: the answer, or what went wrong."""
        kept = self._line is not None
        try:
            try:
                found.put(self._exchange(body, headers, stop))
            except (OSError, HTTPException) as error:
                if not kept or stop.is_set() or isinstance(error, TimeoutError):
                    raise
                self._drop()  # the server had closed it meanwhile
                found.put(self._exchange(body, headers, stop))
        except ModelyardError as refused:
            self._drop()
            found.put(refused)
        except TimeoutError:  # the connection's own clock, where this thread comes to it first
            self._drop()
            found.put(_late())
        except (OSError, HTTPException, ValueError, Stopped):
            self._drop()
            found.put(
                Unavailable("webhook_unreachable", "The connection to the receiver failed.", "It will be tried again.")
            )

    def _exchange(self, body: bytes, headers: dict[str, str], stop: threading.Event) -> Answer:
        url = self._route.url
        if self._line is None:
            self._line = Line(place(url), dial(self._route, place(url), stop, self._hold))
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._line.request("POST", target, body=body, headers=self._route.headers(url) | headers)
        response = self._line.getresponse()
        answer = Answer(response.status, seconds_after(response.headers.get("Retry-After", "")))
        if not _passed_over(response):
            self._drop()
        return answer


def _late() -> Unavailable:
    return Unavailable("webhook_timeout", "The receiver took too long.", "It will be tried again.")


def _passed_over(response: HTTPResponse) -> bool:
    """Whether nothing of the answer is left on its connection, which stays open."""
    try:
        response.read(MOST_READ)
    except (OSError, HTTPException, ValueError):
        return False  # its status has been told
    return response.isclosed() and not response.will_close
