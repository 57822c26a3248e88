"""The retention policy as tables: what may leave, in which order, what holds it, and how many bytes that frees."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.retention import (
    ASK_SECONDS,
    BY_HAND_SECONDS,
    DAY,
    GIB,
    Decision,
    Disk,
    Hold,
    Policy,
    Reason,
    Share,
    Stored,
    decide,
    fetch_seconds,
    over_by,
    value,
)
from shared.states import Priority

NOW = 1_000 * DAY
G = int(GIB)
POLICY = Policy(
    max_unused_days=30, max_storage_usage_percent=80, min_usage_frequency=0.1, preserve_recently_downloaded=True,
    recent_days=7, preserve_high_priority=True, automatic=False,
)  # fmt: skip
ROOMY, FULL = Disk(1000 * G, 100 * G, 0), Disk(100 * G, 95 * G, 0)


def model(name: str = "oak", **facts: Any) -> Stored:
    """Of 10 GiB, there for 100 days, used 40 days ago."""
    idle = facts.pop("idle", 40)
    size = facts.pop("size", 10 * G)
    known: dict[str, Any] = {
        "model_id": name, "model_type": "llm", "revision": "r1", "size": size, "alone": size,
        "came_at": NOW - facts.pop("age", 100) * DAY, "last_used_at": None if idle is None else NOW - idle * DAY,
        "uses_per_day": 0.0, "priority": Priority.LOW, "fetch_seconds": 1000.0,
    }  # fmt: skip
    return Stored(**known | facts)


def changed(**values: Any) -> Policy:
    return POLICY.model_copy(update=values)


def leaving(decision: Decision) -> list[tuple[str, Reason]]:
    return [(each.verdict.model.model_id, each.reason) for each in decision.leave]


@pytest.mark.parametrize(
    ("facts", "policy", "leaves"),
    [
        ({}, {}, True),
        ({"idle": 30}, {}, True),
        ({"idle": 29.9}, {}, False),
        ({"idle": None}, {}, True),  # never used, and there for a hundred days
        ({"idle": None, "age": 29}, {}, False),
        ({"idle": 40, "age": 20}, {}, False),  # it was fetched again since
        ({"idle": 40}, {"max_unused_days": 45.0}, False),
        ({"idle": 8, "uses_per_day": 0.05}, {"max_unused_days": 7.0}, True),
        ({"idle": 8, "uses_per_day": 0.1}, {"max_unused_days": 7.0}, False),  # used often enough all the same
        ({"idle": 3, "age": 5}, {"max_unused_days": 2.0}, False),  # it has just come
        ({"idle": 3, "age": 5}, {"max_unused_days": 2.0, "preserve_recently_downloaded": False}, True),
        ({"idle": 3, "age": 5}, {"max_unused_days": 2.0, "recent_days": 4.0}, True),
        ({"priority": Priority.MEDIUM}, {}, True),
        ({"priority": Priority.HIGH}, {}, False),
        ({"priority": Priority.CRITICAL}, {}, False),
        ({"priority": Priority.HIGH}, {"preserve_high_priority": False}, True),
        *[({"holds": frozenset({hold})}, {}, False) for hold in Hold],
        *[({"holds": frozenset({hold})}, {"preserve_high_priority": False}, False) for hold in Hold],
    ],
)
def test_what_is_unused_and_not_held_may_leave(facts: dict[str, Any], policy: dict[str, Any], leaves: bool) -> None:
    found = decide(changed(**policy), NOW, ROOMY, [model(**facts)])
    assert leaving(found) == ([("oak", Reason.UNUSED)] if leaves else [])
    assert found.frees == (10 * G if leaves else 0)


def test_who_would_leave_but_for_what_holds_it_is_told_with_all_of_it() -> None:
    held = model(holds=frozenset({Hold.PINNED, Hold.FALLBACK}), priority=Priority.HIGH)
    (kept,) = decide(POLICY, NOW, ROOMY, [held, model("elm", idle=1)]).kept
    assert (kept.model.model_id, kept.holds) == ("oak", (Hold.PINNED, Hold.PRIORITY, Hold.FALLBACK))


@pytest.mark.parametrize(
    ("disk", "over"),
    [
        (Disk(100 * G, 80 * G, 0), 0),
        (Disk(100 * G, 81 * G, 0), 1 * G),
        (Disk(100 * G, 95 * G, 15 * G), 0),  # what lies in the trash is on its way already
        (Disk(100 * G, 95 * G, 10 * G), 5 * G),
        (None, 0),
    ],
)
def test_how_much_is_too_much(disk: Disk | None, over: int) -> None:
    assert over_by(POLICY, disk) == over


def test_a_full_disk_lets_go_as_few_of_the_rarely_used_as_it_takes() -> None:
    """15 GiB too many: 10 GiB are unused anyway, and of the rest the one that is worth least is enough."""
    models = [
        model("unused", idle=60), model("rare", idle=20, uses_per_day=0.05), model("rarer", idle=25),
        model("often", idle=2, uses_per_day=0.5),
    ]  # fmt: skip
    found = decide(POLICY, NOW, FULL, models)
    assert leaving(found) == [("unused", Reason.UNUSED), ("rarer", Reason.STORAGE)]
    assert found.frees == 20 * G
    assert leaving(decide(POLICY, NOW, None, models)) == [("unused", Reason.UNUSED)]


def test_what_is_not_needed_after_all_is_taken_back_from_the_most_valuable_end() -> None:
    """The two small ones come first in value, and the large one alone is enough."""
    cheap = [model(name, size=size, idle=29, fetch_seconds=1.0) for name, size in (("a", G), ("b", 2 * G))]
    found = decide(POLICY, NOW, FULL, [*cheap, model("c", size=15 * G, idle=1)])
    assert leaving(found) == [("c", Reason.STORAGE)]


def test_a_disk_that_cannot_be_helped_says_who_holds_it() -> None:
    found = decide(POLICY, NOW, FULL, [model("oak", idle=1, uses_per_day=3.0, priority=Priority.HIGH)])
    assert leaving(found) == []
    assert [each.holds for each in found.kept] == [(Hold.PRIORITY, Hold.USED)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"idle": 50}, {"idle": 40}),  # longer unused
        ({"size": 20 * G}, {}),  # larger, for the same to fetch it
        ({"fetch_seconds": 100.0}, {}),  # cheaper to have again
        ({"size": 20 * G}, {"idle": 60}),  # twice the size weighs more than half as long again
        ({}, {"fetch_seconds": 1000.0 + BY_HAND_SECONDS}),  # a person has to bring it
    ],
)
def test_what_is_worth_least_goes_first(first: dict[str, Any], second: dict[str, Any]) -> None:
    found = decide(POLICY, NOW, ROOMY, [model("b", **second), model("a", **first)])
    assert [each.verdict.model.model_id for each in found.leave] == ["a", "b"]


@pytest.mark.parametrize(
    ("idle", "size", "cost", "worth"),
    [
        (40, 10 * G, 1000, 2.5),  # 1000 s / (40 d × 10 GiB)
        (40, 20 * G, 1000, 1.25),
        (80, 10 * G, 1000, 1.25),
        (40, 10 * G, 2000, 5.0),
        (0, 1 * G, 60, 60 * 24),  # no shorter than an hour
        (40, 0, 1000, math.inf),
    ],
)
def test_the_formula(idle: float, size: int, cost: float, worth: float) -> None:
    assert value(idle, size, cost) == pytest.approx(worth)


def test_what_a_fetch_costs() -> None:
    assert fetch_seconds(10**9, 10**7, by_hand=False) == 100 + ASK_SECONDS
    assert fetch_seconds(10**9, 10**7, by_hand=True) == 100 + ASK_SECONDS + BY_HAND_SECONDS


def test_shared_bytes_leave_with_the_last_who_holds_them() -> None:
    both = Share(frozenset({"oak", "elm"}), 4 * G)
    twins = [model("oak", alone=G, size=5 * G, idle=60), model("elm", alone=G, size=5 * G)]
    found = decide(POLICY, NOW, ROOMY, twins, [both])
    assert [(each.verdict.model.model_id, each.frees) for each in found.leave] == [("oak", G), ("elm", 5 * G)]
    alone = decide(POLICY, NOW, ROOMY, [twins[0], model("elm", alone=G, size=5 * G, idle=1)], [both])
    assert [each.frees for each in alone.leave] == [G]


def test_what_would_free_nothing_stays() -> None:
    """All its bytes are another's too, who stays."""
    both = Share(frozenset({"oak", "elm"}), 5 * G)
    oak, elm = model("oak", alone=0), model("elm", alone=0, idle=1)
    assert leaving(decide(POLICY, NOW, ROOMY, [oak, elm], [both])) == []
    assert len(leaving(decide(POLICY, NOW, ROOMY, [oak, model("elm", alone=0)], [both]))) == 2


