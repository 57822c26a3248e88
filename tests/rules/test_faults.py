"""Every case of the fault list has a test that names it, and the matrix and the code know the same points."""

import ast
import re
from pathlib import Path

from tests.faults import page
from tests.faults.cases import CASES, covered
from tests.faults.matrix import CELLS, POINTS, SHORT
from tests.faults.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
BY_STATE = "ledger"
"""A point whose name ends in the state that a job has just taken."""


def test_every_case_has_a_test() -> None:
    """Mend with `@pytest.mark.fault("…")` on a test that truly shows the case."""
    tests = covered()
    assert [case for case in CASES if case not in tests] == []


def test_marks_name_real_cases() -> None:
    wrong = {case for case in covered() if not re.fullmatch(r"[AF]-\d{1,3}", case)}
    assert wrong == set()


def test_points_of_the_matrix_are_in_the_code() -> None:
    """A point that was renamed would make its cells wait in vain; one without a cell is never tried."""
    there = set(_points())
    states = {point for point in POINTS if point.startswith(f"{BY_STATE}.")}
    assert there - {BY_STATE} == POINTS.keys() - states
    assert {cell.point for cell in CELLS} == POINTS.keys()


def test_the_page_has_every_scenario() -> None:
    assert page.SCENARIOS.keys() == SCENARIOS.keys() == {cell.scenario for cell in CELLS}


def test_the_short_slice_is_part_of_the_matrix() -> None:
    assert {cell for _, cell in SHORT} <= set(CELLS)
    assert len(CELLS) == len(set(CELLS))


def _points() -> list[str]:
    """First arguments of every call of `reached`."""
    found = []
    for room in ("api", "workers", "shared"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached":
                    argument = node.args[0]
                    assert isinstance(argument, ast.Constant), f"{path}: name points by literals"
                    found.append(str(argument.value))
    return found
