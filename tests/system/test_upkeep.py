"""Keeping models in health over the command line, with one of them in use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Yard

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


def run(yard: Yard, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(Path(sys.executable).with_name("modelyard")), *words],
        env={**os.environ, "MODELYARD_URL": yard.instance.url}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def modelyard(yard: Yard, *words: str) -> Any:
    """What the command prints with `--json`; fails where it does."""
    told = run(yard, *words, "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


@pytest.mark.fault("F-57")
def test_an_update_while_the_model_serves(yard: Yard, hub_root: Path) -> None:
    shutil.copytree(hub_root / "tiny" / "acorn", hub_root / "tiny" / "rowan")
    yard.pull("rowan", "tiny/rowan")
    yard.done("/api/v1/models/activate", {"model_id": "rowan"})
    (hub_root / "tiny" / "rowan" / "notes.txt").write_text("A new revision, its weights as they were.\n")
    assert modelyard(yard, "update", "rowan", "--check")["result"]["changedFiles"] == ["notes.txt"]
    before = yard.http.get("/api/v1/models/rowan").json()
    job = modelyard(yard, "update", "rowan")
    assert job["result"]["previous"] == before["installedRevision"]
    assert yard.say().headers["x-modelyard-model"] == "rowan", "the revision in memory goes on"
    assert Path(before["localPath"]).is_dir()
    yard.done("/api/v1/models/rowan/switch")
    assert yard.say().status_code == 200
    assert modelyard(yard, "rollback", "rowan")["result"]["revision"] == before["installedRevision"]
    shown = yard.http.get("/api/v1/models/rowan/update").json()
    assert (shown["updateAvailable"], shown["installedRevision"]) == (True, before["installedRevision"])


@pytest.mark.fault("A-46")
def test_a_name_that_somebody_else_has_taken(yard: Yard, hub_root: Path) -> None:
    """The words that the refusal names are the ones that go on."""
    (hub_root / "tiny" / "rowan" / "notes.txt").write_text("By somebody else.\n")
    yard.hub.library.forget("tiny/rowan")
    refused = run(yard, "update", "rowan")
    assert refused.returncode == 1
    assert "modelyard update rowan --accept-new-history" in " ".join((refused.stdout + refused.stderr).split())
    only_asks = run(yard, "update", "rowan", "--check", "--accept-new-history")
    assert (only_asks.returncode, "--check only asks" in only_asks.stderr) == (2, True)
    assert modelyard(yard, "update", "rowan", "--accept-new-history")["result"]["updated"] is True


def test_what_is_typed_now_counts(yard: Yard) -> None:
    """Another revision or checksum of a model that is known is not answered with what is there."""
    modelyard(yard, "pull", "hf:tiny/birch", "--id", "typed")
    refused = run(yard, "pull", "hf:tiny/birch@nope", "--id", "typed")
    assert (refused.returncode, "nope" in refused.stdout + refused.stderr) == (1, True)
    assert modelyard(yard, "pull", "hf:tiny/birch", "--id", "typed")["result"]["alreadyPresent"] is True
    url = f"{yard.hub.url}/files/tiny/larch/model.safetensors"
    modelyard(yard, "pull", url, "--id", "summed")
    wrong = run(yard, "pull", url, "--id", "summed", "--checksum", f"sha256:{'0' * 64}")
    assert (wrong.returncode, "checksum_mismatch" in wrong.stdout + wrong.stderr) == (1, True)
    again = run(yard, "pull", url, "--id", "summed")
    assert (again.returncode, "checksum_mismatch" in again.stdout + again.stderr) == (1, True), "it still holds"
    meant = run(yard, "pull", "tiny/birch")
    assert (meant.returncode, "hf:tiny/birch" in meant.stderr) == (1, True)


def test_a_removed_model_comes_back(yard: Yard) -> None:
    yard.pull("spare", "tiny/birch")
    info = modelyard(yard, "storage")
    assert "spare" in {model["modelId"] for store in info["stores"] for model in store["models"]}
    modelyard(yard, "rm", "spare")
    (entry,) = [entry for entry in modelyard(yard, "trash")["entries"] if entry["modelId"] == "spare"]
    assert entry["id"] in run(yard, "trash").stdout, "to be copied whole"
    modelyard(yard, "restore", "spare")
    assert modelyard(yard, "verify", "spare", "--tier", "source")["result"]["ok"]
    assert yard.http.get("/api/v1/models/spare").json()["status"] == "available"


@pytest.mark.fault("F-57")
def test_a_file_that_was_edited_is_not_loaded(yard: Yard) -> None:
    folder = Path(yard.http.get("/api/v1/models/spare").json()["localPath"])
    weights = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    weights.chmod(0o640)
    os.truncate(weights, weights.stat().st_size - 1)
    job = yard.ended(yard.submitted("/api/v1/models/spare/switch"))
    assert (job["status"], job["error"]["code"]) == ("failed", "model_corrupt")
    assert yard.http.get("/api/v1/models/spare").json()["status"] == "corrupted"
    modelyard(yard, "repair", "spare")
    yard.done("/api/v1/models/spare/switch")


def test_what_nobody_uses_leaves_and_comes_back(yard: Yard, hub_root: Path) -> None:
    """As the command line tells it; and a removal tells who needs the model."""
    shutil.copytree(hub_root / "tiny" / "acorn", hub_root / "tiny" / "aspen")
    (hub_root / "tiny" / "aspen" / "notes.txt").write_text("What no other model has.\n" * 100)
    yard.pull("aspen", "tiny/aspen")
    policy = modelyard(yard, "retention", "--unused-days", "1e-7", "--recent-days", "0")
    assert policy["changed"] == ["maxUnusedDays", "recentDays"]
    dry = modelyard(yard, "cleanup", "aspen", "--dry-run")["result"]
    assert [each["modelId"] for each in dry["recommendations"]] == ["aspen"]
    shown = run(yard, "cleanup", "aspen", "--dry-run").stdout
    assert "nothing was touched" in shown
    real = modelyard(yard, "cleanup", "aspen")["result"]
    assert (real["models"], real["frees"]) == (1, dry["frees"])
    assert yard.http.get("/api/v1/models/aspen").json()["status"] == "missing"
    assert modelyard(yard, "restore", "aspen")["result"]["ok"]
    assert "aspen" in run(yard, "cleanup", "aspen").stdout
    assert modelyard(yard, "restore", "aspen")["result"]["ok"]
    assert modelyard(yard, "retention", "--reset")["changed"] == []
    modelyard(yard, "pin", "aspen")
    refused = run(yard, "rm", "aspen")
    assert refused.returncode == 1
    assert "modelyard unpin aspen" in " ".join((refused.stdout + refused.stderr).split())
    assert modelyard(yard, "rm", "aspen", "--force")["status"] == "succeeded"