def test_none_but_those_that_were_named() -> None:
    models = [model("a"), model("b"), model("c", idle=1)]
    assert leaving(decide(POLICY, NOW, ROOMY, models, among=["b", "c", "nobody"])) == [("b", Reason.UNUSED)]


STORED = st.builds(
    lambda number, idle, age, size, alone, per_day, priority, holds, cost: model(
        f"m{number}", idle=idle, age=age, size=size, alone=min(alone, size), uses_per_day=per_day, priority=priority,
        holds=holds, fetch_seconds=cost,
    ),
    st.integers(0, 30), st.none() | st.floats(0, 90), st.floats(0, 200), st.integers(0, 50 * G),
    st.integers(0, 50 * G), st.sampled_from([0.0, 0.05, 0.1, 2.0]), st.sampled_from(Priority),
    st.frozensets(st.sampled_from(Hold), max_size=1), st.floats(1, 10**6),
)  # fmt: skip


@given(
    models=st.lists(STORED, max_size=12, unique_by=lambda each: each.model_id),
    shares=st.lists(
        st.builds(
            Share, st.frozensets(st.integers(0, 30).map("m{}".format), min_size=2, max_size=3), st.integers(1, G)
        ),
        max_size=4,
    ),
    used=st.integers(0, 100),
    trash=st.integers(0, 20),
)
def test_whatever_there_is(models: list[Stored], shares: list[Share], used: int, trash: int) -> None:
    disk = Disk(100 * G, used * G, min(trash, used) * G)
    found = decide(POLICY, NOW, disk, models, shares)
    names = {each.verdict.model.model_id for each in found.leave}
    assert all(not each.verdict.holds for each in found.leave)
    assert not names & {each.model.model_id for each in found.kept}
    by_sum = sum(each.alone for each in models if each.model_id in names)
    by_sum += sum(share.size for share in shares if share.models <= names)
    assert found.frees == by_sum, "what is promised is what nobody who stays holds"
    values = [each.verdict.value for each in found.leave]
    assert values == sorted(values)
    over, storage = over_by(POLICY, disk), [each for each in found.leave if each.reason is Reason.STORAGE]
    if storage:
        assert over > 0
        for each in storage:
            rest = [one for one in models if one.model_id in names - {each.verdict.model.model_id}]
            freed = sum(one.alone for one in rest)
            freed += sum(share.size for share in shares if share.models <= names - {each.verdict.model.model_id})
            assert freed < over, "each of them is needed"
    assert decide(POLICY, NOW, disk, reversed(models), shares) == found
