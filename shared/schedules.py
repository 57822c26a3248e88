"""What is done by the clock: the table of it, when each has its turn, and what a turn asks for.

A new one is one entry of `SCHEDULES`. What it does is either a choice of jobs (`asks`), or a chore of the workers under
its name (`workers/upkeep.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import time
from enum import StrEnum
from typing import Any

from sqlmodel import Session

from shared.contract import Contract
from shared.contracts import Cleanup, HealthCheck, Scan, Scrub, UpdateCheck
from shared.db import health, nodes, retention, schedules, upkeep
from shared.db.devices import clock
from shared.db.session import Database
from shared.db.tables import Job
from shared.errors import Conflict, Invalid, NotFound
from shared.jobs import Ledger
from shared.limits import Day, Window
from shared.retention import decide
from shared.settings import Settings
from shared.states import HealthLevel

DAY = 86_400.0
HOUR = 3600.0
MINUTE = 60.0
LOOK_SECONDS = MINUTE
"""Shortest time between two turns."""
FRESH_SHARE = 0.5
"""Of the period, how old a proof must be before a scrub comes for it: with few models each would come too often."""
ASKED_SECONDS = 600.0
"""How long a worker that was away still does what somebody asked for."""
AT_A_TIME = 10
"""Models that are looked at, or asked, in one turn: what is due together is spread."""
ORIGIN = "schedule"


class Place(StrEnum):
    """Where a schedule has a turn of its own."""

    ANYWHERE = "anywhere"
    """One for the whole service."""
    STORE = "store"
    """One for each store."""
    NODE = "node"
    """One for each machine."""


Ask = Callable[[Session, Settings, float], Sequence[Contract]]
"""Which jobs are due, as rows tell; given the seconds between two of the same, 0 where somebody asked."""


def _as_every(_: Session, every: float) -> float:
    return every


@dataclass(frozen=True)
class Schedule:
    """Something that is done by the clock."""

    name: str
    does: str
    every: Callable[[Settings], float]
    """Seconds, unless people want others; 0: only where they do."""
    asks: Ask | None = None
    """None: a chore of the workers."""
    slot: Callable[[Session, float], float] = _as_every
    """Seconds between two turns, where `every` is the time within which each model comes up once."""
    place: Place = Place.ANYWHERE
    wants_disk: bool = False
    """Not while the store's disk is away."""
    setting: str | None = None
    """The variable that says how often."""
    fixed: bool = False
    """The service relies on it, so nobody changes it."""


def _scrub(session: Session, _: Settings, every: float) -> list[Contract]:
    due = upkeep.next_to_scrub(session, every * FRESH_SHARE)
    return [] if due is None else [Scrub(model_id=due.model_id)]


def _update_check(session: Session, _: Settings, every: float) -> list[Contract]:
    due = upkeep.next_to_ask(session, every)
    return [] if due is None else [UpdateCheck(model_id=due.model_id)]


def _cleanup(session: Session, settings: Settings, _: float) -> list[Contract]:
    """Where something may leave: to say so, or to have it leave."""
    policy, world = retention.policy(session, settings.retention), retention.look(session)
    found = decide(policy, world.now, world.disk, world.models, world.shares)
    return [Cleanup(dry_run=not policy.automatic, node=node) for node in nodes.one_of_each(session) if found.leave]


def _look(session: Session, _: Settings, every: float) -> list[HealthCheck]:
    due = health.next_to_look_at(session, every, AT_A_TIME)
    return [HealthCheck(model_id=model_id) for model_id in due]


def _ask(session: Session, _: Settings, every: float) -> list[HealthCheck]:
    due = health.next_to_ask(session, every, AT_A_TIME)
    return [HealthCheck(model_id=model_id, level=HealthLevel.LIVE) for model_id in due]


def _rescan(session: Session, *_: object) -> list[Scan]:
    return [Scan(node=node) for node in nodes.one_of_each(session)]


def _every_minute(*_: object) -> float:
    return LOOK_SECONDS


def _one_by_one(session: Session, every: float) -> float:
    return max(every / max(upkeep.count_kept(session), 1), LOOK_SECONDS)


def _within_the_hour(session: Session, every: float) -> float:
    """Twice as often as each model's share of the time, as some are always found not to be due yet."""
    return min(max(_one_by_one(session, every) / 2, LOOK_SECONDS), HOUR)


