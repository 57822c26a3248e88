"""The running service as a client sees it: a model added, a job asked for, its end waited for."""

import http.client
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.environment import environment
from shared.settings import SourceSettings, StoreSettings
from tests.benchmarks.hosting import Host
from tests.benchmarks.stage import Stage

LOOK_SECONDS = 0.05
PATIENCE = 600.0


@dataclass
class Service:
    """An API and a real io worker on a store of their own."""

    address: str
    pids: dict[str, int]
    store: Path

    def add(self, model_id: str, repo: str) -> None:
        self._ask("POST", "/models/add", model_id=model_id, model_type="llm", name=model_id,
                  source="huggingface", source_url=repo)  # fmt: skip

    def carry_out(self, path: str, **body: Any) -> dict[str, Any]:
        """Submit a job and wait until it has succeeded; its result.

        Raises:
            RuntimeError: it did not.
        """
        job = self._ask("POST", path, **body)["job"]
        until = time.monotonic() + PATIENCE
        while job["status"] in ("queued", "running") and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            job = self._ask("GET", f"/jobs/{job['id']}")
        if job["status"] != "succeeded":
            message = f"{path}: {job}"
            raise RuntimeError(message)
        found: dict[str, Any] = job["result"]
        return found

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        sent = json.dumps(body) if body else None
        connection.request(method, f"/api/v1{path}", sent, {"Content-Type": "application/json"} if sent else {})
        answer = connection.getresponse()
        told: dict[str, Any] = json.loads(answer.read())
        connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            message = f"{method} {path}: {told}"
            raise RuntimeError(message)
        return told.get("job", told) if method == "GET" else told


def serve(stage: Stage, host: Host, store: Path) -> Service:
    """The service, ready, with a store in that folder, and that host as its Hub."""
    sources = SourceSettings(
        hf_endpoint=host.endpoint, allowed_hosts=[host.cdn.partition("//")[2]], ca_bundle=host.certificate
    )
    kept = StoreSettings(root=store, reserve_bytes=0, share_files=False, keep_previous=False, scrub_days=0)
    settings = stage.settings("service", 0).model_copy(update={"sources": sources, "store": kept})
    address, api = stage.api(settings)
    worker = stage.run("io", "workers", "io", **environment(settings))
    return Service(address, {"api": api, "worker": worker, "redis": stage.redis_pid}, store)
