"""Cancel, pause and the rest on work that runs: through REST and the command line, on real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.models import make_transformers_llm
from tests.conftest import until
from tests.system.conftest import MIB, Yard, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

COMMAND = Path(sys.executable).parent / "modelyard"
HEARD_SECONDS = 20.0
"""Far over the two seconds that are promised: machines that run tests are busy. The figures are printed."""


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a process is told to wait, see `shared/points.py`."""
    return tmp_path_factory.mktemp("points") / "order"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, hub_root: Path, order: Path) -> Iterator[Yard]:
    with opened(tmp_path_factory.mktemp("yard"), hub_root, MODELYARD_FAULT_FILE=str(order)) as yard:
        yield yard


@pytest.fixture(scope="module")
def broad(yard: Yard, hub_root: Path) -> str:
    """A model that takes a while to fetch and to hash; not fetched yet."""
    make_transformers_llm(hub_root / "tiny" / "broad", 7, 96 * MIB, "broad")
    yard.add("broad", "tiny/broad")
    return "broad"


def command(yard: Yard, *arguments: str) -> str:
    environment = {**os.environ, "MODELYARD_URL": yard.instance.url}
    done = subprocess.run(
        [COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def at_work(yard: Yard, job_id: str, *phases: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = yard.job(job_id)
        assert job["status"] in ("queued", "running"), f"over before it could be controlled: {job}"
        return job if job["status"] == "running" and job["phase"] in phases else None

    found: dict[str, Any] = until(look, what=f"phase {phases}")
    return found


def heard(yard: Yard, what: str, job_id: str, action: str, status: str) -> dict[str, Any]:
    """Ask for it, and wait until the job obeys."""
    began = time.monotonic()
    answer = yard.post(f"/api/v1/jobs/{job_id}/{action}")
    assert answer.status_code == 200, answer.text
    until(lambda: yard.job(job_id)["status"] == status, HEARD_SECONDS, f"{action} of {what}")
    print(f"{action} of a running {what}: {time.monotonic() - began:.2f} s")
    return yard.job(job_id)


@pytest.mark.fault("F-27")
def test_a_running_download(yard: Yard, broad: str) -> None:
    yard.hub.throttle(MIB / 8)  # and connection; it is to run for as long as all of this takes where others work, too
    job_id = yard.submitted("/api/v1/models/download", {"model_id": broad})
    until(lambda: (yard.job(job_id)["bytesDone"] or 0) > MIB, what="the first megabyte")
    job = heard(yard, "download", job_id, "pause", "paused")
    done, share = job["bytesDone"], job["progress"]
    assert yard.http.get(f"/api/v1/models/{broad}").json()["status"] == "paused"
    assert yard.post(f"/api/v1/jobs/{job_id}/pause").status_code == 200, "twice is once"
    assert "queued" in command(yard, "resume", job_id)
    job = at_work(yard, job_id, "downloading")
    until(lambda: (yard.job(job_id)["bytesDone"] or 0) > done, what="going on")
    assert yard.job(job_id)["progress"] >= share
    assert "LOW" in command(yard, "priority", job_id, "low")
    assert "pause asked for" in command(yard, "pause", job_id[:8])
    until(lambda: yard.job(job_id)["status"] == "paused", HEARD_SECONDS, "pause by the command line")
    command(yard, "resume", job_id)
    at_work(yard, job_id, "downloading")
    job = heard(yard, "download", job_id, "cancel", "cancelled")
    assert job["finishedAt"]
    assert yard.post(f"/api/v1/jobs/{job_id}/cancel").status_code == 200, "twice is once"
    before = yard.hub.sent()
    yard.hub.throttle(None)
    assert "queued" in command(yard, "retry", job_id)
    ended = yard.ended(job_id)
    assert ended["status"] == "succeeded", ended["error"]
    assert yard.hub.sent() - before < ended["result"]["size"] + MIB
    assert yard.post(f"/api/v1/jobs/{job_id}/cancel").json()["code"] == "job_ended"


@pytest.mark.fault("F-27")
def test_a_running_verify(yard: Yard, broad: str, order: Path) -> None:
    held = order.with_suffix(".held")
    if yard.http.get(f"/api/v1/models/{broad}").json()["status"] != "available":
        yard.done("/api/v1/models/download", {"model_id": broad})
    for action, status in (("pause", "paused"), ("cancel", "cancelled")):
        order.write_text("verify.hashed hold", encoding="utf-8")
        job_id = yard.submitted(f"/api/v1/models/{broad}/verify")
        until(held.exists, what="a verify in the middle of its bytes")
        assert yard.post(f"/api/v1/jobs/{job_id}/{action}").json()["status"] == "running"
        time.sleep(1.5)  # a heartbeat brings the wish to the worker; nothing shows when
        held.unlink()
        job = heard(yard, "verify", job_id, action, status)
        assert job["result"] is None
        assert yard.http.get(f"/api/v1/models/{broad}").json()["status"] == "available", "not found bad, nor proven"
        yard.post(f"/api/v1/jobs/{job_id}/{'resume' if status == 'paused' else 'retry'}")
        ended = yard.ended(job_id)
        assert (ended["status"], ended["result"]["ok"]) == ("succeeded", True)


@pytest.mark.fault("F-27")
def test_a_running_load_leaves_the_old_model_serving(yard: Yard) -> None:
    for name in ("acorn", "larch"):
        yard.pull(name, f"tiny/{name}")
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    job_id = yard.submitted("/api/v1/models/larch/switch")
    at_work(yard, job_id, "loading")
    heard(yard, "load", job_id, "cancel", "cancelled")
    assert yard.http.get("/api/v1/models/active/llm").json()["modelId"] == "acorn"
    assert yard.say().headers["x-modelyard-model"] == "acorn"
    held = [model["modelId"] for model in yard.http.get("/api/v1/models").json()["models"] if model["loadState"]]
    assert held == ["acorn"], "the one that was on its way has left memory"
    job_id = yard.submitted("/api/v1/models/larch/switch")
    at_work(yard, job_id, "loading")
    heard(yard, "load", job_id, "pause", "paused")
    assert yard.say().headers["x-modelyard-model"] == "acorn"
    assert yard.post(f"/api/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
