"""From a host's name to a connected socket: looked up and judged once, timed, and stopped promptly."""

import contextlib
import errno
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable

from shared.errors import Forbidden, ModelyardError
from workers.sources.wire.route import Place, Route

POLL_SECONDS = 0.1


class Stopped(Exception):
    """The transfer is ending; whoever sees this just returns."""


def dial(route: Route, where: Place, stop: threading.Event, hold: Callable[[socket.socket], None]) -> socket.socket:
    """A connected socket, with the read timeout set.

    Args:
        hold: told of each socket before it blocks, so that another thread can shut it down.

    Raises:
        Stopped: `stop` was set.
        Forbidden: `source_not_allowed`, or `tls_error`.
        Unavailable: the name has no address.
        OSError: no address answers.
    """
    scheme, host, port = where
    failure = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    for address in _addresses(route, host, port, stop):
        try:
            plain = _open(route, address, port, stop, hold)
        except OSError as error:
            failure = error
            continue
        return _secure(route, plain, host, hold) if scheme == "https" else plain
    raise failure


def _addresses(route: Route, host: str, port: int, stop: threading.Event) -> tuple[str, ...]:
    """Look the name up on a thread of its own: the system's resolver can be neither timed nor interrupted."""
    found: queue.SimpleQueue[tuple[str, ...] | ModelyardError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(route.policy.addresses(host, port))
        except ModelyardError as refused:
            found.put(refused)

    threading.Thread(target=look_up, name="fetch-resolve", daemon=True).start()
    until = time.monotonic() + route.settings.connect_timeout
    while time.monotonic() < until and not stop.is_set():
        with contextlib.suppress(queue.Empty):
            answer = found.get(timeout=POLL_SECONDS)
            if isinstance(answer, ModelyardError):
                raise answer
            return answer
    if stop.is_set():
        raise Stopped
    raise TimeoutError


def _open(
    route: Route, address: str, port: int, stop: threading.Event, hold: Callable[[socket.socket], None]
) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        hold(sock)
        sock.setblocking(False)
        code = sock.connect_ex((address, port))
        if code == errno.EINPROGRESS:
            code = _connected(sock, time.monotonic() + route.settings.connect_timeout, stop)
        if code:
            raise OSError(code, os.strerror(code))
        sock.settimeout(route.settings.read_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _connected(sock: socket.socket, until: float, stop: threading.Event) -> int:
    """Wait for a connect to end; its errno."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while time.monotonic() < until:
        if stop.is_set():
            raise Stopped
        if poll.poll(POLL_SECONDS * 1000):
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.ETIMEDOUT


def _secure(route: Route, plain: socket.socket, host: str, hold: Callable[[socket.socket], None]) -> socket.socket:
    secured = route.tls().wrap_socket(plain, server_hostname=host.rstrip("."), do_handshake_on_connect=False)
    hold(secured)
    try:
        secured.do_handshake()
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        secured.close()
        raise
    except ssl.SSLError as error:
        secured.close()
        reason = getattr(error, "verify_message", "") or error.reason or "the handshake failed"
        raise Forbidden(
            "tls_error",
            f"{host} cannot be trusted: {reason.lower().replace('_', ' ')}.",
            "If the certificate is your own authority's, set MODELYARD_SOURCES__CA_BUNDLE to its file.",
        ) from error
    except BaseException:
        secured.close()
        raise
    return secured
