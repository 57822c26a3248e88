"""A runner for the length of a block, and a client of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx

from workers.runtimes.base import Server

S = TypeVar("S", bound=Server)


@contextmanager
def ready(server: S) -> Iterator[S]:
    """Wait for it, and stop it at the end."""
    try:
        server.wait_ready(lambda: None)
        yield server
    finally:
        server.stop(5)


@contextmanager
def client_of(server: Server, key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client
