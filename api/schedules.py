"""Schedules, as requests say them and answers show them."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from api.bodies import Body
from api.limits import WindowBody, WindowView
from api.views import ErrorView, JobView, View, moment
from shared import schedules
from shared.db.devices import clock
from shared.db.schedules import last, newest_slot, turns, wish
from shared.db.session import Database
from shared.db.tables import ScheduleRun
from shared.schedules import DAY, HOUR, LOOK_SECONDS, MINUTE, SCHEDULES, Place, Schedule
from shared.settings import Settings

LONGEST = 3660 * DAY
UNITS = {"s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
TOLD_TURNS = 20


def _seconds(value: float | str | None) -> float | None:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?([smhdw])", value.strip().lower())
        if match is None:
            raise ValueError("write it as 90s, 15m, 6h, 7d or 2w, or as a number of seconds")
        value = float(match[1]) * UNITS[match[2]]
    if value is not None and not LOOK_SECONDS <= value <= LONGEST:
        raise ValueError("it is between one minute and ten years")
    return value


class ScheduleChange(Body):
    """What is left out stays; null: as the settings say."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"every": "12h"}, {"enabled": False}]})

    enabled: bool | None = None
    every: Annotated[
        float | str | None, Field(description="Such as 90s, 15m, 6h, 7d or 2w, or seconds."), AfterValidator(_seconds)
    ] = None

    window: Annotated[WindowBody | None, Field(description="It has its turns then only; null: at any time.")] = None

    def changes(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True, exclude={"window"}) | self._window()

    def _window(self) -> dict[str, Any]:
        """Whole, with what was left out of it."""
        told = None if self.window is None else self.window.model_dump(mode="json")
        return {"window": told} if "window" in self.model_fields_set else {}


class TurnView(View):
    """One time that it was done."""

    at: datetime
    asked: bool = Field(description="Somebody wanted it; else it was due.")
    place: str | None = Field(None, description="The store or the machine, where each has turns of its own.")
    finished_at: datetime | None = Field(None, description="Null while it is done, or where its worker died.")
    jobs: list[str] = Field([], description="Ids of what it asked for; none where nothing was due.")
    result: dict[str, Any] | None = None
    error: ErrorView | None = None


class ScheduleView(View):
    """Something that is done by the clock. Times are seconds."""

    name: str
    does: str
    enabled: bool
    every: float = Field(description="Where it comes to one model after another: the time within which each has one.")
    seconds_between: float = Field(description="Two turns.")
    window: WindowView | None = Field(None, description="When it has its turns; null: at any time.")
    place: Place
    changeable: bool
    changed: bool = Field(description="Somebody wants it otherwise than the settings say.")
    default_every: float = Field(description="What the settings say; 0: not at all.")
    setting: str | None
    last_run: TurnView | None
    next_run: datetime | None = Field(description="Null where it is off.")


class SchedulesView(View):
    schedules: list[ScheduleView]


class ScheduleDetail(ScheduleView):
    runs: list[TurnView]


class AskedView(View):
    schedule: ScheduleView
    jobs: list[JobView] = Field(description="What it asked for. Empty: nothing is there to do it to.")
    by_workers: bool = Field(description="It is no job: the workers do it at their next look, within seconds.")


def view(database: Database, settings: Settings) -> SchedulesView:
    """All of them."""
    with database.reading() as session:
        newest = last(session, SCHEDULES)
    return SchedulesView(schedules=[_view(database, settings, one, newest.get(one.name)) for one in SCHEDULES.values()])


def view_one(database: Database, settings: Settings, one: Schedule) -> ScheduleDetail:
    """One, with its last turns."""
    with database.reading() as session:
        runs = turns(session, one.name, TOLD_TURNS)
    shown = _view(database, settings, one, runs[0] if runs else None)
    return ScheduleDetail(**shown.model_dump(), runs=[_turn(run) for run in runs])


def _view(database: Database, settings: Settings, one: Schedule, run: ScheduleRun | None) -> ScheduleView:
    with database.reading() as session:
        when, wished, now = schedules.timing(session, settings, one), wish(session, one.name), clock(session)
        newest = newest_slot(session, run.name) if run is not None else None
    changed = any(value is not None for value in (wished.enabled, wished.every, wished.window))
    return ScheduleView(
        name=one.name, does=one.does, enabled=when.enabled, every=when.every, seconds_between=when.slot,
        window=None if wished.window is None else WindowView.model_validate(wished.window),
        place=one.place, changeable=not one.fixed, changed=changed,
        default_every=one.every(settings), setting=one.setting, last_run=None if run is None else _turn(run),
        next_run=moment(max(now, when.next(now, newest))) if when.enabled else None,
    )  # fmt: skip


def _turn(run: ScheduleRun) -> TurnView:
    outcome = run.outcome or {}
    return TurnView(
        at=datetime.fromtimestamp(run.ran_at, UTC), asked=run.slot < 0, place=run.name.partition(" ")[2] or None,
        finished_at=moment(run.finished_at), jobs=outcome.get("jobs", []), result=outcome.get("result"),
        error=ErrorView.model_validate(outcome["error"]) if "error" in outcome else None,
    )  # fmt: skip
