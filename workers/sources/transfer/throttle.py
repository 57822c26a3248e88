"""How fast the connections of one job may be together: a token bucket, filled at a rate that may change at any time."""

import math
import threading
import time

from workers.sources.wire.dial import Stopped

BURST_SECONDS = 0.2
"""What a job that was slower for a moment may catch up."""
SLICE_SECONDS = 0.05
LEAST_SLICE_BYTES = 4096
"""A read takes so much at a time, so that several connections take turns and a new rate is soon felt."""
WAIT_SECONDS = 0.1
HOLDING_SECONDS = 1.0
MEASURE_SECONDS = 0.25
HEADROOM = 1.25
LEAST_DEMAND = 64 * 1024
"""A download that uses less than it may is left more than it uses, so that it shows when it could use more."""


class Throttle:
    """Shared by all connections of a job. Safe for any thread; costs nothing while there is no limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rate = math.inf
        """Bytes a second; `allow` changes it."""
        self._tokens = 0.0
        self._filled_at = time.monotonic()
        self._held_at = -math.inf
        self._taken = 0
        self._measured_at = math.inf
        self._demand = math.inf

    def allow(self, rate: float) -> None:
        """From now on so many bytes a second; infinite: as fast as it goes."""
        with self._lock:
            self._fill()
            if self.rate == math.inf:
                self._measured_at, self._taken, self._demand, self._tokens = self._filled_at, 0, math.inf, 0.0
            self.rate = rate

    def take(self, want: int, stop: threading.Event) -> int:
        """Wait until something may be read, and answer how much of `want` that is.

        Raises:
            Stopped: `stop` was set meanwhile.
        """
        if self.rate == math.inf:
            return want
        while (granted := self._grant(want)) == 0:
            with self._lock:
                missing = -self._tokens / self.rate if self.rate else WAIT_SECONDS
            if stop.wait(min(missing + 0.001, WAIT_SECONDS)):
                raise Stopped
        return granted

    def give_back(self, count: int) -> None:
        """Bytes that were granted did not come."""
        with self._lock:
            self._tokens += count
            self._taken -= count

    @property
    def holding(self) -> bool:
        """Whether it has kept a connection waiting within the last second, so that the server is not to blame."""
        return time.monotonic() - self._held_at < HOLDING_SECONDS

    def demand(self) -> float:
        """Bytes a second that the job can use, judged by what it took under its rate; infinite where unknown."""
        with self._lock:
            now, since = time.monotonic(), self._measured_at
            if now - since >= MEASURE_SECONDS:
                used = max(LEAST_DEMAND, HEADROOM * self._taken / (now - since))
                self._demand = math.inf if self._held_at >= since else used
                self._measured_at, self._taken = now, 0
            return self._demand

    def _grant(self, want: int) -> int:
        with self._lock:
            if self.rate == math.inf:
                return want
            self._fill()
            if self._tokens <= 0:
                self._held_at = time.monotonic()
                return 0
            granted = min(want, max(LEAST_SLICE_BYTES, int(self.rate * SLICE_SECONDS)))
            self._tokens -= granted
            self._taken += granted
            return granted

    def _fill(self) -> None:
        now = time.monotonic()
        if self.rate != math.inf:
            self._tokens = min(self.rate * BURST_SECONDS, self._tokens + self.rate * (now - self._filled_at))
        self._filled_at = now
