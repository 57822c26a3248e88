"""Addresses and TCP ports of this machine."""

import contextlib
import ipaddress
import random
import socket
import time
from pathlib import Path

LOOPBACK = "127.0.0.1"
DYING_SECONDS = 2
LOWEST_PORT = 20_000
TRIES = 100


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a connection of yesterday's server that is not quite forgotten does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
        return True


def becomes_free(host: str, port: int) -> bool:
    """Whether a server could listen there now or in a moment: one that was killed just now may still be dying."""
    deadline = time.monotonic() + DYING_SECONDS
    while not is_free(host, port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on, and that the system gives to no outgoing connection.

    A server that dies finds it free when it comes back; and a client that calls meanwhile cannot be given the very
    port that it calls, which would connect it to itself and keep the server out.
    """
    for _ in range(TRIES):
        port = random.randrange(LOWEST_PORT, max(_first_outgoing(), LOWEST_PORT + 1))
        if is_free(host, port):
            return port
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.bind(address)
        return int(probe.getsockname()[1])


def _first_outgoing() -> int:
    """The lowest port of outgoing connections; Linux tells, elsewhere what the standard says."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    return 32_768


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable(host: str) -> str:
    """The host part of a URL under which this machine reaches a server that listens there."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            return LOOPBACK if address.version == 4 else "[::1]"  # noqa: PLR2004 - IPv4
        return host if address.version == 4 else f"[{host}]"  # noqa: PLR2004 - IPv4
    return host
