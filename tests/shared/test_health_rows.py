"""What checks find is kept and told, and who is next is found, on both databases."""

from typing import Any

import pytest
from sqlmodel import select, update

from shared.contracts import HealthCheck
from shared.db import catalog, health
from shared.db.facts import Facts
from shared.db.health import Found
from shared.db.reports import ModelHealth, StoreReport
from shared.db.tables import Installation, Job, Residency
from shared.jobs import Ledger
from shared.states import Health

HOUR = 3600.0


@pytest.fixture
def yard(ledger: Ledger) -> Ledger:
    """`one` and `two` are installed, and were proven a day ago."""
    with ledger.database.session() as session:
        for model_id in ("one", "two"):
            session.add(
                Installation(
                    model_id=model_id, model_type="llm", revision="1", state="published", path="/x", size=1, files=1,
                    integrity=1.0, published_at=0.0, verified_at=1.0,
                )
            )  # fmt: skip
    age(ledger, Installation, "published_at", 24 * HOUR)
    return ledger


def age(yard: Ledger, table: Any, column: str, seconds: float) -> None:
    """As if it had been so many seconds ago."""
    with yard.database.session() as session:
        session.exec(update(table).values(**{column: health.now() - seconds}))


def check(yard: Ledger, job_id: str, *outcomes: bool, model_id: str = "one", **found: Any) -> Any:
    with yard.database.session() as session:
        installation = catalog.installation(session, model_id)
        assert installation is not None
        reasons = [] if all(outcomes) else [{"code": "bad_answer", "message": "None."}]
        return health.record(session, installation, Found(job_id, outcomes, **{"reasons": reasons, **found}))


def told(yard: Ledger) -> tuple[Health, ModelHealth | None]:
    with yard.database.reading() as session:
        facts = Facts(session, ["one", "two"])
        return facts.health("one"), facts.checks_of("one")


def row(yard: Ledger) -> ModelHealth:
    found = told(yard)[1]
    assert found is not None
    return found


@pytest.mark.fault("F-48")
def test_three_of_five_make_it_unhealthy_and_three_in_a_row_well(yard: Ledger) -> None:
    assert told(yard) == (Health.HEALTHY, None), "its bytes were proven"
    seen = [check(yard, f"job {number}", outcome)[1] for number, outcome in enumerate((False, True, False, True))]
    assert set(seen) == {Health.HEALTHY}
    assert not row(yard).unsettled
    assert check(yard, "job 5", False) == (Health.HEALTHY, Health.UNHEALTHY)
    assert row(yard).reasons == [{"code": "bad_answer", "message": "None."}]
    assert [check(yard, f"job {number}", True)[1] for number in (6, 7)] == [Health.UNHEALTHY] * 2
    assert row(yard).reasons, "why is told until it is over"
    assert check(yard, "job 8", True) == (Health.UNHEALTHY, Health.HEALTHY)
    assert row(yard).reasons == []
    assert len(row(yard).outcomes) == 5


def test_a_job_that_is_done_twice_counts_once(yard: Ledger) -> None:
    for _ in range(5):
        check(yard, "the same", False)
    assert row(yard).outcomes == [False]


def test_a_look_that_finds_nothing_changes_no_mind(yard: Ledger) -> None:
    for number in range(3):
        check(yard, f"job {number}", False)
    check(yard, "a look")
    assert (told(yard)[0], len(row(yard).reasons)) == (Health.UNHEALTHY, 1)


def test_of_one_never_proven_a_look_tells_something(yard: Ledger) -> None:
    with yard.database.session() as session:
        session.exec(update(Installation).values(verified_at=0.0))
    assert told(yard)[0] is Health.UNKNOWN
    assert check(yard, "a look") == (Health.UNKNOWN, Health.HEALTHY)


def test_damage_is_told_at_once_and_what_is_published_anew_begins_anew(yard: Ledger) -> None:
    for number in range(3):
        check(yard, f"job {number}", False)
    with yard.database.session() as session:
        session.exec(update(Installation).values(state="corrupt"))
    assert check(yard, "a look") == (Health.UNHEALTHY, Health.CORRUPTED)
    with yard.database.session() as session:
        session.exec(update(Installation).values(state="published", published_at=health.now()))
    assert told(yard) == (Health.HEALTHY, None)
    assert check(yard, "another") == (Health.CORRUPTED, Health.HEALTHY), "the change is told once more"