SCHEDULES = {
    one.name: one
    for one in (
        Schedule(
            "rescue", "Finds lost jobs and sends them on their way again.", lambda its: its.jobs.rescue_seconds,
            setting="MODELYARD_JOBS__RESCUE_SECONDS", fixed=True,
        ),
        Schedule(
            "scrub", "Has every model of the store proven once in this time, one after another.",
            lambda its: its.store.scrub_days * DAY, _scrub, _one_by_one, wants_disk=True,
            setting="MODELYARD_STORE__SCRUB_DAYS",
        ),
        Schedule(
            "update-check", "Asks the source of every model once in this time for a newer revision.",
            lambda its: its.store.update_check_days * DAY, _update_check, _within_the_hour,
            setting="MODELYARD_STORE__UPDATE_CHECK_DAYS",
        ),
        Schedule(
            "cleanup", "Says what may leave the disk, and has it leave where the retention policy is automatic.",
            lambda its: its.retention.check_days * DAY, _cleanup, wants_disk=True,
            setting="MODELYARD_RETENTION__CHECK_DAYS",
        ),
        Schedule(
            "health", "Looks at the files and the runner of every model once in this time.",
            lambda its: its.health.look_hours * HOUR, _look, _every_minute, setting="MODELYARD_HEALTH__LOOK_HOURS",
        ),
        Schedule(
            "health-live", "Asks every model that is in memory something tiny once in this time.",
            lambda its: its.health.ask_minutes * MINUTE, _ask, _every_minute, setting="MODELYARD_HEALTH__ASK_MINUTES",
        ),
        Schedule("rescan", "Looks into the folders of MODEL_SCAN_PATH.", lambda _: 0.0, _rescan),
        Schedule("stock", "Writes down what the stores hold.", lambda _: MINUTE, place=Place.NODE),
        Schedule("tidy", "Puts revisions aside that nobody wants any more.", lambda _: HOUR, place=Place.STORE),
        Schedule(
            "empty-trash", "Empties the trash of what lay there for its grace time.", lambda _: HOUR, place=Place.STORE
        ),
        Schedule("prune", "Forgets jobs that ended, and uses of models, long ago.", lambda _: HOUR),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """When a schedule has its turns."""

    enabled: bool
    every: float
    """Seconds."""
    slot: float
    """Seconds between two turns."""
    window: Window | None = None
    """When it may have them."""

    def began(self, moment: float) -> int:
        """The start of this moment's slot, in ms since 1970."""
        return int(moment // self.slot * self.slot * 1000)

    def next(self, moment: float, newest: int | None) -> float:
        """When the next turn is; in the past where it is due."""
        began = self.began(moment)
        if self.window is not None:
            return self.window.opens(moment if newest is None or newest < began else began / 1000 + self.slot)
        return began / 1000 if newest is None or newest < began else began / 1000 + self.slot


def schedule(name: str) -> Schedule:
    """Raises: NotFound."""
    if name not in SCHEDULES:
        raise NotFound("schedule_not_found", f"There is no schedule {name!r}.", f"There are: {', '.join(SCHEDULES)}.")
    return SCHEDULES[name]


def timing(session: Session, settings: Settings, one: Schedule) -> Timing:
    """As it is wanted by people, or else by the settings."""
    wish = schedules.wish(session, one.name)
    every = one.every(settings) if wish.every is None else wish.every
    enabled = every > 0 if wish.enabled is None else wish.enabled and every > 0
    return Timing(enabled, every, one.slot(session, every) if every else HOUR, _window(wish.window))


def _window(told: dict[str, Any] | None) -> Window | None:
    if told is None:
        return None
    start, end = time.fromisoformat(told["start"]), time.fromisoformat(told["end"])
    return Window(tuple(Day(day) for day in told["days"]), start, end, told["time_zone"])


def change(session: Session, settings: Settings, one: Schedule, changes: dict[str, Any]) -> None:
    """From now on it is done so often and then, or not at all; None of something: as the settings say.

    Raises:
        Conflict: code `schedule_fixed`.
        Invalid: code `every_needed`.
    """
    if one.fixed:
        raise Conflict(
            "schedule_fixed", f"The service relies on {one.name!r}, so nobody changes it.", f"Set {one.setting}."
        )
    schedules.put_wish(session, one.name, **changes)
    session.expire_all()
    if schedules.wish(session, one.name).enabled and not timing(session, settings, one).every:
        raise Invalid("every_needed", f"Nothing says how often {one.name!r} is to be done.", "Name `every`, as in 24h.")


def due(database: Database, settings: Settings, one: Schedule, place: str = "") -> "Turn | None":
    """The turn that this caller is to take now, which nobody else is given."""
    name = f"{one.name} {place}" if place else one.name
    with database.reading() as session:
        moment, when = clock(session), timing(session, settings, one)
        newest = schedules.newest_slot(session, name)
        asked = schedules.wish(session, one.name).asked_at if one.asks is None else None
    found = []
    if when.enabled and when.next(moment, newest) <= moment:
        found.append(Turn(one, name, when.began(moment), when.every))
    if asked is not None and moment - asked < ASKED_SECONDS:
        found.append(Turn(one, name, -int(asked * 1000), 0.0))
    return next((turn for turn in found if turn.taken(database, when.slot)), None)


def now(database: Database, settings: Settings, one: Schedule) -> "Turn | None":
    """A turn that somebody asked for; None where the workers take it, at their next look.

    Raises:
        Conflict: code `schedule_fixed`.
    """
    if one.fixed:
        raise Conflict("schedule_fixed", f"{one.name!r} is done every few seconds anyway.", "There is nothing to do.")
    if one.asks is None:
        with database.session() as session:
            schedules.ask_now(session, one.name)
        return None
    with database.reading() as session:
        moment, when = clock(session), timing(session, settings, one)
    turn = Turn(one, one.name, -int(moment * 1000), 0.0)
    turn.taken(database, when.slot)
    return turn


@dataclass(frozen=True)
class Turn:
    """One time that a schedule is done."""

    schedule: Schedule
    name: str
    slot: int
    every: float

    def taken(self, database: Database, seconds: float) -> bool:
        with database.session() as session:
            return schedules.take(session, self.name, self.slot, seconds)

    def ask(self, ledger: Ledger, settings: Settings) -> list[Job]:
        """Ask for what is due, and note it."""
        with ledger.database.reading() as session:
            contracts = self.schedule.asks(session, settings, self.every) if self.schedule.asks else ()
        jobs = [ledger.submit(contract, origin=ORIGIN).job for contract in contracts]
        self.note(ledger.database, {"jobs": [job.id for job in jobs]})
        return jobs

    def note(self, database: Database, outcome: dict[str, object]) -> None:
        with database.session() as session:
            schedules.note(session, self.name, self.slot, outcome)
