"""How many connections a file gets: twice as many while that is clearly faster, and no more than were of use."""

from typing import NamedTuple

FEW = 2
"""Connections at the start: one that brings, and one that is on its way while the other waits."""
CLEARLY = 1.25
"""Twice the connections have to bring so much more together, or the new ones close again."""
LOOK_SECONDS = 0.2
"""How long a number of connections is watched at least, so that a short transfer profits, too."""
SETTLING = 3.0
"""And at least so many times as long as new connections took to bring something: far away, they speed up slowly."""
PATIENCE_SECONDS = 2.0
"""New connections that bring nothing for so long are counted as of no use."""
AGAIN_SECONDS = 30.0
"""More are tried again after so long: the way to a server does not stay as it is."""


class Reading(NamedTuple):
    """What so many connections brought together, in bytes per second."""

    width: int
    rate: float


def wider(before: Reading | None, now: Reading, most: int) -> int:
    """How many connections there should be next: up to twice as many, as many as now, or as many as before.

    Args:
        before: what fewer connections brought, None where that is not known.
        most: never more than so many.
    """
    if before is not None and now.rate <= before.rate * CLEARLY:
        return before.width
    return max(now.width, min(now.width * 2, most)) if now.rate else now.width


class _Window(NamedTuple):
    """Bytes are counted from `since` to `until`; `received` had come before."""

    since: float
    until: float
    received: int


class Chooser:
    """Tries numbers of connections on a transfer that goes on. For one thread; the clock is the caller's.

    Args:
        most: connections that it may come to.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._before: Reading | None = None
        self._opened_at: float | None = None
        self._window: _Window | None = None
        self.width = min(FEW, most)

    def look(self, now: float, received: int, bringing: int) -> int:
        """How many connections there should be from now on.

        Args:
            now: seconds.
            received: bytes of all connections together, since the start.
            bringing: connections that have brought something, and still work.
        """
        if self._opened_at is None:
            self._opened_at = now
        if self._window is None:
            waited = now - self._opened_at
            if bringing >= self.width or waited >= PATIENCE_SECONDS:
                self._window = _Window(now, now + max(LOOK_SECONDS, SETTLING * waited), received)
        elif now >= self._window.until:
            rate = (received - self._window.received) / (now - self._window.since)
            self._decide(Reading(self.width, rate), now, received)
        return self.width

    def _decide(self, reading: Reading, now: float, received: int) -> None:
        self.width = wider(self._before, reading, self._most)
        if self.width > reading.width:
            self._before, self._opened_at, self._window = reading, None, None
        else:  # what is brought until then is what the next try has to beat
            self._before, self._window = None, _Window(now, now + AGAIN_SECONDS, received)
