"""A profile from nothing: at start its models are fetched and a llama-server is started for each; they come back."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.demo.models import make_gguf_llm
from tests.conftest import until
from tests.system.conftest import Yard, needs_llama_server, opened
from tests.system.test_upkeep import modelyard

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

NAMES = ("alder", "beech")
CATALOGUE = """
models:
  - {model_id: alder, model_type: llm, name: Alder, source: huggingface, source_url: tiny/alder}
  - {model_id: beech, model_type: llm, name: Beech, source: huggingface, source_url: tiny/beech}
"""
PAIR = "enabledModels: [alder, beech]\nsettings:\n  beech: {contextLength: 512}\n"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    needs_llama_server()
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("yard")
    for seed, name in enumerate(NAMES):
        make_gguf_llm(root / "tiny" / name / f"{name}.gguf", seed, name=name)
    (folder / "profiles").mkdir()
    (folder / "profiles" / "pair.yaml").write_text(PAIR)
    (folder / "catalogue.yaml").write_text(CATALOGUE)
    settings = {
        "MODELYARD_CATALOGUE": str(folder / "catalogue.yaml"), "ACTIVE_PROFILE": "pair",
        "MODELYARD_RUNNERS__CONTEXT_LENGTH": "256",
    }  # fmt: skip
    with opened(folder, root, **settings) as yard:
        yield yard


def servers(yard: Yard) -> dict[str, Any]:
    told: dict[str, Any] = yard.http.get("/api/models/servers").json()
    return told


def complete(yard: Yard) -> dict[str, dict[str, Any]]:
    """Its servers by model, once all of the profile answer."""
    until(lambda: (servers(yard)["fleet"] or {}).get("ready"), 120, "the fleet")
    return {one["modelId"]: one for one in servers(yard)["servers"] if one["status"] == "ready"}


def test_at_start_its_models_are_fetched_and_each_has_a_server(yard: Yard) -> None:
    (job,) = yard.http.get("/api/v1/jobs", params={"kind": "profile.apply"}).json()["jobs"]
    assert (yard.ended(job["id"])["status"], job["origin"]) == ("succeeded", "start")
    there = complete(yard)
    assert {name: (one["active"], one["contextLength"]) for name, one in there.items()} == {
        "alder": (True, 256), "beech": (False, 512),
    }  # fmt: skip
    assert len({(one["port"], one["pid"]) for one in there.values()}) == len(NAMES)
    assert all(one["uptimeSeconds"] >= 0 for one in there.values())
    assert [yard.say(name).status_code for name in (*NAMES, "llm")] == [200] * 3
    assert yard.http.get("/health/ready").json()["parts"]["profile"]["ok"]


def test_whichever_of_its_runners_dies_comes_back(yard: Yard) -> None:
    before = complete(yard)
    for one in before.values():
        os.kill(one["pid"], signal.SIGKILL)
    until(lambda: not servers(yard)["fleet"]["ready"], 60, "somebody missed them")
    after = complete(yard)
    assert {name for name in before if before[name]["pid"] == after[name]["pid"]} == set()
    assert [yard.say(name).status_code for name in NAMES] == [200, 200]


def test_another_one_takes_its_place_by_a_plan(yard: Yard) -> None:
    complete(yard)
    made = yard.post("/api/v1/models/profiles", {"name": "single", "enabledModels": ["beech"]})
    assert made.status_code == 201, made.text
    plan = modelyard(yard, "profile", "plan", "single")
    assert [one["modelId"] for one in plan["unload"]] == ["alder"]
    assert [(one["modelId"], one["servesType"], one["fits"]) for one in plan["load"]] == [("beech", True, True)]
    done = modelyard(yard, "profile", "apply", "single", "--plan", plan["id"])
    assert done["result"]["loaded"] == ["beech"]
    assert complete(yard).keys() == {"beech"}
    assert yard.say().headers["x-modelyard-model"] == "beech"
    stale = yard.post("/api/v1/models/profiles/single/apply", plan=plan["id"])
    assert (stale.status_code, stale.json()["code"]) == (409, "plan_outdated")
    assert modelyard(yard, "profile", "ls")["activeProfile"] == "single"
    assert modelyard(yard, "profile", "apply", "pair")["status"] == "succeeded"
    assert complete(yard).keys() == set(NAMES)