def test_what_was_found_of_one_that_is_gone_or_replaced_is_forgotten(yard: Ledger) -> None:
    with yard.database.reading() as session:
        before = catalog.installation(session, "one")
        assert before is not None
    with yard.database.session() as session:
        session.exec(update(Installation).values(published_at=health.now()))
        assert health.record(session, before, Found("job", (False,))) is None
        catalog.forget_model(session, "one")
    with yard.database.session() as session:
        assert health.record(session, before, Found("job", (False,))) is None
        assert session.exec(select(ModelHealth)).all() == []


def test_times_are_kept_of_one_device_and_few_of_them(yard: Ledger) -> None:
    def of(device: str, load: float, residency: str) -> Residency:
        return Residency(
            id=residency, model_id="one", model_type="llm", revision="1", device=device, runtime="torch", state="ready",
            load_seconds=load, context_length=256, started_at=1.0,
        )  # fmt: skip

    for number in range(30):
        load = of("cpu", 2.0, f"r{number // 10}")
        check(yard, f"job {number}", True, seconds=1.0, asked=True, resident=load)
    check(yard, "slow", False, seconds=8.0, asked=True, resident=of("cpu", 2.0, "r2"))
    kept = row(yard)
    assert (len(kept.answers), kept.latest, kept.loads) == (20, [1.0, 1.0, 8.0], [2.0] * 3)
    assert kept.live_at is not None
    check(yard, "elsewhere", True, seconds=3.0, resident=of("gpu-1", 5.0, "r3"))
    assert (row(yard).answers, row(yard).loads) == ([3.0], [5.0])


def next_(yard: Ledger, hours: float = 6) -> list[str]:
    with yard.database.reading() as session:
        return health.next_to_look_at(session, hours * HOUR, 10)


def restart(yard: Ledger) -> None:
    with yard.database.session() as session:
        health.look_again(session)


def test_who_was_never_looked_at_is_first(yard: Ledger) -> None:
    assert next_(yard) == ["one", "two"]
    check(yard, "a look")
    assert next_(yard) == ["two"]
    age(yard, ModelHealth, "checked_at", 7 * HOUR)
    assert next_(yard) == ["two", "one"]
    assert next_(yard, hours=8) == ["two"]
    restart(yard)
    assert next_(yard, hours=8) == ["two", "one"], "it was looked at before the last start"
    check(yard, "another look")
    restart(yard)
    assert next_(yard) == ["two"], "a moment ago"
    age(yard, Installation, "published_at", 10)
    assert next_(yard) == [], "both were proven a moment ago"


def test_who_is_in_memory_is_asked(yard: Ledger) -> None:
    def asks() -> list[str]:
        with yard.database.reading() as session:
            return health.next_to_ask(session, 0.5 * HOUR, 10)

    with yard.database.session() as session:
        for model_id, state in (("one", "ready"), ("two", "draining")):
            session.add(
                Residency(
                    id=model_id, model_id=model_id, model_type=model_id, revision="1", device="cpu", runtime="torch",
                    state=state, started_at=1.0,
                )
            )  # fmt: skip
    assert asks() == ["one"]
    with yard.database.reading() as session:
        rows, resident = health.resident(session, catalog.installed(session, "one"))
    assert rows == [resident]
    check(yard, "asked", True, asked=True, resident=resident)
    assert asks() == []
    age(yard, ModelHealth, "live_at", HOUR)
    assert asks() == ["one"]
    check(yard, "asked again", False, asked=True, resident=resident)
    age(yard, ModelHealth, "live_at", 61)
    assert asks() == ["one"], "it surprised"
    with yard.database.session() as session:
        session.exec(update(Installation).values(revision="2"))
        assert health.resident(session, catalog.installed(session, "one"))[1] is None
    assert asks() == [], "what is in memory is of an earlier revision"
    with yard.database.session() as session:
        session.exec(update(Installation).values(revision="1", state="corrupt"))
    assert asks() == [], "nobody doubts that it is damaged"
    with yard.database.session() as session:
        session.exec(update(Installation).values(state="published"))
    assert asks() == ["one"]
    age(yard, Residency, "started_at", 10)
    assert asks() == [], "it was probed a moment ago"


def test_what_cannot_be_told_is_not_asked_on_and_on(yard: Ledger) -> None:
    assert next_(yard) == ["one", "two"]
    yard.submit(HealthCheck(model_id="one"), origin="schedule")
    assert next_(yard) == ["two"], "its disk is away, perhaps"
    age(yard, Job, "created_at", 700)
    assert next_(yard) == ["one", "two"]
    with yard.database.session() as session:
        session.add(StoreReport(store="s", node="n", there=False, measured_at=1.0))
    assert next_(yard) == []
