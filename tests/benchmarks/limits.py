"""What the machine itself can do, measured in the run whose figures it limits."""

import hashlib
import http.client
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import redis

SECONDS = 1.0
PAGE = 4096
BLOCK_BYTES = 1024**2


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


def writes(folder: Path, size: int) -> float:
    """Bytes per second that reach the disk of that folder: one file of so many bytes, synced at its end."""
    probe, block = folder / "write.probe", os.urandom(BLOCK_BYTES)
    began = time.perf_counter()
    with probe.open("wb", buffering=0) as file:
        for _ in range(size // BLOCK_BYTES):
            file.write(block)
        os.fdatasync(file.fileno())
    taken = time.perf_counter() - began
    probe.unlink()
    return size / taken


def loopback(url: str) -> float:
    """Bytes per second that one connection brings of a file, when nobody keeps them."""
    parts, buffer, done = urlsplit(url), bytearray(BLOCK_BYTES), 0
    began = time.perf_counter()
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", parts.path)
    with connection.getresponse() as answer:
        while count := answer.readinto(buffer):
            done += count
    connection.close()
    return done / (time.perf_counter() - began)


def sha256() -> float:
    """Bytes per second that one core hashes."""
    block = bytes(BLOCK_BYTES)
    digest = hashlib.sha256()
    return _per_second(lambda: digest.update(block)) * BLOCK_BYTES


def _per_second(call: Callable[[], object]) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        call()
        count += 1
    return count / (time.perf_counter() - began)
