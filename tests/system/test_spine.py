"""The main job, end to end: a model comes down, is proved, is loaded, is swapped, is broken and healed."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from celery import Celery
from openai import OpenAI

from deploy.demo.load import Load
from deploy.demo.models import make_transformers_llm
from tests.canaries import leaks
from tests.conftest import until
from tests.factories.pipelines import stable_diffusion
from tests.system.conftest import MIB, Yard, needs_llama_server, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

TOKEN = "hf_canaryThatNobodyIsToFind"


@pytest.fixture(scope="module")
def hub_root(hub_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Here both runtimes are at work: acorn and birch are of the slower one, whatever else there is."""
    root = tmp_path_factory.mktemp("both")
    for seed, name in enumerate(("acorn", "birch")):
        make_transformers_llm(root / "tiny" / name, seed, 6 * MIB, name)
    shutil.copytree(hub_root / "tiny" / "cedar", root / "tiny" / "cedar")
    return root


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, hub_root: Path) -> Iterator[Yard]:
    with opened(tmp_path_factory.mktemp("yard"), hub_root, flower=True, HF_TOKEN=TOKEN) as yard:
        yield yard


@pytest.fixture(scope="module")
def models(yard: Yard) -> list[str]:
    """Two transformers models and a GGUF, downloaded and published."""
    names = ["acorn", "birch", "cedar"]
    for name in names:
        job = yard.pull(name, f"tiny/{name}")
        assert job["progress"] == 1.0
        assert job["result"]["size"] > 500_000
    return names


def test_what_was_downloaded_is_what_the_hub_has(yard: Yard, models: list[str], hub_root: Path) -> None:
    for name in models:
        model = yard.http.get(f"/api/v1/models/{name}").json()
        assert model["status"] == "available"
        theirs = {file.name: file.read_bytes() for file in (hub_root / "tiny" / name).iterdir()}
        ours = {file.name: file.read_bytes() for file in Path(model["localPath"]).iterdir()}
        assert ours == theirs
        assert all(file.stat().st_mode & 0o222 == 0 for file in Path(model["localPath"]).iterdir())


def test_a_second_download_finds_it_there(yard: Yard, models: list[str]) -> None:
    before = yard.hub.sent("/resolve/") + yard.hub.sent("/cdn/")
    job = yard.done("/api/v1/models/download", {"model_id": "acorn"})
    assert job["result"]["alreadyPresent"] is True
    assert yard.hub.sent("/resolve/") + yard.hub.sent("/cdn/") == before


def test_activate_and_ask(yard: Yard, models: list[str]) -> None:
    assert yard.say().status_code == 409
    before = yard.http.get("/api/v1/models/acorn/requirements").json()["memory"]
    job = yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    assert job["result"]["runtime"] == "torch"
    assert job["result"]["memoryBytes"] > 0
    assert yard.http.get("/api/models/active/llm").json()["modelId"] == "acorn"
    answer = yard.say()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-modelyard-model"] == "acorn"
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)
    assert yard.say("acorn").status_code == 200
    after = yard.http.get("/api/v1/models/acorn/requirements").json()["memory"]
    assert (before["basis"], after["basis"]) == ("estimated", "measured")
    assert after["total"] == job["result"]["memoryBytes"] + after["cache"], "torch's cache comes later"
    assert abs(before["total"] - after["total"]) < before["spread"]


def test_a_model_that_is_named_is_loaded_for_that(yard: Yard, models: list[str]) -> None:
    """And what serves its type goes on serving it."""
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    assert yard.say("birch").headers["x-modelyard-model"] == "birch"
    assert yard.say().headers["x-modelyard-model"] == "acorn"
    yard.done("/api/v1/models/deactivate/birch")


