"""The crash-point matrix: at named points of real work a part is taken away, and every invariant holds afterwards."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import invariants, results
from tests.faults.conftest import Street
from tests.faults.house import House
from tests.faults.matrix import CELLS, DATABASES, SHORT, Cell, Fault
from tests.faults.scenarios import SCENARIOS, Download

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ALL = [(database, cell) for database in DATABASES for cell in CELLS]
ACTIONS = {Fault.KILL: "kill", Fault.TERM: "term"}
COMPLETE = {
    "download.fetched", "download.confirmed", "publish.sealed", "publish.settled", "publish.moved",
    "download.published", "download.recorded", "job.carried_out", "ledger.succeeded",
}  # fmt: skip
"""Points after the last byte: what comes then fetches none of them again."""


@pytest.mark.parametrize(("database", "cell"), ALL if results.FILE else SHORT, ids=str)
def test_a_fault_at_a_point(street: Street, database: str, cell: Cell) -> None:
    began = time.monotonic()
    try:
        house = street.house(database, SCENARIOS[cell.scenario].PLOT)
        attempts, seconds = _run(house, cell)
    except BaseException as failure:
        results.note(
            "cell", database=database, scenario=cell.scenario, point=cell.point, nth=cell.nth, fault=cell.fault,
            ok=False, why=str(failure)[:500],
        )  # fmt: skip
        street.drop(database)
        raise
    results.note(
        "cell", database=database, scenario=cell.scenario, point=cell.point, nth=cell.nth, fault=cell.fault,
        ok=True, attempts=attempts, seconds=round(seconds, 1), took=round(time.monotonic() - began, 1),
    )  # fmt: skip


def _run(house: House, cell: Cell) -> tuple[int, float]:
    """One cell; answers the attempts that its job took, and the seconds from the fault until all was well."""
    scenario = SCENARIOS[cell.scenario](house)
    scenario.prepare()
    house.settle()
    house.arm(cell.point, ACTIONS.get(cell.fault, "hold"), cell.nth)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(scenario.ask)
        house.await_point(asked)
        _strike(house, cell.fault)
        struck = time.monotonic()
        job_id = asked.result()
    job = house.ended(job_id) or house.job(job_id)
    house.settle()
    expected = scenario.expected(job_id)
    expected.events_kept = cell.fault not in (Fault.REDIS, Fault.REDIS_EMPTIED) and cell.point != "ledger.succeeded"
    invariants.check(house, expected)
    if cell.fault not in ACTIONS:
        house.carries_on()
    seconds = time.monotonic() - struck
    if isinstance(scenario, Download) and cell.point in COMPLETE:
        assert scenario.fetched_once(), "F-3: bytes that were there were fetched again"
    job = house.job(job_id)
    if cell.fault is Fault.TERM:
        house.await_end()
    scenario.afterwards()
    house.disarm()
    return job.attempt, seconds


def _strike(house: House, fault: Fault) -> None:
    """Take the part away, where the process at the point has not done it itself."""
    if fault is Fault.DATABASE:
        house.lose_database()
    elif fault in (Fault.REDIS, Fault.REDIS_EMPTIED):
        house.lose_redis(emptied=fault is Fault.REDIS_EMPTIED)
