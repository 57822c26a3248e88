"""Ways to load a model that failed a moment ago: each try may put others out of memory, so they rest meanwhile."""

import time

from shared.fallback import Rung
from shared.routing import FAILED_SECONDS, LONGEST_FAILED_SECONDS


class Setbacks:
    """Of one device, for as long as its worker runs; used by one job at a time."""

    def __init__(self) -> None:
        self._failed: dict[Rung, tuple[int, float]] = {}

    def note(self, way: Rung) -> None:
        """It failed; the pause before the next try doubles each time."""
        times, _ = self._failed.get(way, (0, 0.0))
        pause = min(FAILED_SECONDS * 2**times, LONGEST_FAILED_SECONDS)
        self._failed[way] = (times + 1, time.monotonic() + pause)

    def forget(self, way: Rung) -> None:
        """It worked."""
        self._failed.pop(way, None)

    def rests(self, way: Rung) -> bool:
        """Is it too soon to try again?"""
        return way in self._failed and time.monotonic() < self._failed[way][1]
