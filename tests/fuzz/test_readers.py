"""Readers of what strangers wrote, at random and by coverage: they read it or refuse it in our words."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.guided import ALL, guide
from tests.fuzz.readers import TARGETS

RUNS = 5_000


@pytest.mark.fault("A-66", "A-70", "A-20", "A-31", "A-38")
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_seeds_with_a_few_bytes_changed(name: str, data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(list(TARGETS[name].seeds()))))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(seed)))
        seed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=8))
    TARGETS[name].read(bytes(seed))


@pytest.mark.fault("A-66", "A-70")
def test_bytes_that_coverage_guides(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("NO ATHERIS FOR THIS PYTHON, READERS ARE NOT FUZZED BY COVERAGE: pip install atheris")
    guided = guide(ALL, tmp_path / "all", f"-runs={RUNS}", "-seed=1")
    assert guided.fault is None, guided.fault
    assert guided.runs >= RUNS
    assert guided.reached > 0
