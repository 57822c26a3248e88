"""A service in use moves to PostgreSQL with one command, and goes on there as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.system.conftest import Yard, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture
def target(postgres_url: str) -> str:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("CREATE DATABASE yard")
    return f"{postgres_url.rpartition('/')[0]}/yard"


def seen(yard: Yard) -> dict[str, Any]:
    """What people would miss."""
    models = yard.http.get("/api/v1/models", params={"limit": 500}).json()["models"]
    return {
        "jobs": {job["id"]: job["status"] for job in yard.http.get("/api/v1/jobs").json()["jobs"]},
        "models": {model["modelId"]: (model["status"], model["revision"], model["aliases"]) for model in models},
        "webhooks": [
            [hook[name] for name in ("id", "url", "events")]
            for hook in yard.http.get("/api/v1/webhooks").json()["webhooks"]
        ],
        "limits": yard.http.get("/api/v1/limits").json(),
        "audit": yard.http.get("/api/v1/audit").json()["entries"],
    }


def move(folder: Path, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    code = "from api.cli.main import main; main()"
    command = [sys.executable, "-c", code, "migrate-database", "-", "--data-dir", str(folder), *more]
    quick = os.environ | {"MODELYARD_JOBS__RESCUE_SECONDS": "0.5"}
    return subprocess.run(
        command, input=f"{url}\n", capture_output=True, text=True, env=quick, timeout=120, check=False
    )


def test_everything_goes_along(tmp_path: Path, hub_root: Path, target: str) -> None:
    data = tmp_path / "data"
    with opened(data, hub_root) as yard:
        yard.pull("acorn", "tiny/acorn")
        yard.done("/api/v1/models/activate", {"model_id": "acorn"}, 300)
        assert yard.say().status_code == 200
        hook = {"url": "https://hooks.example.org/x", "events": ["job.*"]}
        assert yard.post("/api/v1/webhooks", hook).status_code == 201
        before = seen(yard)
        refused = move(data, target)
        assert refused.returncode == 1
        assert "already runs" in refused.stderr + refused.stdout
    moved = move(data, target, "--json")
    assert moved.returncode == 0, moved.stderr
    counts = json.loads(moved.stdout[moved.stdout.index("{") :])["rows"]
    assert counts["jobs"] >= len(before["jobs"])
    assert counts["models"] == len(before["models"])
    (data / "modelyard.db").rename(data / "modelyard.db.before")  # nothing may come from there any more
    with opened(data, hub_root, MODELYARD_DATABASE_URL=target) as yard:
        after = seen(yard)
        assert {job: after["jobs"].get(job) for job in before["jobs"]} == before["jobs"]
        assert {name: after[name] for name in ("models", "webhooks", "limits")} == {
            name: before[name] for name in ("models", "webhooks", "limits")
        }
        known = {entry["seq"]: entry for entry in after["audit"]}
        assert all(known[entry["seq"]] == entry for entry in before["audit"])
        assert yard.say().status_code == 200, "what served is brought back"
        yard.pull("birch", "tiny/birch")
    assert not (data / "modelyard.db").exists()
