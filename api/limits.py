"""Limits on downloads, as requests say them and answers show them."""

from datetime import time
from typing import Annotated, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from api.bodies import Body
from api.views import PriorityName, View
from shared.limits import WEEK, Day, Limit, Window
from shared.refs import SourceKind
from shared.states import Priority

LimitName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


def _time_zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("it is no time zone; they are named as in Europe/Berlin or UTC")
    return value


class WindowBody(Body):
    """When a limit counts. Where it ends no later than it starts, it ends on the next day."""

    days: Annotated[
        list[Annotated[Day, Field(strict=False)]], Field(min_length=1, max_length=7, default_factory=lambda: list(WEEK))
    ]
    start: Clock
    end: Clock
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"


class LimitBody(Body):
    """What downloads may take together: those of a source, of a priority, of both, or all."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "bytesPerSecond": 20_000_000,
        "window": {"days": ["MON", "TUE", "WED", "THU", "FRI"], "start": "08:00", "end": "18:00"},
    }]})  # fmt: skip

    source: Annotated[SourceKind, Field(strict=False)] | None = None
    priority: PriorityName | None = None
    bytes_per_second: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    jobs: Annotated[int, Field(ge=1, lt=2**31, description="Most downloads at a time.")] | None = None
    window: WindowBody | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.bytes_per_second is None and self.jobs is None:
            raise ValueError("it limits nothing: bytesPerSecond, jobs or both are needed")
        return self

    def limit(self, name: str) -> Limit:
        priority = None if self.priority is None else Priority[self.priority]
        return Limit(name, self.source, priority, self.bytes_per_second, self.jobs, _window(self.window))


def _window(body: WindowBody | None) -> Window | None:
    if body is None:
        return None
    days = tuple(day for day in WEEK if day in body.days)
    return Window(days, time.fromisoformat(body.start), time.fromisoformat(body.end), body.time_zone)


class WindowView(View):
    days: list[Day]
    start: str
    end: str
    time_zone: str


class LimitView(View):
    name: str
    source: SourceKind | None
    priority: PriorityName | None
    bytes_per_second: int | None
    jobs: int | None
    window: WindowView | None
    in_force: bool
    """Whether it counts now."""


class LimitsView(View):
    limits: list[LimitView]


def view_limit(limit: Limit, *, in_force: bool) -> LimitView:
    window = limit.window
    return LimitView(
        name=limit.name, source=limit.source, priority=None if limit.priority is None else limit.priority.name,
        bytes_per_second=limit.bytes_per_second, jobs=limit.jobs, in_force=in_force,
        window=None if window is None else WindowView(
            days=list(window.days), start=window.start.isoformat("minutes"), end=window.end.isoformat("minutes"),
            time_zone=window.time_zone,
        ),
    )  # fmt: skip
