"""Models in folders of the user's, from the scan to an answer; and one of Ollama's, from the pull to its end."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.demo.hub import Hub
from deploy.demo.load import PAUSE_SECONDS, Load
from deploy.demo.models import make_gguf_llm, make_transformers_llm
from tests.benchmarks.swapping import swap_back_and_forth
from tests.conftest import until
from tests.fakes.ollama import FakeOllama, published
from tests.system.conftest import MIB, Yard, needs_llama_server, start

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

NAME = "llama3:8b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GGUF models side by side, and one in transformers' layout."""
    folder = tmp_path_factory.mktemp("models")
    make_gguf_llm(folder / "a" / "elm.gguf", 4, name="elm")
    make_gguf_llm(folder / "a" / "fir.gguf", 5, name="fir")
    make_transformers_llm(folder / "oak", 6, 6 * MIB, "oak")
    return folder


@pytest.fixture(scope="module")
def ollama() -> Iterator[FakeOllama]:
    with FakeOllama() as ollama:
        ollama.library[NAME] = published(NAME)
        yield ollama


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, hub_root: Path, folder: Path, ollama: FakeOllama) -> Iterator[Yard]:
    with Hub(hub_root) as hub:
        places = {"MODEL_SCAN_PATH": str(folder), "OLLAMA_HOST": ollama.url}
        instance = start(tmp_path_factory.mktemp("yard"), hub, **places)
        yard = Yard(instance, hub)
        yield yard
        yard.http.close()
        supervised = [psutil.Process(process.pid) for process in instance.processes() if process.pid]
        instance.stop()
        psutil.wait_procs(supervised, timeout=5)


