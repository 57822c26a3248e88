"""Will it fit: said before, measured after, and refused with the numbers where it does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Yard, opened
from tests.system.test_upkeep import modelyard, run

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

LIMIT = "600MB"
"""Room for one of the two models, with a torch or a llama-server around it, and not for both with torch."""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, hub_root: Path) -> Iterator[Yard]:
    with opened(tmp_path_factory.mktemp("narrow"), hub_root, MODELYARD_RUNNERS__MEMORY_LIMIT=LIMIT) as yard:
        yield yard


@pytest.mark.fault("F-42")
def test_what_does_not_fit_is_refused_with_its_numbers_and_the_old_one_serves(narrow: Yard) -> None:
    for name in ("acorn", "birch"):
        narrow.pull(name, f"tiny/{name}")
    before = narrow.http.get("/api/v1/models/acorn/requirements").json()["memory"]
    assert before["basis"] == "estimated"
    narrow.done("/api/v1/models/activate", {"model_id": "acorn"})
    after = narrow.http.get("/api/v1/models/acorn/requirements").json()
    (resident,) = modelyard(narrow, "devices")["devices"][-1]["residents"]
    assert after["memory"]["basis"] == "measured"
    assert after["memory"]["total"] == resident["memoryBytes"] + after["memory"]["cache"], "torch's cache comes later"
    assert abs(before["total"] - after["memory"]["total"]) < before["spread"]
    assert after["loadSeconds"] > 0
    job = narrow.ended(narrow.submitted("/api/v1/models/birch/switch"))
    assert (job["status"], job["error"]["code"]) == ("failed", "will_not_fit")
    details = job["error"]["details"]
    assert details["needBytes"] - details["spreadBytes"] > details["freeBytes"]
    assert "Unload another model" in job["error"]["hint"]
    assert narrow.say().headers["x-modelyard-model"] == "acorn"
    narrow.done("/api/v1/models/deactivate/acorn")
    narrow.done("/api/v1/models/birch/switch")
    assert narrow.say().headers["x-modelyard-model"] == "birch"


def test_people_see_it_at_a_glance(narrow: Yard) -> None:
    shown = run(narrow, "devices").stdout
    assert "birch" in shown
    assert "torch 2." in shown
    fits = run(narrow, "fit", "birch")
    assert fits.returncode == 0
    assert "measured" in fits.stdout
    assert run(narrow, "fit", "nobody").returncode == 1
