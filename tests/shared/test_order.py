"""In which order models are brought: a table, and what holds of all of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.order import Bring, Policy, Standing, download_order
from shared.states import Availability, Priority

MISSING, CORRUPTED = Availability.MISSING, Availability.CORRUPTED


def one(model_id: str, availability: Availability = MISSING, **more: Any) -> Standing:
    return Standing(model_id, availability, **{"priority": Priority.LOW, "uses_per_day": 0.0, **more})


def order(*standings: Standing, policy: Policy = Policy.WANTED) -> list[str]:
    return [step.model_id for step in download_order(standings, policy)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (one("b", CORRUPTED), one("a", priority=Priority.CRITICAL, uses_per_day=9.0)),
        (one("b", priority=Priority.HIGH), one("a", priority=Priority.MEDIUM, uses_per_day=9.0)),
        (one("b", uses_per_day=0.2), one("a", uses_per_day=0.1, last_used_at=9.0)),
        (one("b", last_used_at=2.0), one("a", last_used_at=1.0)),
        (one("b", last_used_at=2.0), one("a")),
        (one("b", size=1), one("a", size=2)),
        (one("b", size=1), one("a")),
        (one("a"), one("b")),
    ],
)
def test_who_comes_first(first: Standing, second: Standing) -> None:
    assert order(second, first) == [first.model_id, second.model_id]


@pytest.mark.parametrize(
    ("standing", "policies"),
    [
        (one("m"), "wanted all"),
        (one("m", wanted=False), "all"),
        (one("m", enabled=False), ""),
        (one("m", fetchable=False), ""),
        (one("m", CORRUPTED), "repair wanted all"),
        (one("m", CORRUPTED, wanted=False), "repair wanted all"),
        (one("m", CORRUPTED, repairable=False), ""),
        *((one("m", other), "") for other in Availability if other not in (MISSING, CORRUPTED)),
    ],
)
def test_whom_a_policy_brings(standing: Standing, policies: str) -> None:
    assert [policy for policy in Policy if order(standing, policy=policy)] == policies.split()


standings = st.lists(
    st.builds(
        Standing, st.uuids().map(str), st.sampled_from(Availability), st.sampled_from(Priority),
        st.floats(0, 100), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
    ),
    max_size=20,
)  # fmt: skip


@given(standings, st.sampled_from(Policy))
def test_damaged_come_first_and_every_model_once(found: list[Standing], policy: Policy) -> None:
    steps = download_order(found, policy)
    kinds = [step.bring for step in steps]
    assert kinds == sorted(kinds, key=lambda bring: bring is not Bring.REPAIR)
    assert len({step.model_id for step in steps}) == len(steps)
    assert steps == download_order(reversed(found), policy), "whatever order they are found in"
    assert all(step.priority <= Priority.HIGH for step in steps if step.bring is Bring.REPAIR)
