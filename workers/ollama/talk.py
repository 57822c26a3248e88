"""One request over HTTP/1.1 whose caller can stop at any moment, also while nothing comes."""

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any

Checkpoint = Callable[[], None]
"""Called often; raises Stop to end the work."""

LOOK_SECONDS = 0.25
CHUNK_BYTES = 64 * 1024
MAX_LINE = 1024**2
_WAITING = 64
_JOIN_SECONDS = 2.0


class Refusal(Exception):
    """The server answered with another status than 200; `body` is the start of what it said."""

    def __init__(self, status: int, body: bytes, /) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def talk(
    connection: HTTPConnection, method: str, path: str, body: dict[str, Any] | None, checkpoint: Checkpoint,
    patience: float,
) -> Iterator[bytes]:  # fmt: skip
    """Send one request and hand on the answer piece by piece, as it comes. The connection is used up.

    Args:
        checkpoint: called at least twice a second, here and wherever the caller may wait.
        patience: longest silence, in seconds.

    Raises:
        Refusal: any status but 200.
        OSError, HTTPException: the connection, or what came over it.
        TimeoutError: silence.
        Stop: from the checkpoint; the connection is closed then, as it is when the caller reads no further.
    """
    found: queue.Queue[bytes | Exception] = queue.Queue(_WAITING)
    line, stop = _Line(connection, patience), threading.Event()
    thread = threading.Thread(target=_read, args=(line, method, path, body, found, stop), name="talk", daemon=True)
    thread.start()
    try:
        heard = time.monotonic()
        while True:
            checkpoint()
            try:
                piece = found.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if time.monotonic() - heard > patience:
                    raise TimeoutError from None
                continue
            if isinstance(piece, Exception):
                raise piece
            if not piece:
                return
            heard = time.monotonic()
            yield piece
    finally:
        stop.set()
        line.cut()
        thread.join(_JOIN_SECONDS)


def lines(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects, one a line, that come in these pieces.

    Raises:
        ValueError: a line is too long, or no JSON object.
    """
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_LINE:
            raise ValueError("a line is too long")
        yield from (_object(line) for line in whole if line.strip())
    if rest.strip():
        yield _object(rest)


def whole(pieces: Iterator[bytes], most: int) -> dict[str, Any]:
    """The one JSON object of an answer; an empty answer is an empty object.

    Raises:
        ValueError: it is longer than `most`, or no JSON object.
    """
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > most:
            raise ValueError("the answer is too long")
    return _object(bytes(found)) if found.strip() else {}


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found


class _Line:
    """The connection, and its socket, which the connection forgets once an answer says that it will close it."""

    def __init__(self, connection: HTTPConnection, patience: float) -> None:
        self.connection = connection
        self._patience = patience
        self._socket: socket.socket | None = None

    def open(self) -> None:
        self.connection.connect()
        self._socket = self.connection.sock
        self._socket.settimeout(self._patience)  # the connection's own timeout is for connecting

    def cut(self) -> None:
        """Whoever reads from it wakes up, and finds it closed."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _read(
    line: _Line, method: str, path: str, body: dict[str, Any] | None,
    found: "queue.Queue[bytes | Exception]", stop: threading.Event,
) -> None:  # fmt: skip
    """On a thread of its own: what comes, then an empty piece; or what went wrong."""
    try:
        sent = None if body is None else json.dumps(body)
        line.open()
        if stop.is_set():  # nobody waits for what this would ask for
            return
        connection = line.connection
        connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            _hand_on(Refusal(answer.status, answer.read(CHUNK_BYTES)), found, stop)
            return
        while piece := answer.read1(CHUNK_BYTES):
            _hand_on(piece, found, stop)
        _hand_on(b"", found, stop)
    except (OSError, HTTPException, ValueError) as error:
        _hand_on(error, found, stop)
    finally:
        line.connection.close()


def _hand_on(piece: bytes | Exception, found: "queue.Queue[bytes | Exception]", stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            found.put(piece, timeout=LOOK_SECONDS)
            return
