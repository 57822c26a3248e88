"""Schedules: each slot's turn is taken once, whoever rings; people change them while they run."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import time as clock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import update

from shared import schedules
from shared.db.schedules import ABANDONED_SECONDS, KEPT_TURNS, last, newest_slot, turns
from shared.db.session import Database
from shared.db.tables import Installation, Model, ScheduleRun
from shared.errors import Conflict, Invalid, NotFound
from shared.jobs import Ledger
from shared.limits import WEEK, Day, Window
from shared.schedules import DAY, SCHEDULES, Schedule, Timing, Turn
from shared.settings import Settings
from shared.states import Holder, InstallationState
from workers.upkeep import CHORES

HOURLY = Schedule("hourly", "For the tests.", lambda _: 3600.0)


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> Schedule:
    monkeypatch.setitem(SCHEDULES, HOURLY.name, HOURLY)
    return HOURLY


def changed(database: Database, settings: Settings, one: Schedule, **changes: float | bool | None) -> None:
    with database.session() as session:
        schedules.change(session, settings, one, changes)


def test_whoever_does_a_schedule_is_there() -> None:
    chores = {one.name for one in SCHEDULES.values() if one.asks is None and not one.fixed}
    assert chores == CHORES.keys()
    assert all(name == one.name and " " not in name for name, one in SCHEDULES.items())


def test_one_of_many_has_the_turn(ledger: Ledger, settings: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: schedules.due(ledger.database, settings, HOURLY), range(8)))
    assert sum(turn is not None for turn in found) == 1
    assert schedules.due(ledger.database, settings, HOURLY, "elsewhere") is not None, "each place has turns of its own"


@pytest.mark.parametrize("killed", [True, False])
def test_a_turn_whose_worker_was_killed_is_somebody_elses(ledger: Ledger, settings: Settings, killed: bool) -> None:
    """One of many has it, some minutes later; of what was noted nobody."""
    first = schedules.due(ledger.database, settings, HOURLY)
    assert first is not None
    if not killed:
        first.note(ledger.database, {})
    with ledger.database.session() as session:
        session.exec(update(ScheduleRun).values(ran_at=ScheduleRun.ran_at - ABANDONED_SECONDS - 1))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: schedules.due(ledger.database, settings, HOURLY), range(8)))
    assert [turn.slot for turn in found if turn] == [first.slot] * killed


@given(
    every=st.floats(60, 1e7), moment=st.floats(1e9, 3e9), later=st.floats(0, 1e8), other=st.floats(60, 1e7)
)  # fmt: skip
def test_no_two_turns_in_a_slot(every: float, moment: float, later: float, other: float) -> None:
    """However its length is changed: after a turn the next is never due in the same slot, and always by its end."""
    first, then = Timing(True, every, every), Timing(True, other, other)
    taken = first.began(moment)
    assert first.next(moment, taken) > moment - 0.001
    again = then.next(moment + later, taken)
    if again <= moment + later:
        assert then.began(moment + later) > taken
    assert again <= moment + later + other + 0.001


MONDAY = 1_767_571_200.0
"""2026-01-05, 00:00 UTC."""


@pytest.mark.parametrize(
    ("moment", "newest", "expected"),
    [
        (0.0, None, 1.0),
        (1.5, None, 1.5),
        (1.5, 1.0, 2.0),
        (4.5, 4.0, 73.0),
        (5.0, None, 73.0),
        (80.0, 1.0, 7 * 24 + 1.0),
    ],
)
def test_in_a_window_turns_are_its_alone(moment: float, newest: float | None, expected: float) -> None:
    """In hours since Monday, with a turn an hour, on Mondays and Thursdays from one to five."""
    when = Timing(True, 3600.0, 3600.0, Window((Day.MON, Day.THU), clock(1), clock(5)))
    slot = None if newest is None else int((MONDAY + newest * 3600) * 1000)
    assert (when.next(MONDAY + moment * 3600, slot) - MONDAY) / 3600 == expected


@given(
    moment=st.floats(1e9, 2e9), days=st.sets(st.sampled_from(WEEK), min_size=1), start=st.times(), end=st.times(),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
)  # fmt: skip
def test_a_window_opens_within_a_week(moment: float, days: set[Day], start: clock, end: clock, zone: str) -> None:
    window = Window(tuple(days), start.replace(microsecond=0), end.replace(microsecond=0), zone)
    opens = window.opens(moment)
    assert moment <= opens <= moment + 8 * DAY
    if opens > moment:
        assert not window.covers(moment)


def test_a_change_counts_at_once_and_may_be_taken_back(database: Database, settings: Settings) -> None:
    one = SCHEDULES["update-check"]
    default = settings.store.update_check_days * DAY
    for changes, expected in (
        ({"every": 3600.0}, (True, 3600.0)),
        ({"enabled": False}, (False, 3600.0)),
        ({"every": None}, (False, default)),
        ({"enabled": None}, (True, default)),
    ):
        changed(database, settings, one, **changes)
        with database.reading() as session:
            when = schedules.timing(session, settings, one)
        assert (when.enabled, when.every) == expected


def test_what_is_off_has_no_turn_but_by_request(ledger: Ledger, settings: Settings, hourly: Schedule) -> None:
    changed(ledger.database, settings, hourly, enabled=False)
    assert schedules.due(ledger.database, settings, hourly) is None
    assert schedules.now(ledger.database, settings, hourly) is None, "the workers do it"
    found = [schedules.due(ledger.database, settings, hourly) for _ in range(3)]
    assert [turn and turn.slot < 0 for turn in found] == [True, None, None]


def test_what_nothing_says_the_time_of_cannot_be_turned_on(database: Database, settings: Settings) -> None:
    one = SCHEDULES["rescan"]
    with pytest.raises(Invalid, match="how often"):
        changed(database, settings, one, enabled=True)
    with database.reading() as session:
        assert not schedules.timing(session, settings, one).enabled
    changed(database, settings, one, enabled=True, every=86_400.0)
    assert schedules.due(database, settings, one) is not None


def test_nobody_changes_what_the_service_relies_on(database: Database, settings: Settings) -> None:
    with pytest.raises(Conflict):
        changed(database, settings, SCHEDULES["rescue"], enabled=False)
    with pytest.raises(Conflict):
        schedules.now(database, settings, SCHEDULES["rescue"])
    with pytest.raises(NotFound, match="rescu"):
        schedules.schedule("rescu")


def test_a_turn_notes_what_it_asked_for(ledger: Ledger, settings: Settings) -> None:
    one = SCHEDULES["rescan"]
    turn = schedules.now(ledger.database, settings, one)
    assert turn is not None
    (job,) = turn.ask(ledger, settings)
    assert (job.kind, job.origin) == ("model.scan", "schedule")
    again = schedules.now(ledger.database, settings, one)
    assert again is not None
    assert [found.id for found in again.ask(ledger, settings)] == [job.id], "the second joins the first"
    with ledger.database.reading() as session:
        run = last(session, ["rescan"])["rescan"]
        assert run.outcome == {"jobs": [job.id]}
        assert run.finished_at is not None
        assert len(turns(session, "rescan", 10)) == 2


def test_what_else_is_written_down_once_is_no_turn(database: Database, settings: Settings) -> None:
    """Marks of entries of a catalogue, and who had the rescue's slots, stand in the same table."""
    with database.session() as session:
        for name in ("catalogue oak", "registry elm", "rescuer", "rescan", "scrub here"):
            session.add(ScheduleRun(name=name, slot=1, ran_at=1.0))
    with database.reading() as session:
        assert sorted(last(session, SCHEDULES)) == ["rescan", "scrub"]


