"""Two models that fit one at a time: who is put out sleeps, and comes back without its files."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.demo.models import make_transformers_llm
from tests.conftest import until
from tests.faults.conftest import ROOM_FOR_ONE
from tests.system.conftest import MIB, Yard, opened
from tests.system.test_upkeep import modelyard

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

WEIGHTS = 32 * MIB
SETTINGS = {
    "MODELYARD_RUNNERS__MEMORY_LIMIT": ROOM_FOR_ONE["torch"], "MODELYARD_RUNNERS__SLEEP_BYTES": "8GB",
    "MODELYARD_RUNNERS__MIN_RESIDENCE_SECONDS": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    root = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(("acorn", "birch")):
        make_transformers_llm(root / "tiny" / name, seed, WEIGHTS, name)
    with opened(tmp_path_factory.mktemp("yard"), root, **SETTINGS) as yard:
        for name in ("acorn", "birch"):
            yard.pull(name, f"tiny/{name}")
        yield yard


def servers(yard: Yard) -> dict[tuple[str, str], int | None]:
    """The process of each by model and state."""
    told = yard.http.get("/api/v1/models/servers").json()["servers"]
    return {(one["modelId"], one["state"]): one["pid"] for one in told}


def text(yard: Yard, model: str) -> str:
    said: str = yard.say(model).json()["choices"][0]["message"]["content"]
    return said


def test_who_made_room_wakes_for_the_next_request(yard: Yard) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    acorn = text(yard, "acorn")
    pid = servers(yard)["acorn", "ready"]
    assert pid is not None
    birch = text(yard, "birch")
    assert servers(yard).keys() == {("acorn", "asleep"), ("acorn", "idle"), ("birch", "ready")}
    assert "asleep" in {model["loadState"] for model in modelyard(yard, "ls")}
    read = psutil.Process(pid).io_counters().read_chars
    assert text(yard, "llm") == acorn, "its type is still its own"
    assert servers(yard)["acorn", "ready"] == pid
    assert psutil.Process(pid).io_counters().read_chars - read < WEIGHTS / 8
    assert text(yard, "birch") == birch
    (job,) = yard.http.get("/api/v1/jobs", params={"kind": "model.load", "limit": 1}).json()["jobs"]
    assert job["result"]["woken"]


def test_a_switch_leaves_a_sleeper_and_the_switch_back_wakes_it(yard: Yard) -> None:
    yard.done("/api/v1/models/acorn/switch")
    pid = servers(yard)["acorn", "ready"]
    yard.done("/api/v1/models/birch/switch")
    assert servers(yard).keys() == {("acorn", "asleep"), ("birch", "ready")}
    result = yard.done("/api/v1/models/acorn/switch")["result"]
    assert result["woken"]
    assert servers(yard) == {("acorn", "ready"): pid, ("birch", "asleep"): servers(yard)["birch", "asleep"]}


def test_a_model_that_is_removed_sleeps_no_more(yard: Yard) -> None:
    pid = servers(yard)["birch", "asleep"]
    assert pid is not None
    answer = yard.http.delete("/api/v1/models/birch")
    assert answer.status_code == 202, answer.text
    until(lambda: not psutil.pid_exists(pid), what="the end of its runner")
    assert Path(f"/proc/{servers(yard)['acorn', 'ready']}").exists()
