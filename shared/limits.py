"""How much downloads may take: bytes a second and jobs at a time, for all of them or some, always or in a window."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from shared.refs import SourceKind
from shared.states import Priority


class Day(StrEnum):
    """In the order of `datetime.weekday`."""

    MON = "MON"
    TUE = "TUE"
    WED = "WED"
    THU = "THU"
    FRI = "FRI"
    SAT = "SAT"
    SUN = "SUN"


WEEK = tuple(Day)


@dataclass(frozen=True)
class Window:
    """A part of some days of the week. One that does not end after its start ends on the next day."""

    days: tuple[Day, ...]
    start: time
    end: time
    time_zone: str = "UTC"
    """By its IANA name, such as Europe/Berlin."""

    def covers(self, moment: float) -> bool:
        """Whether a moment, in seconds since 1970, lies in it."""
        local = datetime.fromtimestamp(moment, ZoneInfo(self.time_zone))
        clock, today = local.time(), WEEK[local.weekday()] in self.days
        if self.start < self.end:
            return today and self.start <= clock < self.end
        since_yesterday = WEEK[local.weekday() - 1] in self.days
        return (today and clock >= self.start) or (since_yesterday and clock < self.end)

    def opens(self, moment: float) -> float:
        """The first moment from then on that lies in it."""
        if self.covers(moment):
            return moment
        zone = ZoneInfo(self.time_zone)
        today = datetime.fromtimestamp(moment, zone).date()
        days = (today + timedelta(number) for number in range(len(WEEK) + 1))
        starts = (
            datetime.combine(day, self.start, zone).timestamp() for day in days if WEEK[day.weekday()] in self.days
        )
        return next(start for start in starts if start >= moment)


@dataclass(frozen=True)
class Limit:
    """What the downloads of a source, of a priority, of both or of all may take together, while its window is open."""

    name: str
    source: SourceKind | None = None
    priority: Priority | None = None
    bytes_per_second: int | None = None
    jobs: int | None = None
    """Most of them that may run at a time."""
    window: Window | None = None

    def holds(self, moment: float) -> bool:
        return self.window is None or self.window.covers(moment)

    def concerns(self, source: str, priority: int) -> bool:
        """Whether it counts for a download from that source at that priority."""
        return self.source in (None, source) and self.priority in (None, priority)


def holding(limits: Iterable[Limit], moment: float) -> list[Limit]:
    """Those that count at a moment. Where several concern a download, it keeps all of them."""
    return [limit for limit in limits if limit.holds(moment)]


@dataclass(frozen=True)
class Fetch:
    """A job that brings bytes, as far as limits ask."""

    job_id: str
    source: str
    priority: int


def admitted(limits: Iterable[Limit], running: Iterable[Fetch], waiting: Iterable[Fetch]) -> list[Fetch]:
    """Those of `waiting`, which come in the order of their turn, that may run beside what runs.

    One that has no room keeps nobody back whom other limits concern.
    """
    room = {limit: limit.jobs for limit in limits if limit.jobs is not None}
    for fetch in running:
        for limit in _concerning(room, fetch):
            room[limit] -= 1
    found = []
    for fetch in waiting:
        mine = _concerning(room, fetch)
        if all(room[limit] > 0 for limit in mine):
            found.append(fetch)
            for limit in mine:
                room[limit] -= 1
    return found


def displaced(limits: Collection[Limit], running: Sequence[Fetch], waiting: Fetch) -> Fetch | None:
    """The first that runs without which a waiting one would have room; None where it has, or one is not enough."""
    if admitted(limits, running, [waiting]):
        return None
    return next(
        (one for one in running if admitted(limits, [other for other in running if other != one], [waiting])), None
    )


def _concerning(limits: Iterable[Limit], fetch: Fetch) -> list[Limit]:
    return [limit for limit in limits if limit.concerns(fetch.source, fetch.priority)]
