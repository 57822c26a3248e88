"""When a body began: one line per start in a file, the same few microseconds for ours and for the peer.

The no-op bodies of both sides call `note`; who measures reads the file, so that no answer travels through Redis.
"""

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

FILE = "BENCH_STARTS"
SECONDS = "BENCH_BODY_SECONDS"
LOOK_SECONDS = 0.005


@cache
def _file() -> int:
    return os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(name: str) -> None:
    """The whole body of a no-op; where the environment says so, it then takes its time."""
    os.write(_file(), f"{name} {time.time()}\n".encode())
    if seconds := float(os.environ.get(SECONDS, "0")):
        time.sleep(seconds)


class Starts:
    """Reads what bodies have noted."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self._reader = path.open("r")
        self._rest = ""
        self.seen: dict[str, float] = {}
        """Name → seconds since 1970 of the last start."""

    def look(self) -> dict[str, float]:
        """Everything noted so far."""
        *lines, self._rest = (self._rest + self._reader.read()).split("\n")
        for line in lines:
            name, _, at = line.partition(" ")
            self.seen[name] = float(at)
        return self.seen

    def wait(self, count: int, seconds: float) -> None:
        """Raises: TimeoutError where fewer have started in time."""
        self._until(lambda: len(self.look()) >= count, f"{count} starts", seconds)

    def wait_for(self, name: str, seconds: float) -> None:
        """Raises: TimeoutError where that one has not started in time."""
        self._until(lambda: name in self.look(), f"the start of {name}", seconds)

    def _until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                message = f"no {what} within {seconds:g} s, {len(self.seen)} have started"
                raise TimeoutError(message)
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        self._reader.close()
