"""A model that serves is damaged: that is found, told, mended, and nobody is cut off for it."""

import os
from pathlib import Path
from typing import Any

import pytest

from shared.states import ENDED
from tests.conftest import until
from tests.system.conftest import Yard
from tests.system.test_upkeep import modelyard, run

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


def flip(path: Path, place: int) -> None:
    """As a failing disk does it: times and rights as before."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.fault("F-57", "F-48")
def test_damage_of_a_model_that_serves_is_found_and_mended(yard: Yard) -> None:
    yard.pull("hazel", "tiny/acorn")
    yard.done("/api/v1/models/activate", {"model_id": "hazel"})
    live = modelyard(yard, "health", "hazel", "--check", "live")
    assert (live["health"], live["recent"], live["loadState"]) == ("healthy", ["well"], "ready")
    assert live["performance"] == 1.0
    folder = Path(yard.http.get("/api/v1/models/hazel").json()["localPath"])
    weights = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    flip(weights, weights.stat().st_size // 2)
    found = looked_at(yard, "hazel", level="deep")
    assert (found["health"], found["files"]["corrupted"][0]["name"]) == ("corrupted", weights.name)
    repair: dict[str, Any] = until(lambda: _ended(yard, found["files"]["repairJobId"]), 120, "the repair")
    assert (repair["status"], repair["priority"], repair["result"]["repaired"]) == (
        "succeeded", "CRITICAL", [weights.name],
    )  # fmt: skip
    assert yard.say().status_code == 200, "it served all the while"
    after = modelyard(yard, "health", "hazel", "--check", "deep")
    assert (after["health"], after["integrity"], after["corrupted"]) == ("healthy", 1.0, False)
    told = run(yard, "health", "hazel").stdout
    assert "healthy" in told
    assert "hazel" in run(yard, "health").stdout
    assert modelyard(yard, "importance", "hazel", "HIGH")["priority"] == "HIGH"
    assert "uses a day" in run(yard, "importance", "hazel", "auto").stdout


def looked_at(yard: Yard, model_id: str, **query: Any) -> dict[str, Any]:
    """The result of a check."""
    job = yard.ended(yard.post(f"/api/v1/models/{model_id}/health", **query).json()["job"]["id"])
    assert job["status"] == "succeeded", job["error"]
    result: dict[str, Any] = job["result"]
    return result


def _ended(yard: Yard, job_id: str) -> dict[str, Any] | None:
    job = yard.job(job_id)
    return job if job["status"] in ENDED else None


def test_one_that_is_not_in_memory_is_loaded_to_be_asked(yard: Yard) -> None:
    yard.pull("elder", "tiny/birch")
    assert looked_at(yard, "elder", level="live")["live"]["why"]["code"] == "not_in_memory"
    result = looked_at(yard, "elder", level="live", load=True)
    assert (result["live"]["ok"], result["loadState"], result["health"]) == (True, "ready", "healthy")
