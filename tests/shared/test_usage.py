"""Uses of models are counted, by day and by length, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlmodel import col, func, select, update

from shared.db import usage
from shared.db.reports import UsageCount
from shared.db.session import Database
from shared.db.usage import DAY_SECONDS, KEEP_DAYS, Usage, Use
from shared.states import Priority, priority_of


def noted(database: Database, *seconds: float, model_id: str = "oak", failed: bool = False) -> None:
    with database.session() as session:
        usage.record(session, [Use(model_id, each, failed) for each in seconds])


def of(database: Database, days: int = KEEP_DAYS, model_id: str = "oak") -> Usage:
    with database.reading() as session:
        return usage.total(usage.since(session, days, model_id).get(model_id, {}).values())


def moved(database: Database, days: int) -> None:
    """As if it had been so many days ago."""
    with database.session() as session:
        session.exec(update(UsageCount).values(day=UsageCount.day - days))


def test_uses_add_up(database: Database) -> None:
    noted(database, 1.0, 3.0)
    noted(database, 2.0, failed=True)
    noted(database, 9.0, model_id="ash")
    found = of(database)
    assert (found.uses, found.failures, found.seconds, found.mean_seconds) == (3, 1, 6.0, 2.0)
    assert found.last_used_at == pytest.approx(of(database, model_id="ash").last_used_at, abs=60)


def test_many_who_count_at_once_lose_nothing(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: noted(database, 0.5, 0.5, 7.0), range(20)))
    assert (of(database).uses, of(database).seconds) == (60, 160.0)
    with database.reading() as session:
        assert session.exec(select(func.count()).select_from(UsageCount)).one() == 2, "one row a length"


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_percentiles_are_right_to_a_twentieth(database: Database, share: float) -> None:
    lengths = [0.01 * number for number in range(1, 101)]
    noted(database, *lengths)
    assert of(database).percentile(share) == pytest.approx(share, rel=0.051)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.001])
def test_the_shortest_are_told_as_a_millisecond(database: Database, seconds: float) -> None:
    noted(database, seconds)
    assert of(database).percentile(0.95) == 0.001


def test_nothing_is_known_of_who_was_never_used(database: Database) -> None:
    found = of(database)
    assert (found.uses, found.mean_seconds, found.percentile(0.95), found.last_used_at) == (0, None, None, None)


def test_days_are_told_apart_and_old_ones_forgotten(database: Database) -> None:
    noted(database, 1.0)
    moved(database, KEEP_DAYS - 1)
    noted(database, 2.0)
    assert (of(database).uses, of(database, KEEP_DAYS - 1).uses) == (2, 1)
    with database.session() as session:
        assert usage.prune(session) == 0
    moved(database, 1)
    with database.session() as session:
        assert usage.prune(session) == 1
        assert session.exec(select(col(UsageCount.seconds))).all() == [2.0]


def test_a_page_of_models_is_told_as_one_whole(database: Database) -> None:
    noted(database, 1.0, 1.0)
    moved(database, KEEP_DAYS)
    noted(database, 1.0, 8.0)
    moved(database, KEEP_DAYS - 1)
    noted(database, 1.0, failed=True)
    noted(database, 5.0, model_id="ash")
    with database.reading() as session:
        page = usage.of_models(session, ["oak", "ash", "elm"])
        assert usage.of_models(session) == page, "elm was never used"
        whole = usage.total(usage.since(session, KEEP_DAYS, "oak")["oak"].values())
        assert page["oak"] == replace(whole, lengths={})
    assert (page["oak"].uses, page["oak"].failures, page["ash"].uses) == (3, 1, 1)


@pytest.mark.parametrize(
    ("uses", "age_days", "per_day"),
    [(0, 90, 0.0), (30, 90, 1.0), (3, 90, 0.1), (30, 10, 3.0), (2, 0.01, 2.0), (2, -1, 2.0)],
)
def test_uses_a_day(uses: int, age_days: float, per_day: float) -> None:
    assert usage.per_day(uses, age_days * DAY_SECONDS) == pytest.approx(per_day)


@pytest.mark.parametrize(
    ("per_day", "priority"),
    [(0.0, "LOW"), (0.1, "LOW"), (0.11, "MEDIUM"), (1.0, "MEDIUM"), (1.01, "HIGH"), (1e9, "HIGH")],
)
def test_uses_make_a_priority(per_day: float, priority: str) -> None:
    assert priority_of(per_day).name == priority
    for said in Priority:
        assert priority_of(per_day, said) is said
