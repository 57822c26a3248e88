"""What the machine itself can do, measured in the run whose figures it limits."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import redis

SECONDS = 1.0
PAGE = 4096


def syncs(folder: Path) -> float:
    """Pages written and synced per second, one after another, on the disk of that folder."""
    file = os.open(folder / "sync.probe", os.O_CREAT | os.O_WRONLY, 0o600)
    page = b"x" * PAGE

    def write() -> None:
        os.pwrite(file, page, 0)
        os.fsync(file)

    try:
        return _per_second(write)
    finally:
        os.close(file)


def round_trips(url: str) -> float:
    """PINGs to that Redis per second, one after another."""
    with redis.Redis.from_url(url) as client:
        return _per_second(client.ping)


def _per_second(call: Callable[[], object]) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        call()
        count += 1
    return count / (time.perf_counter() - began)