def test_turns_of_long_ago_are_forgotten(database: Database) -> None:
    turn = Turn(HOURLY, "hourly here", 1, 3600.0)
    with database.session() as session:
        session.add(ScheduleRun(name="hourly here", slot=0, ran_at=0.0))
        session.add(ScheduleRun(name="hourly there", slot=0, ran_at=0.0))
    assert turn.taken(database, 3600.0)
    assert not turn.taken(database, 3600.0)
    with database.reading() as session:
        assert [run.slot for run in turns(session, "hourly", KEPT_TURNS)] == [1, 0], "those of another place stay"
        assert newest_slot(session, "hourly here") == 1


def test_each_model_of_the_store_has_a_turn_within_the_time(database: Database, settings: Settings) -> None:
    """What Modelyard does not hold has none, and a revision that is kept for a rollback none of its own."""
    with database.session() as session:
        holders = {"a": Holder.STORE, "b": Holder.STORE, "c": Holder.STORE, "d": Holder.FOLDER}
        about = {"type": "llm", "source": "url", "source_url": "", "created_at": 1.0, "updated_at": 1.0}
        session.add_all(Model(id=name, name=name, **about) for name in holders)
        session.flush()
        for name, holder in holders.items():
            session.add(Installation(
                model_id=name, model_type="llm", revision="r2", previous_revision="r1", holder=holder,
                state=InstallationState.PUBLISHED, path="", size=1, files=1, integrity=1.0, published_at=1.0,
                verified_at=1.0,
            ))  # fmt: skip
    with database.reading() as session:
        when = schedules.timing(session, settings, SCHEDULES["scrub"])
    assert when.slot == settings.store.scrub_days * DAY / 3


def test_many_models_are_done_one_after_another(database: Database, settings: Settings) -> None:
    one = replace(HOURLY, slot=lambda _, every: every / 100)
    with database.reading() as session:
        when = schedules.timing(session, settings, one)
    assert (when.every, when.slot) == (3600.0, 36.0)