def test_a_real_openai_client(yard: Yard, models: list[str]) -> None:
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    with OpenAI(base_url=f"{yard.instance.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["acorn"]
        messages = [{"role": "user", "content": "Hello"}]
        stream = client.chat.completions.create(model="llm", messages=messages, max_tokens=6, stream=True)  # type: ignore[call-overload] # a plain dict is a message
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason in ("length", "stop")
        text = client.completions.create(model="llm", prompt="Once", max_tokens=4).choices[0].text
        assert isinstance(text, str)


def test_a_real_openai_client_gets_images(yard: Yard, hub_root: Path) -> None:
    """The first request waits until the model is in memory."""
    stable_diffusion(hub_root / "tiny" / "dahlia")
    yard.add("dahlia", "tiny/dahlia", model_type="image_gen")
    yard.done("/api/v1/models/download", {"model_id": "dahlia"})
    assert yard.http.get("/api/v1/models/dahlia/compatibility").json()["level"] == "full"
    with OpenAI(base_url=f"{yard.instance.url}/v1", api_key="none", max_retries=0) as client:

        def image(model: str, seed: int) -> bytes:
            answer = client.images.generate(
                model=model, prompt="A lighthouse", response_format="b64_json", extra_body={"steps": 2, "seed": seed}
            )
            (one,) = answer.data or []
            return base64.b64decode(one.b64_json or "")

        first = image("dahlia", 1)
        assert first.startswith(b"\x89PNG")
        yard.done("/api/v1/models/activate", {"model_id": "dahlia"})
        assert image("image_gen", 1) == first != image("image_gen", 2)
    assert yard.http.get("/api/v1/models/dahlia/requirements").json()["memory"]["basis"] == "measured"
    assert yard.say("dahlia").json()["code"] == "wrong_type"
    assert yard.http.get("/api/v1/models/active/image_gen").json()["modelId"] == "dahlia"
    yard.done("/api/v1/models/deactivate/dahlia")


def test_swaps_under_load_cut_nobody(yard: Yard, models: list[str]) -> None:
    needs_llama_server()
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    with Load(yard.instance.url, "llm") as load:
        for number, name in enumerate(("birch", "cedar", "acorn"), 1):
            load.reach(25 * number)
            yard.done(f"/api/v1/models/{name}/switch")
        load.reach(120)
    assert load.tally.failures == []
    assert set(load.tally.served) == {"acorn", "birch", "cedar"}
    loaded = [model["modelId"] for model in yard.http.get("/api/v1/models").json()["models"] if model["loadState"]]
    assert loaded == ["acorn"], "the others left memory"


def test_a_model_that_does_not_load_changes_nothing(yard: Yard, models: list[str], hub_root: Path) -> None:
    broken = hub_root / "tiny" / "broken"
    broken.mkdir(exist_ok=True)
    for file in (hub_root / "tiny" / "acorn").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": config["hidden_size"] * 2}))
    yard.pull("broken", "tiny/broken")
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    job = yard.ended(yard.submitted("/api/v1/models/broken/switch"))
    assert job["status"] == "failed"
    assert job["error"]["code"] == "runner_exited"
    assert job["error"]["details"]["log"]
    assert yard.http.get("/api/models/active/llm").json()["modelId"] == "acorn"
    assert yard.say().headers["x-modelyard-model"] == "acorn"


def test_a_flipped_byte_is_found_quarantined_and_healed(yard: Yard, models: list[str], hub_root: Path) -> None:
    folder = Path(yard.http.get("/api/v1/models/birch").json()["localPath"])
    weights = max(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    whole = weights.read_bytes()
    weights.chmod(0o640)
    with weights.open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    report = yard.done("/api/v1/models/birch/verify")["result"]
    assert not report["ok"]
    assert [entry["name"] for entry in report["corrupted"]] == [weights.name]
    assert yard.http.get("/api/v1/models/birch").json()["status"] == "corrupted"
    refusal = yard.post("/api/v1/models/birch/switch")
    assert (refusal.status_code, refusal.json()["code"]) == (409, "model_corrupt")
    repaired = yard.done("/api/v1/models/birch/repair")["result"]
    assert repaired["repaired"] == [weights.name]
    assert weights.read_bytes() == whole
    assert yard.done("/api/v1/models/birch/verify")["result"]["ok"]
    assert yard.http.get("/api/v1/models/birch").json()["status"] == "available"


def test_a_url_with_a_checksum(yard: Yard, models: list[str], hub_root: Path) -> None:
    import hashlib

    content = (hub_root / "tiny" / "cedar" / "cedar.gguf").read_bytes()
    url = f"{yard.hub.url}/files/tiny/cedar/cedar.gguf"
    yard.add("plain", url, source="url", checksum=f"sha256:{hashlib.sha256(content).hexdigest()}")
    assert yard.done("/api/v1/models/download", {"model_id": "plain"})["result"]["size"] == len(content)
    yard.add("wrong", url, source="url", checksum=f"sha256:{'0' * 64}")
    job = yard.ended(yard.submitted("/api/v1/models/download", {"model_id": "wrong"}))
    assert (job["status"], job["error"]["code"]) == ("failed", "checksum_mismatch")
    assert yard.http.get("/api/v1/models/wrong").json()["status"] == "failed"


def test_a_private_host_is_refused(yard: Yard) -> None:
    yard.add("inside", "http://127.0.0.1:1/x.gguf", source="url")
    job = yard.ended(yard.submitted("/api/v1/models/download", {"model_id": "inside"}))
    assert (job["status"], job["error"]["code"]) == ("failed", "source_not_allowed")
    assert "MODELYARD_SOURCES__ALLOWED_HOSTS" in job["error"]["hint"]


@pytest.mark.fault("F-51")
def test_remove_takes_it_off_the_disk(yard: Yard, models: list[str]) -> None:
    yard.pull("gone", "tiny/birch")
    folder = Path(yard.http.get("/api/v1/models/gone").json()["localPath"])
    answer = yard.http.delete("/api/v1/models/gone")
    assert yard.ended(answer.json()["job"]["id"])["status"] == "succeeded"
    assert not folder.exists()
    assert yard.http.get("/api/v1/models/gone").status_code == 404
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    assert yard.http.delete("/api/v1/models/acorn").json()["code"] == "model_in_use"


def test_a_plain_celery_client(yard: Yard, models: list[str]) -> None:
    """What docs/contracts.md says, with nothing of ours imported on their side."""
    yard.add("theirs", "tiny/acorn")
    with Celery(broker=yard.instance.redis_url) as theirs:
        for queue in ("modelyard.p1.io", "modelyard.intake", "celery"):
            sent = theirs.send_task("model.download", kwargs={"model_id": "theirs"}, queue=queue, ignore_result=True)
            job = yard.ended(str(until(lambda task=sent.id: _there(yard, task), 20)))
            assert (job["status"], job["origin"]) == ("succeeded", "foreign"), job
        bad = theirs.send_task("model.download", kwargs={"model": "theirs"}, queue="modelyard.p1.io")
        job = yard.ended(str(until(lambda: _there(yard, bad.id), 20)))
        assert (job["status"], job["error"]["code"]) == ("rejected", "invalid_arguments")
        unknown = theirs.send_task("model.fly", kwargs={}, queue="modelyard.p1.io")
        job = yard.ended(str(until(lambda: _there(yard, unknown.id), 20)))
        assert (job["status"], job["error"]["code"]) == ("rejected", "unknown_kind")


def _there(yard: Yard, job_id: str) -> str | None:
    return job_id if yard.http.get(f"/api/v1/jobs/{job_id}").status_code == 200 else None


def test_events_replay_after_a_reconnect(yard: Yard, models: list[str]) -> None:
    def listen(last: str | None, until_type: str) -> list[dict[str, object]]:
        events = []
        headers = {"Last-Event-ID": last} if last else {}
        with yard.http.stream("GET", "/api/v1/events", headers=headers) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    events.append(json.loads(line.removeprefix("data:")))
                    started.set()
                    if (events[-1].get("kind"), events[-1].get("status")) == ("model.verify", until_type):
                        return events
        return events

    started = threading.Event()
    first: list[list[dict[str, object]]] = []
    thread = threading.Thread(target=lambda: first.append(listen(None, "running")))
    thread.start()
    started.wait(10)
    job_id = yard.submitted("/api/v1/models/acorn/verify")
    thread.join(30)
    yard.ended(job_id)
    missed = listen(str(first[0][-1]["id"]), "succeeded")
    assert missed[-1]["jobId"] == job_id
    assert all(event["id"] for event in missed), "replayed, not told anew"
    assert all(str(event["id"]) > str(first[0][-1]["id"]) for event in missed)


def test_flower_and_ping(yard: Yard, models: list[str]) -> None:
    flower = str(yard.instance.flower_url)
    assert httpx.get(f"{flower}/api/workers", trust_env=False).status_code == 401
    auth = ("modelyard", yard.instance.flower_password)
    workers = until(
        lambda: httpx.get(f"{flower}/api/workers?refresh=1", auth=auth, trust_env=False, timeout=30).json(), 30
    )
    assert {name.partition("@")[0] for name in workers} == {"io", "io-urgent", "device-cpu"}
    tasks = httpx.get(f"{flower}/api/tasks?limit=200", auth=auth, trust_env=False).json()
    assert "model.download" in {task["name"] for task in tasks.values()}
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    loading = yard.submitted("/api/v1/models/birch/switch")
    until(lambda: yard.job(loading)["phase"] == "loading", what="loading")
    with Celery(broker=yard.instance.redis_url) as client:
        answers = client.control.ping(timeout=3)
    assert len(answers) == 3, "every worker answers while a load runs"
    yard.ended(loading)


@pytest.mark.fault("A-108")
def test_flower_lets_nobody_in_without_its_password(yard: Yard) -> None:
    """Its `/metrics` and `/healthcheck` are open by its own making: names of tasks and workers, on loopback alone."""
    flower, auth = str(yard.instance.flower_url), ("modelyard", yard.instance.flower_password)
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/queues/length"):
        for wrong in (None, ("modelyard", "wrong"), ("admin", yard.instance.flower_password)):
            assert httpx.get(f"{flower}{path}", auth=wrong, trust_env=False).status_code == 401, (path, wrong)
    assert httpx.get(f"{flower}/workers", auth=auth, trust_env=False).status_code == 200
    for path in ("/api/worker/shutdown/io", "/api/task/async-apply/model.remove", "/api/worker/pool/restart/io"):
        for known in (None, auth):
            refused = httpx.post(f"{flower}{path}", auth=known, json={}, trust_env=False)
            assert refused.status_code in (401, 403, 404, 405), (path, refused.status_code)
    (pid,) = [process.pid for process in yard.instance.processes() if process.name == "flower"]
    heard = [each.laddr.ip for each in psutil.Process(pid).net_connections() if each.status == psutil.CONN_LISTEN]
    assert set(heard) == {"127.0.0.1"}


@pytest.mark.fault("A-113")
def test_no_secret_is_anywhere(yard: Yard, models: list[str]) -> None:
    """Of the API's key, the Hub's token and what the instance made for itself: in files, Redis, answers, processes."""
    root = yard.instance.folder.root
    key = yard.post("/api/v1/keys", {"name": "canary", "role": "admin"}).json()["key"]
    known = {"Authorization": f"Bearer {key}"}
    paths = ("models", "jobs", "keys", "audit", "webhooks", "models/storage/info", f"jobs?key={key}x")
    said = [yard.http.get(f"/api/v1/{path}", headers=known).text for path in paths]
    said += [yard.http.get(path, headers=known).text for path in ("/metrics", "/health/ready", "/openapi.json")]
    wrong = ({"Authorization": f"Bearer {key}x"}, {"Authorization": f"Basic {key}"}, {})
    said += [yard.http.get(f"/api/v1/jobs?key={key}", headers=each).text for each in wrong]
    model = {"model_id": "leak", "model_type": "llm", "name": "leak", "source": "url"}
    address = {"source_url": f"https://user:{key}@models.example/x"}
    said.append(yard.http.post("/api/v1/models/add", json=model | address, headers=known).text)
    assert yard.http.delete("/api/v1/keys/canary", headers=known).status_code == 200

    assert leaks(yard.instance, {"a key": key, "the Hub's token": TOKEN}, said=said) == []
    assert (root / "redis" / "redis.conf").stat().st_mode & 0o077 == 0, "Redis knows its password from it"
    assert root.stat().st_mode & 0o077 == 0
