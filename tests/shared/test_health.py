"""The policy of health: states that do not flap, scores, and what to do."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.health import (
    ENOUGH,
    FAILURES,
    RECOVERIES,
    WINDOW,
    Seen,
    advise,
    performance,
    settle,
    slow,
    unsettled,
)
from shared.states import Health

OUTCOMES = st.lists(st.booleans(), max_size=60)


def states(outcomes: list[bool], first: Health = Health.HEALTHY) -> list[Health]:
    """The state after each outcome, as a row of checks goes through it."""
    found = [first]
    for count in range(1, len(outcomes) + 1):
        found.append(settle(found[-1], outcomes[max(0, count - WINDOW) : count]))
    return found[1:]


@pytest.mark.fault("F-48")
@given(OUTCOMES)
def test_it_changes_only_after_enough_of_the_same(outcomes: list[bool]) -> None:
    before = Health.HEALTHY
    for count, state in enumerate(states(outcomes), 1):
        recent = outcomes[max(0, count - WINDOW) : count]
        if before is Health.HEALTHY and state is Health.UNHEALTHY:
            assert recent.count(False) >= FAILURES
            assert not recent[-1], "no good answer makes it worse"
        if before is Health.UNHEALTHY and state is Health.HEALTHY:
            assert recent[-RECOVERIES:] == [True] * RECOVERIES
        before = state


@given(OUTCOMES)
def test_it_is_no_slower_than_it_says(outcomes: list[bool]) -> None:
    assert states([*outcomes, *[False] * FAILURES])[-1] is Health.UNHEALTHY
    assert states([*outcomes, *[True] * RECOVERIES])[-1] is Health.HEALTHY


@given(OUTCOMES)
def test_changes_lie_apart(outcomes: list[bool]) -> None:
    """There and back takes as many checks as both rules ask for: by turns, it changes once at most."""
    found = [Health.HEALTHY, *states(outcomes)]
    changes = sum(one is not other for one, other in itertools.pairwise(found))
    assert changes <= 1 + len(outcomes) // min(FAILURES, RECOVERIES)
    turns = states([bool(number % 2) for number in range(len(outcomes))])
    assert sum(one is not other for one, other in itertools.pairwise(turns)) <= 1


@given(OUTCOMES, st.sampled_from([Health.HEALTHY, Health.UNHEALTHY]))
def test_the_last_few_are_enough_to_know(outcomes: list[bool], first: Health) -> None:
    assert len(outcomes) < WINDOW or settle(first, outcomes) is settle(first, outcomes[-WINDOW:])


@given(OUTCOMES)
def test_what_surprises_is_looked_at_again(outcomes: list[bool]) -> None:
    state = [Health.HEALTHY, *states(outcomes)][-1]
    surprising = bool(outcomes) and outcomes[-1] is not (state is Health.HEALTHY)
    assert unsettled(state, outcomes) is surprising


def test_of_one_that_nobody_knows_the_first_good_answer_is_enough() -> None:
    assert settle(Health.UNKNOWN, []) is Health.UNKNOWN
    assert settle(Health.UNKNOWN, [True]) is Health.HEALTHY
    assert settle(Health.UNKNOWN, [False]) is Health.UNKNOWN
    assert unsettled(Health.UNKNOWN, [False])
    assert settle(Health.UNKNOWN, [False] * FAILURES) is Health.UNHEALTHY


@pytest.mark.parametrize(
    ("answers", "latest", "loads", "score"),
    [
        ([], [], [], None),
        ([1.0], [1.0], [], 1.0),
        ([1.0] * 9, [2.0, 2.0, 2.0], [], 0.5),
        ([1.0] * 9, [0.5], [], 1.0),
        ([1.0] * 9, [1.0, 1.0, 60.0], [], 1.0),
        ([], [9.0], [], 1.0),
        ([], [], [2.0, 2.0, 4.0], 0.5),
        ([1.0] * 9, [2.0], [2.0, 2.0, 4.0], 0.5),
        ([1.0] * 9, [1.0], [2.0, 2.0, 4.0], 0.875),
        ([0.0], [0.0], [0.0], 1.0),
    ],
)
def test_performance(answers: list[float], latest: list[float], loads: list[float], score: float | None) -> None:
    assert performance(answers, latest, loads) == score


@given(*[st.lists(st.floats(0, 1e6), max_size=20)] * 3)
def test_performance_is_a_share(answers: list[float], latest: list[float], loads: list[float]) -> None:
    score = performance(answers, latest, loads)
    assert score is None or 0 <= score <= 1


@pytest.mark.fault("F-48")
@pytest.mark.parametrize(
    ("seconds", "usual", "is_slow"),
    [
        (60.0, [], False),
        (60.0, [1.0] * (ENOUGH - 1), False),
        (4.0, [1.0] * ENOUGH, False),
        (4.1, [1.0] * ENOUGH, True),
        (0.9, [0.01] * ENOUGH, False),
        (1.1, [0.01] * ENOUGH, True),
    ],
)
def test_slow_is_far_slower_than_usual(seconds: float, usual: list[float], is_slow: bool) -> None:
    assert slow(seconds, usual) is is_slow


WELL = Seen(
    model_id="oak", health=Health.HEALTHY, ours=True, findings=0, reasons=[], proven=86_400.0, performance=1.0, uses=50,
    failures=0, unverified=False, newer=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "code", "command"),
    [
        ({"health": Health.CORRUPTED, "findings": 2}, "corrupted", "modelyard repair oak"),
        ({"health": Health.CORRUPTED, "ours": False}, "corrupted", "modelyard verify oak"),
        (
            {"health": Health.UNHEALTHY, "reasons": [{"message": "Its answer is none."}]},
            "unhealthy",
            "modelyard reload oak",
        ),
        ({"unverified": True}, "unverified", "modelyard pull URL --id oak --checksum sha256:…"),
        ({"performance": 0.25}, "slowed", "modelyard devices"),
        ({"failures": 3}, "failing", "modelyard health oak --check live"),
        ({"proven": None}, "never_proven", "modelyard health oak --check deep"),
        ({"proven": 61 * 86_400.0}, "proven_long_ago", "modelyard health oak --check deep"),
        ({"newer": True}, "newer", "modelyard update oak"),
    ],
)
def test_what_to_do(changed: dict[str, Any], code: str, command: str) -> None:
    assert advise(WELL) == []
    (advice,) = advise(replace(WELL, **changed))
    assert (advice.code, advice.command) == (code, command)
    assert len(advice.message) > 10


def test_the_most_urgent_comes_first() -> None:
    seen = replace(WELL, health=Health.CORRUPTED, findings=1, newer=True, performance=0.4)
    assert [advice.code for advice in advise(seen)] == ["corrupted", "slowed", "newer"]
