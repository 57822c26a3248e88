"""The harness works: figures are judged rightly, and rows that are quick enough leave their files."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.benchmarks.__main__ import run
from tests.benchmarks.goods import weights
from tests.benchmarks.hosting import PROGRAMS
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


@pytest.mark.parametrize("hollow", [False, True])
def test_weights_are_safetensors_of_that_size(tmp_path: Path, hollow: bool) -> None:
    path = weights(tmp_path / "made.safetensors", 1_000_001, hollow=hollow)
    assert path.stat().st_size == 1_000_001
    assert (path.stat().st_blocks * 512 < 500_000) is hollow
    with safe_open(path, "np") as opened:
        assert opened.get_tensor("weight").nbytes == 1_000_001 - 128


@pytest.mark.system
@pytest.mark.parametrize("row", range(1, 10))
def test_rows_that_move_files_work(tmp_path: Path, row: int) -> None:
    """Small ones, whose figures mean nothing but where they are not about time."""
    if missing := [name for name in ("nginx", "aria2c", "curl", "openssl") if not shutil.which(name, path=PROGRAMS)]:
        pytest.skip(f"row {row} needs {', '.join(missing)}: `make bench` installs them")
    assert run([row], tmp_path, quick=True, repetitions=1) == 0
    (found,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert found["number"] == row
    assert all(figure > 0 for line in found["lines"] for figure in line["ours"])
    if row in (5, 6, 8):  # how many bytes, and which: no matter how fast
        assert all(line["met"] for line in found["lines"])


@pytest.mark.system
def test_a_quick_row_leaves_its_files(tmp_path: Path) -> None:
    assert run([16], tmp_path, quick=True) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["number"] == 16
    assert {line["measure"] for line in row["lines"]} >= {"CPU of both", "memory of both"}
    assert (tmp_path / "results.svg").stat().st_size > 1000
