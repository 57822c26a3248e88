"""kill -9 of anything: it comes back, its job ends, and what was proven is not fetched again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.hub import Hub
from deploy.demo.models import make_transformers_llm
from tests.conftest import free_port, until
from tests.system.conftest import MIB, Yard, start

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

BIG = 512 * MIB
CONNECTIONS, CHUNK = 8, 16 * MIB
"""What these may have in hand is less than the half that is there when the worker dies."""


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a process is told to wait, see `shared/points.py`."""
    return tmp_path_factory.mktemp("points") / "order"


@pytest.fixture(scope="module")
def slow_yard(tmp_path_factory: pytest.TempPathFactory, hub_root: Path, order: Path) -> Iterator[Yard]:
    """A hub that gives 4 MiB/s a connection, and a model of 512 MiB on it."""
    make_transformers_llm(hub_root / "tiny" / "oak", 4, BIG, "oak")
    with Hub(hub_root, rate=4 * MIB) as hub:
        settings = {"MODELYARD_FAULT_FILE": str(order), "MODELYARD_SOURCES__CONNECTIONS": str(CONNECTIONS)}
        instance = start(tmp_path_factory.mktemp("kills"), hub, **settings)
        yard = Yard(instance, hub)
        yield yard
        yard.http.close()
        instance.stop()


def kill(yard: Yard, name: str) -> int:
    """kill -9, and wait until another process of that name runs."""
    before = yard.pid(name)
    os.kill(before, signal.SIGKILL)
    after: int = until(lambda: (pid := yard.pid(name)) != before and pid, 60, f"another {name}")
    return after


@pytest.mark.fault("F-2")
def test_a_killed_download_goes_on_where_it_was(slow_yard: Yard) -> None:
    yard = slow_yard
    yard.add("oak", "tiny/oak")
    job_id = yard.submitted("/api/v1/models/download", {"model_id": "oak"})
    until(lambda: (yard.job(job_id)["bytesDone"] or 0) > BIG // 2, 90, "half of the download")
    kill(yard, "io")
    killed = time.monotonic()
    until(lambda: yard.job(job_id)["attempt"] == 2, 60, "the second attempt within 60 s")
    print(f"second attempt after {time.monotonic() - killed:.1f} s")
    job = yard.ended(job_id, 180)
    assert job["status"] == "succeeded", job["error"]
    size = job["result"]["size"]
    twice = yard.hub.sent("oak") - size
    print(f"{size} bytes, {twice} fetched twice ({twice / size:.2%})")
    assert twice <= CONNECTIONS * CHUNK
    assert yard.done("/api/v1/models/oak/verify", seconds=180)["result"]["ok"]


@pytest.mark.fault("F-14")
def test_redis_dies(slow_yard: Yard, order: Path) -> None:
    yard, held = slow_yard, order.with_suffix(".held")
    until(lambda: yard.http.get("/api/v1/models/oak").json()["status"] == "available", what="oak")
    order.write_text("verify.hashed hold", encoding="utf-8")
    running = yard.submitted("/api/v1/models/oak/verify")
    until(held.exists, what="a verify in the middle of its bytes")
    kill(yard, "redis")
    held.unlink()
    assert yard.ended(running)["status"] == "succeeded"
    yard.ready()
    assert yard.done("/api/v1/models/oak/verify", seconds=60)["result"]["ok"], "consuming again"


def test_the_api_dies(slow_yard: Yard) -> None:
    yard = slow_yard
    job_id = yard.submitted("/api/v1/models/oak/verify")
    kill(yard, "api")
    yard.ready()
    assert yard.ended(job_id)["status"] == "succeeded"


def test_beat_dies(slow_yard: Yard) -> None:
    kill(slow_yard, "beat")
    slow_yard.done("/api/v1/models/oak/verify")


def test_the_device_worker_dies(slow_yard: Yard) -> None:
    """Its runners die with it; the model that served its type is loaded again, and requests wait for it. So is one that
    is pinned, though it serves none."""
    yard = slow_yard
    for name in ("acorn", "larch"):
        yard.pull(name, f"tiny/{name}")
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    yard.done("/api/v1/models/larch/load")
    assert yard.post("/api/v1/models/larch/pin").status_code == 200
    assert yard.say().status_code == 200
    runners = psutil.Process(yard.pid("device-cpu")).children(recursive=True)
    assert runners
    kill(yard, "device-cpu")
    _, alive = psutil.wait_procs(runners, timeout=5)
    assert not alive, "a runner outlived its worker"
    answer = yard.say()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-modelyard-model"] == "acorn"
    larch = "/api/v1/models/larch"
    until(lambda: yard.http.get(larch).json()["loadState"] == "ready", 120, "the pinned one")
    assert not yard.http.get(larch).json()["active"]
    yard.post(f"{larch}/unpin")
    yard.done("/api/v1/models/deactivate/larch")


def test_a_runner_dies(slow_yard: Yard) -> None:
    yard = slow_yard
    (runner,) = psutil.Process(yard.pid("device-cpu")).children()
    runner.kill()
    answer = yard.say()
    assert (answer.status_code, answer.headers.get("x-modelyard-model")) == (200, "acorn"), answer.text


@pytest.mark.fault("F-7")
def test_the_device_worker_dies_in_a_switch(slow_yard: Yard) -> None:
    """The recovery of the old model does not undo the switch: the new one is active, and answers."""
    yard = slow_yard
    job_id = yard.submitted("/api/v1/models/larch/switch")
    until(lambda: yard.job(job_id)["phase"] == "loading", what="loading")
    kill(yard, "device-cpu")
    job = yard.ended(job_id, 120)
    assert job["status"] == "succeeded", job["error"]
    until(lambda: not yard.http.get("/api/v1/jobs?status=queued").json()["jobs"], 60)
    active = yard.http.get("/api/models/active/llm").json()["modelId"]
    answer = yard.say()
    assert (answer.status_code, answer.headers["x-modelyard-model"], active) == (200, "larch", "larch")


def test_interrupt_leaves_nothing(tmp_path: Path, hub_root: Path) -> None:
    """SIGINT to `modelyard up` with a model loaded: all gone within 15 s, runners included."""
    port = free_port()
    with Hub(hub_root) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "MODELYARD_STORE__RESERVE_BYTES": "0"}
        command = (
            Path(sys.executable).with_name("modelyard"),
            "up",
            "--port",
            str(port),
            "--data-dir",
            tmp_path / "data",
        )
        up = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            until(lambda: _status(client, "/health/ready") == 200, 120, "readiness")
            body = {
                "model_id": "acorn",
                "model_type": "llm",
                "name": "a",
                "source": "huggingface",
                "source_url": "tiny/acorn",
            }
            client.post("/api/v1/models/add", json=body).raise_for_status()
            for path in ("download", "activate"):
                job = client.post(f"/api/v1/models/{path}?wait=60", json={"model_id": "acorn"}).json()["job"]
                assert job["status"] == "succeeded", job
        family = psutil.Process(up.pid).children(recursive=True)
        assert len(family) >= 8
        began = time.monotonic()
        up.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs([psutil.Process(up.pid), *family], timeout=15)
        print(f"{len(family) + 1} processes gone after {time.monotonic() - began:.1f} s")
        assert not alive
        assert up.wait() == 0


def _status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.HTTPError:
        return 0
