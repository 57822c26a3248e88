"""Who gets how much of what is allowed: a table, and what holds for every case."""

import math
import random

import pytest

from shared.limits import Limit
from shared.refs import SourceKind
from shared.states import Priority
from workers.governor.shares import Flow, shares

HUB, URL = SourceKind.HUGGINGFACE, SourceKind.URL
CRITICAL, HIGH, MEDIUM, LOW = Priority
ALL = Limit("all", bytes_per_second=90)


@pytest.mark.parametrize(
    ("limits", "flows", "expected"),
    [
        ([], [Flow(URL, LOW)], [math.inf]),
        ([Limit("jobs", jobs=1)], [Flow(URL, LOW)], [math.inf]),
        ([ALL], [], []),
        ([ALL], [Flow(URL, LOW)], [90]),
        ([ALL], [Flow(URL, LOW), Flow(HUB, LOW), Flow(URL, LOW)], [30, 30, 30]),
        ([ALL], [Flow(URL, CRITICAL), Flow(URL, LOW)], [80, 10]),
        ([ALL], [Flow(URL, MEDIUM), Flow(URL, LOW)], [60, 30]),
        ([Limit("all", bytes_per_second=150)], [Flow(URL, priority) for priority in Priority], [80, 40, 20, 10]),
        # What one leaves is the others', also where an urgent one leaves it.
        ([ALL], [Flow(URL, LOW, demand=10), Flow(URL, LOW), Flow(URL, LOW)], [10, 40, 40]),
        ([ALL], [Flow(URL, CRITICAL, demand=50), Flow(URL, LOW)], [50, 40]),
        ([ALL], [Flow(URL, LOW, demand=5), Flow(URL, LOW, demand=6)], [5, 6]),
        # A source, a priority, and both.
        ([Limit("url", URL, bytes_per_second=20)], [Flow(URL, LOW), Flow(HUB, LOW)], [20, math.inf]),
        ([ALL, Limit("url", URL, bytes_per_second=20)], [Flow(URL, LOW), Flow(HUB, LOW)], [20, 70]),
        ([ALL, Limit("low", None, LOW, bytes_per_second=6)], [Flow(URL, LOW), Flow(HUB, HIGH)], [6, 84]),
        ([Limit("both", URL, LOW, bytes_per_second=6)], [Flow(URL, LOW), Flow(URL, HIGH)], [6, math.inf]),
        ([ALL, Limit("less", bytes_per_second=40)], [Flow(URL, LOW), Flow(HUB, LOW)], [20, 20]),
        ([Limit("closed", bytes_per_second=0)], [Flow(URL, LOW)], [0]),
    ],
)
def test_shares(limits: list[Limit], flows: list[Flow], expected: list[float]) -> None:
    found = shares(limits, {str(number): flow for number, flow in enumerate(flows)})
    assert list(found.values()) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(200))
def test_every_limit_is_kept_and_nothing_is_left_that_somebody_could_use(seed: int) -> None:
    dice = random.Random(seed)
    limits = [
        Limit(str(number), dice.choice([None, HUB, URL]), dice.choice([None, *Priority]), dice.randint(0, 10**9))
        for number in range(dice.randint(1, 5))
    ]
    flows = {
        str(number): Flow(dice.choice([HUB, URL]), dice.choice(list(Priority)), dice.choice([math.inf, 1e3, 1e7]))
        for number in range(dice.randint(1, 20))
    }
    found = shares(limits, flows)
    full = set()
    for limit in limits:
        under = [name for name, flow in flows.items() if limit.concerns(flow.source, flow.priority)]
        used = sum(found[name] for name in under)
        assert used <= (limit.bytes_per_second or 0) * (1 + 1e-6)
        if used >= (limit.bytes_per_second or 0) * (1 - 1e-6):
            full.update(under)
    for name, flow in flows.items():
        assert found[name] == math.inf or name in full or found[name] == pytest.approx(flow.demand)
