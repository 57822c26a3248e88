"""The whole service on real parts: embedded Redis, every process, a hub on loopback, models in real formats."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.demo.hub import Hub
from deploy.demo.models import make_gguf_llm, make_transformers_llm
from deploy.local import READY_SECONDS, Instance
from shared.settings import Settings
from shared.states import ENDED
from tests import canaries
from tests.conftest import until
from tests.factories.folders import gguf, write
from tests.factories.quick import make_quick_llm

MIB = 1024 * 1024
PATIENCE = 300
"""Seconds for an answer: a loaded machine takes a minute to start one model, and where that fails to start another."""


class Yard:
    """A running instance, and shorthands for what tests do with it."""

    def __init__(self, instance: Instance, hub: Hub) -> None:
        self.instance = instance
        self.hub = hub
        self.http = httpx.Client(base_url=instance.url, timeout=PATIENCE, trust_env=False)

    def post(self, path: str, body: dict[str, Any] | None = None, **query: Any) -> httpx.Response:
        return self.http.post(path, json=body, params=query) if body is not None else self.http.post(path, params=query)

    def add(self, model_id: str, repo: str, *, source: str = "huggingface", **more: Any) -> None:
        body = {
            "model_id": model_id, "model_type": "llm", "name": model_id, "source": source, "source_url": repo, **more,
        }  # fmt: skip
        answer = self.post("/api/v1/models/add", body)
        assert answer.status_code == 201, answer.text

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/jobs/{job_id}")
        answer.raise_for_status()
        job: dict[str, Any] = answer.json()
        return job

    def submitted(self, path: str, body: dict[str, Any] | None = None) -> str:
        answer = self.post(path, body)
        assert answer.status_code in (200, 202), answer.text
        job_id: str = answer.json()["job"]["id"]
        return job_id

    def ended(self, job_id: str, seconds: float = 120) -> dict[str, Any]:
        """The job once it has ended, whatever restarts in the meantime."""

        def look() -> dict[str, Any] | None:
            try:
                job = self.job(job_id)
            except httpx.HTTPError:
                return None
            return job if job["status"] in ENDED else None

        job: dict[str, Any] = until(look, seconds, f"the end of job {job_id}")
        return job

    def done(self, path: str, body: dict[str, Any] | None = None, seconds: float = 120) -> dict[str, Any]:
        """Submit, wait, and insist on success."""
        job = self.ended(self.submitted(path, body), seconds)
        assert job["status"] == "succeeded", job["error"]
        return job

    def pull(self, model_id: str, repo: str) -> dict[str, Any]:
        self.add(model_id, repo)
        return self.done("/api/v1/models/download", {"model_id": model_id})

    def say(self, model: str = "llm") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
        return self.post("/v1/chat/completions", body)

    def pid(self, name: str) -> int:
        """The process of that name, once the supervisor has it running."""

        def look() -> int | None:
            found = [process for process in self.instance.processes() if process.name == name and process.pid]
            return found[0].pid if found else None

        pid: int = until(look, 60, f"process {name}")
        return pid

    def ready(self) -> None:
        until(self.instance.is_ready, 90, "readiness")


@pytest.fixture(scope="session")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that start in a moment, one as a single file, and one that torch takes seconds to load."""
    root = tmp_path_factory.mktemp("hub")
    make_quick_llm(root / "tiny" / "acorn", 1, 6 * MIB)
    make_quick_llm(root / "tiny" / "birch", 2, 6 * MIB)
    make_gguf_llm(root / "tiny" / "cedar" / "cedar.gguf", 3, name="cedar")
    make_transformers_llm(root / "tiny" / "larch", 4, 6 * MIB, "larch")
    return root


def start(folder: Path, hub: Hub, *, flower: bool = False, **settings: str) -> Instance:
    """A new instance whose only source is the hub."""
    environment = {
        "HF_ENDPOINT": hub.url, "MODELYARD_DATA_DIR": str(folder), "MODELYARD_API__PORT": "0",
        "MODELYARD_FLOWER__PORT": "0", "MODELYARD_SOURCES__ALLOWED_HOSTS": hub.url.removeprefix("http://"),
        "MODELYARD_STORE__RESERVE_BYTES": "0", "MODELYARD_API__HOLD_SECONDS": str(PATIENCE),
        **(canaries.EVERYWHERE if canaries.wanted else {}), **settings,
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        instance = Instance(Settings(), flower=flower)
        instance.start()
        instance.wait_ready(READY_SECONDS)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return instance


@contextmanager
def opened(folder: Path, hub_root: Path, *, flower: bool = False, **settings: str) -> Iterator[Yard]:
    """An instance with these settings beside the usual ones, and its end."""
    with Hub(hub_root) as hub:
        instance = start(folder, hub, flower=flower, **settings)
        yard = Yard(instance, hub)
        try:
            yield yard
            if canaries.wanted:
                assert canaries.leaks(instance, canaries.EVERYWHERE) == []
        finally:
            yard.http.close()
            supervised = [psutil.Process(process.pid) for process in instance.processes() if process.pid]
            family = [*supervised, *(child for one in supervised for child in one.children(recursive=True))]
            instance.stop()
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive, "a process of ours outlived `up`"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, hub_root: Path) -> Iterator[Yard]:
    scanned = tmp_path_factory.mktemp("models")
    write(scanned / "mine.gguf", gguf("Mine"))
    with opened(tmp_path_factory.mktemp("yard"), hub_root, MODEL_SCAN_PATH=str(scanned)) as yard:
        yield yard


def needs_llama_server() -> None:
    from shared.errors import ModelyardError
    from workers.runtimes.llamacpp import find_binary

    try:
        find_binary(Settings().runners)
    except ModelyardError as missing:
        pytest.skip(f"NO LLAMA-SERVER, GGUF IS NOT TESTED: {missing.hint}")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def closed(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port_of(url))) != 0
