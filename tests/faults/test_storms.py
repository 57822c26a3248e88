"""Workers die in the middle of hundreds of jobs; none of ours is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import results
from tests.faults.matrix import DATABASES
from tests.faults.storms import Sky

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

STORMS, JOBS, KILLS = (10, 500, 10) if results.FILE else (1, 150, 3)
"""Per kind of database; one small storm blows with every test run."""


@pytest.fixture(params=DATABASES if results.FILE else DATABASES[:1])
def sky(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sky]:
    sky = Sky(request.param, tmp_path)
    yield sky
    sky.close()


def test_no_job_of_ours_is_lost(sky: Sky) -> None:
    lost = 0
    for number in range(1, STORMS + 1):
        ours, plain, kills = sky.storm(number, JOBS, KILLS)
        print(f"storm {number} on {sky.kind}: ours {ours}, plain {plain}")
        results.note(
            "storm", database=sky.kind, number=number, kills=kills, ours=vars(ours), plain=vars(plain)
        )  # fmt: skip
        lost += ours.lost + ours.failed
    assert lost == 0
