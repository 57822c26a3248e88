"""Every documented endpoint, with a call that is answered and one that is refused, against the real service.

`ENDPOINTS=write` writes docs/endpoints.md anew from the answers; without it that page has to be what they are.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.factories.pipelines import stable_diffusion
from tests.factories.quick import make_quick_llm
from tests.system.conftest import MIB, Yard, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(560)]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "endpoints.md"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
KEYS_SHOWN = 8
HEAD = """# Every endpoint

What the older systems documented, and what is ours, each with a call that is answered and one that is refused; written
by a test that makes these calls (`ENDPOINTS=write python -m pytest tests/system/test_endpoints.py`). Paths are below
`/api/v1` unless they begin with `/v1`, `/health` or `/metrics`; those marked † exist below `/api` as well, and answered
the same there. `oak` is a small model that is on disk, `birch` one that is not. A refusal has a `code` and a `hint`.

| endpoint | call | answer | | refused call | answer | code |
|---|---|---|---|---|---|---|
"""


class Call(NamedTuple):
    method: str
    path: str
    body: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"`{self.method} {self.path}`" + (f" `{json.dumps(self.body)}`" if self.body is not None else "")


class Endpoint(NamedTuple):
    """A path as it is documented; `good` is answered with `status`, `bad` is refused with `refused` and `code`."""

    named: str
    good: Call
    status: int
    bad: Call
    refused: int
    code: str
    twin: bool = True


def models(method: str, path: str, good: Any, status: int, bad: Any, refused: int, code: str) -> Endpoint:
    """Of a path below /models: calls are a path, or a path and a body."""

    def call(what: Any) -> Call:
        where, body = what if isinstance(what, tuple) else (what, None)
        return Call(method, f"/models{where}", body)

    return Endpoint(f"{method} /models{path}", call(good), status, call(bad), refused, code)


ADD = {"model_id": "birch", "model_type": "llm", "name": "Birch", "source": "huggingface", "source_url": "tiny/birch"}
OAK, NOBODY = {"model_id": "oak"}, {"model_id": "nobody"}
ENDPOINTS = [
    models("GET", "", "", 200, "?status=fine", 422, "invalid_request"),
    models("POST", "/add", ("/add", ADD), 201, ("/add", ADD), 409, "model_exists"),
    models("GET", "/{id}", "/oak", 200, "/oka", 404, "model_not_found"),
    models("PUT", "/{id}/config", ("/oak/config", {"config": {"temperature": 0.5}}), 200,
           ("/oak/config", {"config": {"temperature": "hot"}}), 422, "invalid_config"),
    models("GET", "/status", "/status", 200, "/status?limit=0", 422, "invalid_request"),
    models("GET", "/status/{id or type}", "/status/oak", 200, "/status/nobody", 404, "model_not_found"),
    models("GET", "/summary", "/summary", 200, "/summary/more", 404, "not_found"),
    models("POST", "/download", ("/download", {**OAK, "force_redownload": False, "priority": "HIGH"}), 202,
           ("/download", NOBODY), 404, "model_not_found"),
    models("POST", "/validate/{id}", "/validate/oak?wait=60", 200, "/validate/birch", 409, "model_not_installed"),
    models("POST", "/activate", ("/activate?wait=120", OAK), 200, ("/activate", {"model_id": "birch"}), 409,
           "model_not_installed"),
    models("GET", "/active/{type}", "/active/llm", 200, "/active/music", 404, "no_active_model"),
    models("POST", "/{id}/switch", "/oak/switch?clear_gpu=true&wait=120", 200, "/nobody/switch", 404,
           "model_not_found"),
    models("POST", "/{id}/reload", "/oak/reload?wait=120", 200, "/birch/reload", 409, "model_not_installed"),
    models("GET", "/servers", "/servers", 200, "/servers/more", 404, "not_found"),
    models("POST", "/deactivate/{id}", "/deactivate/oak?wait=60", 200, "/deactivate/birch", 409, "model_not_loaded"),
    models("GET", "/{id}/requirements", "/oak/requirements", 200, "/birch/requirements", 409, "size_unknown"),
    models("GET", "/{id}/compatibility", "/oak/compatibility", 200, "/nobody/compatibility", 404, "model_not_found"),
    models("GET", "/storage/info", "/storage/info", 200, "/storage/more", 404, "not_found"),
    models("GET", "/registry", "/registry", 200, "/registry/more", 404, "not_found"),
    models("POST", "/rescan", "/rescan?wait=60", 200, ("/rescan", {"paths": ["/etc"]}), 403, "path_not_allowed"),
    models("GET", "/tiers/{tier}", "/tiers/fast", 200, "/tiers/huge", 422, "invalid_request"),
    models("PUT", "/{id}/tier", ("/oak/tier", {"tier": "powerful"}), 200, ("/oak/tier", {"tier": "huge"}), 422,
           "invalid_request"),
    models("PUT", "/{id}/thinking", ("/oak/thinking", {"thinking": True}), 200,
           ("/nobody/thinking", {"thinking": True}), 404, "model_not_found"),
    models("PUT", "/{id}/enabled", ("/oak/enabled", {"enabled": True}), 200, ("/oak/enabled", {"enabled": "on"}), 422,
           "invalid_request"),
    models("POST", "/{id}/request", ("/birch/request", {"start": False}), 200, "/nobody/request", 404,
           "model_not_found"),
    models("GET", "/profiles", "/profiles", 200, "/profiles/a/b", 404, "not_found"),
    models("POST", "/profiles", ("/profiles", {"name": "day", "enabledModels": ["oak"]}), 201,
           ("/profiles", {"name": "night", "enabledModels": ["oka"]}), 422, "unknown_models"),
    models("GET", "/profiles/{name}", "/profiles/day", 200, "/profiles/nobody", 404, "profile_not_found"),
    models("POST", "/profiles/{name}/apply", "/profiles/day/apply?wait=60", 200, "/profiles/nobody/apply", 404,
           "profile_not_found"),
    models("DELETE", "/profiles/{name}", "/profiles/day", 200, "/profiles/nobody", 404, "profile_not_found"),
    models("DELETE", "/{id}", "/birch?wait=60", 200, "/nobody", 404, "model_not_found"),
    Endpoint("GET /system/optimization/status", Call("GET", "/system/optimization/status"), 200,
             Call("GET", "/system/optimization/more"), 404, "not_found"),
    Endpoint("GET /system/hardware/profile", Call("GET", "/system/hardware/profile"), 200,
             Call("POST", "/system/hardware/profile"), 405, "method_not_allowed"),
    Endpoint("GET /system/nodes", Call("GET", "/system/nodes"), 200, Call("GET", "/system/nodes/none"), 404,
             "not_found"),
    Endpoint("GET /jobs", Call("GET", "/jobs?limit=1"), 200, Call("GET", "/jobs/none"), 404, "job_not_found",
             twin=False),
    Endpoint("GET /usage", Call("GET", "/usage?days=7"), 200, Call("GET", "/usage?days=31"), 422, "invalid_request"),
    Endpoint("GET /retention", Call("GET", "/retention"), 200, Call("PUT", "/retention", {"never": 1}), 422,
             "invalid_request", twin=False),
    Endpoint("POST /cleanup", Call("POST", "/cleanup", {"dry_run": True}), 202,
             Call("POST", "/cleanup", {"more": 1}), 422, "invalid_request", twin=False),
    Endpoint("GET /schedules", Call("GET", "/schedules"), 200, Call("GET", "/schedules/none"), 404,
             "schedule_not_found", twin=False),
    Endpoint("GET /webhooks", Call("GET", "/webhooks"), 200, Call("GET", "/webhooks/none"), 404, "webhook_not_found",
             twin=False),
    Endpoint("GET /audit", Call("GET", "/audit?limit=1"), 200, Call("GET", "/audit?limit=0"), 422, "invalid_request",
             twin=False),
    Endpoint("GET /v1/models", Call("GET", "/v1/models"), 200,
             Call("POST", "/v1/completions", {"model": "nobody", "prompt": "Once"}), 404, "model_not_found",
             twin=False),
    Endpoint("GET /health/live", Call("GET", "/health/live"), 200, Call("POST", "/health/live"), 405,
             "method_not_allowed", twin=False),
    Endpoint("GET /health/ready", Call("GET", "/health/ready"), 200, Call("DELETE", "/health/ready"), 405,
             "method_not_allowed", twin=False),
    Endpoint("GET /metrics", Call("GET", "/metrics"), 200, Call("POST", "/metrics"), 405, "method_not_allowed",
             twin=False),
]  # fmt: skip
"""In the order in which they are called: what one does, the next ones see."""

LINES = r"""
curl -X GET "http://localhost:8000/api/v1/models/status" → 200
curl -X POST "http://localhost:8000/api/v1/models/validate/t2v-A14B" → 409
curl -X GET "http://localhost:8000/api/v1/system/optimization/status" → 200
curl -X GET "http://localhost:8000/api/v1/system/hardware/profile" → 200
curl -X GET "http://localhost:8000/api/v1/models/summary" → 200
curl http://localhost:8000/api/models/ → 200
curl http://localhost:8000/api/models/sdxl-base-1.0 → 200
curl -X POST http://localhost:8000/api/models/download -H "Content-Type: application/json" -d '{"model_id": "sdxl-base-1.0"}' → 202
curl -X POST http://localhost:8000/api/models/activate -H "Content-Type: application/json" -d '{"model_id": "sdxl-base-1.0"}' → 202
curl -X POST http://localhost:8000/api/models/sdxl-turbo/switch?clear_gpu=true → 404
curl http://localhost:8000/api/models/sdxl-base-1.0/compatibility → 200
curl http://localhost:8000/api/models/storage/info → 200
curl -X POST http://localhost:8000/api/models/add -H "Content-Type: application/json" -d '{ "model_id": "custom-model", "model_type": "image_gen", "name": "Custom Model", "description": "My custom model", "source": "url", "source_url": "https://example.com/model.safetensors", "file_size": 5000000000 }' → 201
"""  # noqa: E501 - as they are documented
"""As the older systems document them. t2v-A14B is not on disk here, and sdxl-turbo nobody has entered."""


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    root = tmp_path_factory.mktemp("hub")
    make_quick_llm(root / "tiny" / "oak", 1, MIB)
    stable_diffusion(root / SDXL)
    scanned = tmp_path_factory.mktemp("scanned")
    with opened(tmp_path_factory.mktemp("yard"), root, MODEL_SCAN_PATH=str(scanned)) as yard:
        yard.pull("oak", "tiny/oak")
        yield yard


def sent(yard: Yard, call: Call, prefix: str) -> tuple[int, Any]:
    below = "" if call.path.startswith(("/v1", "/health", "/metrics")) else prefix
    answer = yard.http.request(call.method, f"{below}{call.path}", json=call.body)
    if not answer.content:
        return answer.status_code, None
    return answer.status_code, answer.json() if "json" in answer.headers["Content-Type"] else answer.text


def told(answer: Any) -> str:
    if not isinstance(answer, dict):
        return "text" if isinstance(answer, str) else ""
    keys = [key for key in answer if key != "error"]
    return ", ".join(keys[:KEYS_SHOWN]) + (", …" if len(keys) > KEYS_SHOWN else "")


def test_every_endpoint_answers_and_refuses_as_the_page_says(yard: Yard) -> None:
    rows, wrong = [], []
    for one in ENDPOINTS:
        for prefix in ("/api/v1", "/api") if one.twin and one.good.method == "GET" else ("/api/v1",):
            status, answer = sent(yard, one.good, prefix)
            refused, problem = sent(yard, one.bad, prefix)
            if (status, refused) != (one.status, one.refused) or problem.get("code") != one.code or not problem["hint"]:
                wrong.append((one.named, prefix, status, str(answer)[:300], refused, str(problem)[:300]))
        mark = " †" if one.twin else ""
        cells = (one.named + mark, one.good, one.status, told(answer), one.bad, one.refused, f"`{one.code}`")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    assert not wrong
    page = HEAD + "\n".join(rows) + "\n"
    if os.environ.get("ENDPOINTS") == "write":
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "mend with ENDPOINTS=write"


def test_paths_without_a_version_are_the_same_routes(yard: Yard) -> None:
    described = yard.http.get("/openapi.json").json()["paths"]
    for one in ENDPOINTS:
        method, path = one.named.split(" ", 1)
        known = {re.sub(r"\{[^}]*\}", "{}", name): methods for name, methods in described.items()}
        whole = path if path.startswith(("/v1", "/health", "/metrics")) else f"/api/v1{path}"
        wanted = re.sub(r"\{[^}]*\}", "{}", whole)
        assert method.lower() in known[wanted], one.named


def test_lines_of_older_systems_run_as_they_stand(yard: Yard) -> None:
    wrong = []
    for line in LINES.strip().splitlines():
        command, expected = line.rsplit(" → ", 1)
        real = command.replace("localhost:8000", f"localhost:{yard.instance.url.rpartition(':')[2]}")
        done = subprocess.run(
            ["curl", "-s", "-w", "\n%{http_code}", *shlex.split(real)[1:]],
            stdout=subprocess.PIPE, text=True, timeout=120, check=True,
        )  # fmt: skip
        body, status = done.stdout.rsplit("\n", 1)
        if status != expected:
            wrong.append((command, expected, status, body[:300]))
        elif status == "202":
            job = yard.ended(json.loads(body)["job"]["id"], 240)
            assert job["status"] == "succeeded", job["error"]
        elif status >= "400":
            assert json.loads(body)["hint"]
    assert not wrong
