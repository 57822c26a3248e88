"""Will it fit: said before, measured after, and refused with the numbers where it does not."""

import shutil
from collections.abc import Iterator

import pytest

from deploy.demo.load import Load
from tests.factories.quick import contradict, make_quick_llm
from tests.faults.conftest import ROOM_FOR_ONE
from tests.system.conftest import MIB, Yard, opened
from tests.system.test_upkeep import modelyard, run

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    root = tmp_path_factory.mktemp("hub")
    (runtime,) = {make_quick_llm(root / "tiny" / name, seed, MIB) for seed, name in enumerate(("acorn", "birch"))}
    shutil.copytree(root / "tiny" / "acorn", root / "tiny" / "broken")
    contradict(root / "tiny" / "broken")
    limit = ROOM_FOR_ONE[runtime]
    with opened(tmp_path_factory.mktemp("narrow"), root, MODELYARD_RUNNERS__MEMORY_LIMIT=limit) as yard:
        yield yard


@pytest.fixture(scope="module")
def models(narrow: Yard) -> None:
    for name in ("acorn", "birch", "broken"):
        narrow.pull(name, f"tiny/{name}")
    narrow.add("sorter", "tiny/birch", model_type="embedding")
    narrow.done("/api/v1/models/download", {"model_id": "sorter"})


def test_it_is_said_before_and_measured_after(narrow: Yard, models: None) -> None:
    before = narrow.http.get("/api/v1/models/acorn/requirements").json()["memory"]
    assert before["basis"] == "estimated"
    narrow.done("/api/v1/models/activate", {"model_id": "acorn"})
    after = narrow.http.get("/api/v1/models/acorn/requirements").json()
    assert after["memory"]["basis"] == "measured"
    assert abs(before["total"] - after["memory"]["total"]) < before["spread"]
    assert after["loadSeconds"] > 0


@pytest.mark.fault("F-42")
def test_who_serves_another_type_is_not_sent_away(narrow: Yard, models: None) -> None:
    """Refused with the numbers and the way out, and nothing was touched."""
    job = narrow.ended(narrow.submitted("/api/v1/models/sorter/switch"))
    assert (job["status"], job["error"]["code"]) == ("failed", "will_not_fit")
    details = job["error"]["details"]
    assert details["needBytes"] - details["spreadBytes"] > details["freeBytes"]
    assert "Unload acorn" in job["error"]["hint"]
    assert narrow.say().headers["x-modelyard-model"] == "acorn"


def test_a_plan_is_what_is_done_or_it_is_refused(narrow: Yard, models: None) -> None:
    plan = modelyard(narrow, "plan", "switch", "birch")
    assert [(step["do"], step["modelId"]) for step in plan["steps"]] == [
        ("stop", "acorn"), ("start", "birch"), ("route", "birch"),
    ]  # fmt: skip
    narrow.done("/api/v1/models/deactivate/acorn")
    narrow.done("/api/v1/models/activate", {"model_id": "acorn"})
    outdated = run(narrow, "switch", "birch", "--plan", plan["id"])
    assert (outdated.returncode, "has changed since this plan" in outdated.stderr) == (1, True)
    assert narrow.say().headers["x-modelyard-model"] == "acorn"
    plan = modelyard(narrow, "plan", "switch", "birch")
    assert modelyard(narrow, "switch", "birch", "--plan", plan["id"])["status"] == "succeeded"
    assert run(narrow, "switch", "birch", "--plan", plan["id"]).returncode == 1, "it is there already: nothing to load"


@pytest.mark.fault("F-47")
def test_swaps_where_one_fits_at_a_time_cut_nobody(narrow: Yard, models: None) -> None:
    """The one before leaves first, and the requests that come meanwhile wait for the next one; also where that does
    not load: then the one before is back."""
    with Load(narrow.instance.url, "llm") as load:
        for number, name in enumerate(("acorn", "birch", "acorn"), 1):
            load.reach(10 * number)
            narrow.done(f"/api/v1/models/{name}/switch")
            shown = narrow.http.get("/api/v1/system/hardware/profile").json()["devices"][-1]["residents"]
            assert [each["modelId"] for each in shown] == [name]
        load.reach(40)
        job = narrow.ended(narrow.submitted("/api/v1/models/broken/switch"))
        assert (job["status"], job["error"]["code"]) == ("failed", "runner_exited")
        load.reach(load.tally.whole + 5)
    assert load.tally.failures == []
    assert set(load.tally.served) == {"acorn", "birch"}
    assert narrow.say().headers["x-modelyard-model"] == "acorn"


def test_people_see_it_at_a_glance(narrow: Yard, models: None) -> None:
    shown = run(narrow, "devices").stdout
    assert "acorn" in shown
    assert "torch 2." in shown
    fits = run(narrow, "fit", "acorn")
    assert fits.returncode == 0
    assert "measured" in fits.stdout
    assert run(narrow, "fit", "nobody").returncode == 1
