"""Two machines over the command line: one with a hub writes a lock and a bundle, the other becomes the same by them."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.models import make_transformers_llm
from tests.system.conftest import MIB, Yard, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

MODELS = ("ash", "elm")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's folder of our own, whose repositories change."""
    root = tmp_path_factory.mktemp("library")
    for seed, name in enumerate(MODELS):
        make_transformers_llm(root / "tiny" / name, seed, 6 * MIB, name)
    return root


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Yard]:
    with opened(tmp_path_factory.mktemp("here"), library) as yard:
        for name in MODELS:
            yard.add(name, f"tiny/{name}", tags=["night shift"], config={"context_length": 2048})
            yard.done("/api/v1/models/download", {"model_id": name})
            yard.hub.library.keep(f"tiny/{name}")
        yield yard


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Yard]:
    with opened(tmp_path_factory.mktemp("there"), library) as yard:
        yield yard


@pytest.fixture(scope="module")
def lock(here: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a person writes it, into the folder that they are in."""
    folder = tmp_path_factory.mktemp("repository")
    told = run(here, "lock", cwd=folder)
    assert told.returncode == 0, told.stderr
    assert "left out" in told.stderr, "the catalogue's models are not on disk"
    return folder / "models.lock"


def run(yard: Yard, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("modelyard")), *words], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "MODELYARD_URL": yard.instance.url}, check=False, timeout=300,
    )  # fmt: skip


def told(yard: Yard, *words: str, code: int = 0) -> Any:
    """What the command prints with `--json`."""
    ended = run(yard, *words, "--json")
    assert ended.returncode == code, f"{ended.stdout}\n{ended.stderr}"
    return json.loads(ended.stdout)


def files(yard: Yard, model_id: str) -> dict[str, str]:
    folder = Path(yard.http.get(f"/api/v1/models/{model_id}").json()["localPath"])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_lock_says_everything_and_twice_the_same(here: Yard, lock: Path) -> None:
    content = json.loads(lock.read_text())
    assert [entry["modelId"] for entry in content["models"]] == list(MODELS)
    for entry in content["models"]:
        assert {file["name"]: file["sha256"] for file in entry["files"]} == files(here, entry["modelId"])
        assert (entry["tags"], entry["config"]) == (["night shift"], {"context_length": 2048})
        shown = here.http.get(f"/api/v1/models/{entry['modelId']}").json()
        assert (entry["revision"], entry["sourceUrl"]) == (shown["installedRevision"], f"tiny/{entry['modelId']}")
    assert run(here, "lock", "write", "-o", "-").stdout == lock.read_text()
    assert told(here, "lock", "drift", str(lock)) == {"drift": False, "findings": []}


def test_another_machine_becomes_the_same_although_the_hub_moved_on(
    here: Yard, there: Yard, lock: Path, library: Path
) -> None:
    for name in MODELS:
        (library / "tiny" / name / "notes.txt").write_text("A newer revision.\n")
    planned = told(there, "lock", "apply", str(lock), "--dry-run")
    assert planned["counts"] == {"add": 2}
    assert there.http.get("/api/v1/models/ash").status_code == 404, "a dry run changes nothing"
    assert told(there, "lock", "drift", str(lock), code=1)["drift"]
    applied = run(there, "lock", "apply", str(lock))
    assert applied.returncode == 0, applied.stderr
    assert "+ ash" in applied.stdout
    for name in MODELS:
        assert files(there, name) == files(here, name)
        assert "notes.txt" not in files(there, name)
    assert told(there, "lock", "drift", str(lock), "--verify") == {"drift": False, "findings": []}
    assert told(there, "lock", "write", "-o", str(lock.with_name("theirs.lock")))["models"] == list(MODELS)
    assert lock.with_name("theirs.lock").read_text() == lock.read_text()


def test_applied_twice_is_applied_once(there: Yard, lock: Path) -> None:
    before = there.http.get("/api/v1/jobs").json()["jobs"][0]["id"]
    sent = there.hub.sent()
    again = told(there, "lock", "apply", str(lock), "--prune")
    assert (again["jobs"], again["plan"]["unchanged"]) == ([], 2)
    assert (there.http.get("/api/v1/jobs").json()["jobs"][0]["id"], there.hub.sent()) == (before, sent)


def test_what_drifted_is_named_and_brought_back(there: Yard, lock: Path) -> None:
    """One updated, one gone, one too many, and a byte that turned."""
    told(there, "update", "ash")
    told(there, "rm", "elm")
    there.pull("oak", "tiny/elm")
    found = told(there, "lock", "drift", str(lock), code=1)["findings"]
    assert {finding["modelId"]: [each["what"] for each in finding["differences"]] for finding in found} == {
        "ash": ["revision"], "elm": ["missing"], "oak": ["extra"],
    }  # fmt: skip
    shown = run(there, "lock", "plan", str(lock), "--prune").stdout
    assert ("~ ash" in shown, "+ elm" in shown, "- oak" in shown) == (True, True, True)
    told(there, "lock", "apply", str(lock), "--prune")
    assert there.http.get("/api/v1/models/oak").status_code == 404
    assert "oak" in {entry["modelId"] for entry in told(there, "trash")["entries"]}, "and may come back"
    weights = Path(there.http.get("/api/v1/models/ash").json()["localPath"]) / "model.safetensors"
    damage(weights)
    found = told(there, "lock", "drift", str(lock), "--verify", code=1)["findings"]
    assert [(finding["modelId"], finding["differences"][0]["what"]) for finding in found] == [("ash", "damaged")]
    applied = told(there, "lock", "apply", str(lock))
    assert [job["kind"] for job in applied["jobs"]] == ["model.repair"]
    assert told(there, "lock", "drift", str(lock), "--verify")["drift"] is False


def damage(path: Path) -> None:
    mode = path.stat().st_mode
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(mode)


def test_a_source_that_serves_something_else_is_refused(there: Yard, lock: Path, library: Path) -> None:
    """The same commit, other weights, and digests of the source's that fit them."""
    (entry,) = [entry for entry in json.loads(lock.read_text())["models"] if entry["modelId"] == "elm"]
    weights = library / "tiny" / f"elm@{entry['revision']}" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    told(there, "rm", "elm")
    ended = run(there, "lock", "apply", str(lock))
    assert ended.returncode == 1
    assert "lock_mismatch" in ended.stderr
    assert there.http.get("/api/v1/models/elm").json()["status"] == "failed"
    weights.write_bytes(whole)
    told(there, "lock", "apply", str(lock))
    assert told(there, "lock", "drift", str(lock))["drift"] is False


def test_a_bundle_needs_no_hub(here: Yard, there: Yard, lock: Path, tmp_path: Path) -> None:
    there.hub.stop()
    for name in MODELS:
        told(there, "rm", name)
    usb = tmp_path / "usb.tar"
    made = told(here, "bundle", "export", *MODELS, "-o", str(usb))
    sha256 = made["result"]["sha256"]
    assert hashlib.sha256(usb.read_bytes()).hexdigest() == sha256
    assert usb.stat().st_mode & 0o777 in (0o600, 0o640)
    brought = told(there, "bundle", "import", str(usb), "--sha256", sha256)
    assert [entry["modelId"] for entry in brought["result"]["models"]] == list(MODELS)
    assert told(there, "lock", "drift", str(lock), "--verify") == {"drift": False, "findings": []}
    for name in MODELS:
        assert files(there, name) == files(here, name)
        assert told(there, "show", name)["cameFrom"].startswith("bundle usb-")
    folder = Path(told(there, "bundle", "ls")["folder"])
    assert list(folder.iterdir()) == [], "what was put there for the import went again"
    there.done("/api/v1/models/activate", {"model_id": "ash"})
    assert there.say().headers["x-modelyard-model"] == "ash"


def test_a_bundle_without_a_place_stays_where_it_is_told(here: Yard, tmp_path: Path) -> None:
    ended = run(here, "bundle", "export", "ash")
    assert ended.returncode == 0, ended.stderr
    sha256, _, place = ended.stdout.strip().splitlines()[-1].partition("  ")
    assert hashlib.sha256(Path(place).read_bytes()).hexdigest() == sha256
    assert [bundle["name"] for bundle in told(here, "bundle", "ls")["bundles"]] == ["ash.tar"]
    assert told(here, "bundle", "import", "ash.tar")["result"]["models"][0]["alreadyPresent"] is True
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(Path(place).read_bytes()[:-1])
    refused = run(here, "bundle", "import", str(damaged))
    assert (refused.returncode, "bundle_damaged" in refused.stderr) == (1, True)
    missing = run(here, "bundle", "import", "nothing.tar")
    assert (missing.returncode, "MODELYARD_STORE__BUNDLES" in missing.stderr) == (1, True)


def test_a_lock_that_is_not_there_or_none(here: Yard, tmp_path: Path) -> None:
    for content, code in ((None, "no_lock"), ("{", "invalid_lock"), ('{"lockVersion": 9, "models": []}', "invalid")):
        file = tmp_path / "models.lock"
        if content is not None:
            file.write_text(content)
        ended = run(here, "lock", "drift", str(file))
        assert (ended.returncode, code in ended.stderr) == (1, True), ended.stderr