def modelyard(yard: Yard, *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("modelyard")), *arguments],
        env={"MODELYARD_URL": yard.instance.url, "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scanned(yard: Yard, folder: Path) -> dict[str, Any]:
    assert "added elm fir oak" in modelyard(yard, "scan")
    models = {model["modelId"]: model for model in yard.http.get("/api/v1/models").json()["models"]}
    assert all(models[name]["status"] == "available" for name in ("elm", "fir", "oak"))
    return models


def test_they_are_listed_with_their_facts(yard: Yard, scanned: dict[str, Any], folder: Path) -> None:
    fir = scanned["fir"]
    assert (fir["heldBy"], fir["localPath"], fir["source"]) == ("folder", str(folder / "a" / "fir.gguf"), "file")
    assert (fir["facts"]["architecture"], fir["facts"]["contextLength"]) == ("llama", 2048)
    assert fir["integrity"] is None, "nothing was proven yet"
    assert "fir" in modelyard(yard, "ls")
    assert yard.post("/api/models/rescan").status_code in (200, 202)


def test_a_folder_in_place_is_loaded_and_answers(yard: Yard, scanned: dict[str, Any]) -> None:
    job = yard.done("/api/v1/models/activate", {"model_id": "oak"})
    assert job["result"]["runtime"] == "torch"
    assert yard.say("oak").status_code == 200


def test_a_file_in_place_is_loaded_and_not_its_neighbour(yard: Yard, scanned: dict[str, Any], folder: Path) -> None:
    needs_llama_server()
    job = yard.done("/api/v1/models/activate", {"model_id": "fir"})
    assert job["result"]["runtime"] == "llamacpp"
    assert yard.say("fir").status_code == 200
    commands = [" ".join(process.cmdline()) for process in psutil.process_iter() if _is_runner(process)]
    assert any(str(folder / "a" / "fir.gguf") in command for command in commands)
    assert not any(str(folder / "a" / "elm.gguf") in command for command in commands)


def _is_runner(process: psutil.Process) -> bool:
    try:
        return "llama" in process.name()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.fault("F-57")
def test_a_file_that_was_changed_is_not_loaded(yard: Yard, scanned: dict[str, Any], folder: Path) -> None:
    make_gguf_llm(folder / "a" / "elm.gguf", 7, name="elm")
    job = yard.ended(yard.submitted("/api/v1/models/elm/switch"))
    assert (job["status"], job["error"]["code"]) == ("failed", "model_changed")
    assert "modelyard scan" in job["error"]["hint"]
    assert yard.done("/api/v1/models/rescan", {"paths": [str(folder / "a")]})["result"]["changed"] == ["elm"]


@pytest.mark.fault("A-23")
def test_a_path_outside_is_refused_at_once(yard: Yard) -> None:
    for path in ("/etc", "/"):
        answer = yard.post("/api/v1/models/rescan", {"paths": [path]})
        assert (answer.status_code, answer.json()["code"]) == (403, "path_not_allowed")
    body = {"model_id": "x", "model_type": "llm", "name": "x", "source": "file", "source_url": "/etc/passwd"}
    answer = yard.post("/api/v1/models/add", body)
    assert (answer.status_code, answer.json()["code"]) == (403, "path_not_allowed")


@pytest.mark.fault("A-33")
def test_a_registry_in_a_name_is_refused_at_once(yard: Yard, ollama: FakeOllama) -> None:
    body = {"model_id": "x", "model_type": "llm", "name": "x", "source": "ollama"}
    for name in ("evil.tld/x/y", "http://evil.tld/x"):
        assert yard.post("/api/v1/models/add", {**body, "source_url": name}).status_code == 422
    assert yard.post("/api/v1/models/download", {"model_id": "oak", "insecure": True}).status_code == 422
    assert not ollama.asked or all("evil" not in str(asked) for asked in ollama.asked)


def test_a_model_of_ollamas_from_pull_to_remove(yard: Yard, ollama: FakeOllama) -> None:
    modelyard(yard, "pull", f"ollama:{NAME}", "--id", "llama")
    model = yard.http.get("/api/v1/models/llama").json()
    assert (model["status"], model["heldBy"], model["localPath"]) == ("available", "ollama", None)
    assert model["facts"]["quantization"] == "Q4_0"
    assert yard.done("/api/v1/models/llama/verify")["result"]["ok"]
    plan = yard.post("/api/v1/plan", {"action": "switch", "model_id": "llama"}).json()
    assert [step["do"] for step in plan["steps"]][:2] == ["start", "route"]
    assert "runtime ollama" in modelyard(yard, "activate", "llama")
    assert yard.say().json()["choices"][0]["message"]["content"] == "one two three four"
    (server,) = [one for one in yard.http.get("/api/v1/models/servers").json()["servers"] if one["modelId"] == "llama"]
    assert (server["runtime"], server["port"], server["pid"]) == ("ollama", ollama.port, None)
    modelyard(yard, "reload", "llama")
    assert ollama.memory.loads == [NAME, NAME]
    modelyard(yard, "unload", "llama")
    assert ollama.memory.models == {}
    job = yard.ended(yard.http.delete("/api/v1/models/llama").json()["job"]["id"])
    assert job["result"]["deletedInOllama"] is True
    assert NAME not in ollama.models


@pytest.mark.fault("F-49")
def test_swaps_between_ollama_and_torch_cut_nobody_also_where_the_device_worker_is_killed(
    yard: Yard, scanned: dict[str, Any], ollama: FakeOllama
) -> None:
    ollama.memory.pause = 0.01
    modelyard(yard, "pull", f"ollama:{NAME}", "--id", "llama")
    yard.done("/api/v1/models/llama/switch")

    def switch(number: int) -> None:
        yard.done(f"/api/v1/models/{('llama', 'oak')[number]}/switch")

    seen = swap_back_and_forth(yard.instance.url, switch, None, count=2, requests=30, pause=PAUSE_SECONDS)
    assert seen.failures == []
    assert yard.say().headers["x-modelyard-model"] == "llama"
    assert list(ollama.memory.models) == [NAME]
    loads = len(ollama.memory.loads)
    with Load(yard.instance.url, "llm", clients=2) as load:
        psutil.Process(yard.pid("device-cpu")).kill()
        until(lambda: len(ollama.memory.loads) > loads, 120, "the model, loaded anew")
        load.reach(load.tally.whole + 20)
    assert load.tally.failures == []
    assert list(ollama.memory.models) == [NAME]
