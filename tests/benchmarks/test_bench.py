"""The harness works: figures are judged rightly, and the one row that is quick enough leaves its files."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import run
from tests.benchmarks.measure import Line, Target, in_turns, quantile


def test_a_ratio_is_of_each_repetition() -> None:
    line = Line("speed", "jobs/s", [50.0, 60.0, 90.0], Target(0.5, at_most=False, of_peer=True), [100.0, 120.0, 100.0])
    assert line.ratios == [0.5, 0.5, 0.9]
    assert line.met
    assert line.target.margin(0.25) == 0.5


def test_a_limit_is_of_ours_alone() -> None:
    line = Line("p99", "ms", [40.0, 60.0, 70.0], Target(50), [100.0])
    assert line.judged == [40.0, 60.0, 70.0]
    assert not line.met


def test_everybody_is_first_in_turn() -> None:
    order: list[str] = []
    in_turns(2, {"ours": lambda _: order.append("ours"), "peer": lambda _: order.append("peer")})
    assert order == ["ours", "peer", "peer", "ours"]


def test_quantiles() -> None:
    values = [float(each) for each in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (51.0, 100.0, 7.0)


@pytest.mark.system
def test_a_quick_row_leaves_its_files(tmp_path: Path) -> None:
    assert run([16], tmp_path, quick=True) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["number"] == 16
    assert {line["measure"] for line in row["lines"]} >= {"CPU of both", "memory of both"}
    assert (tmp_path / "results.svg").stat().st_size > 1000
