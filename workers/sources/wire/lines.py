"""Connections that outlive a file: the next one from the same place needs no new one."""

import contextlib
import http.client
import select
import socket
import threading
from typing import Self

from workers.sources.wire.route import Place

KEPT = 8
"""Free connections to one place that are kept at most."""


class Line(http.client.HTTPConnection):
    """`http.client` over a socket that is already connected."""

    sock: socket.socket

    def __init__(self, where: Place, sock: socket.socket) -> None:
        scheme, host, port = where
        self.default_port = 443 if scheme == "https" else 80
        super().__init__(host, port)
        self.sock = sock
        self.auto_open = 0


class Lines:
    """Free connections by place, for the files of one job. Safe for any thread; at its end all are closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[Place, list[Line]] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            free = [line for lines in self._free.values() for line in lines]
            self._free.clear()
        for line in free:
            line.close()

    def take(self, where: Place) -> Line | None:
        """A connection to that place on which nothing is on its way, and which the server has not closed."""
        while True:
            with self._lock:
                line = self._free.get(where, []).pop() if self._free.get(where) else None
            if line is None or not _has_ended(line):
                return line
            line.close()

    def give(self, where: Place, line: Line) -> None:
        """Nothing is on its way on this connection, and nobody else has it."""
        with self._lock:
            free = self._free.setdefault(where, [])
            if not self._closed and len(free) < KEPT:
                free.append(line)
                return
        line.close()


def _has_ended(line: Line) -> bool:
    """Whether there is something to read although nothing was asked: the end, or what no server should send."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(line.sock, select.POLLIN)
        return bool(poll.poll(0))
    return True
