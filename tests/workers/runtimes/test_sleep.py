"""A real runner sleeps and wakes: the same words after it, no byte read for it, no memory lost by it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.models import make_transformers_llm
from shared.settings import RunnerSettings
from tests.factories.runners import client_of, ready
from workers.devices import inventory, nvml
from workers.runtimes.base import Request
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchRunner

MIB = 1024**2
WEIGHTS = 24 * MIB
KEY = "the-key-of-this-runner"
SETTINGS = RunnerSettings(readiness_interval=0.05)
ASKED = {"prompt": "Hello", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def spawn() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_transformers_llm(folder, seed=1, weight_bytes=WEIGHTS, name="tiny")
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path, spawn: ThreadPoolExecutor) -> Iterator[Runner]:
    request = Request(folder, "tiny", "127.0.0.1", 0, KEY, "cpu", 256, keep_weights=True)
    with ready(Runner.start(TorchRunner(SETTINGS), request, spawn, SETTINGS)) as runner:
        runner.probe()
        yield runner


@pytest.fixture(scope="module")
def client(runner: Runner) -> Iterator[httpx.Client]:
    with client_of(runner, KEY) as client:
        yield client


@pytest.fixture(autouse=True)
def _awake(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "runner" in request.fixturenames:
        request.getfixturevalue("runner").wake()


def said(client: httpx.Client) -> str:
    text: str = client.post("/v1/completions", json=ASKED).json()["choices"][0]["text"]
    return text


def read_bytes(runner: Runner) -> int:
    """What it has read of any file so far, from the disk or not."""
    return int(psutil.Process(runner.pid).io_counters().read_chars)


def test_it_answers_nothing_asleep_and_the_same_after_it(runner: Runner, client: httpx.Client) -> None:
    before = said(client)
    assert runner.sleep()
    assert runner.sleep(), "again does nothing"
    for path in ("/v1/completions", "/run"):
        answer = client.post(path, json=ASKED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "asleep")
    assert client.get("/health").json()["status"] == "asleep"
    assert runner.healthy(), "it is no runner that hangs"
    runner.wake()
    runner.probe()
    assert client.get("/health").json()["status"] == "ok"
    assert said(client) == before


def test_its_files_are_not_needed(runner: Runner, client: httpx.Client, folder: Path) -> None:
    before, weights = said(client), folder / "model.safetensors"
    assert runner.sleep()
    weights.rename(folder / "away")
    read = read_bytes(runner)
    try:
        runner.wake()
        runner.probe()
        assert said(client) == before
        assert read_bytes(runner) - read < MIB
    finally:
        (folder / "away").rename(weights)


def test_its_memory_is_flat(runner: Runner, client: httpx.Client) -> None:
    sizes = []
    for _ in range(20):
        assert runner.sleep()
        sizes.append(runner.memory().host)
        runner.wake()
        said(client)
    assert max(sizes[5:]) - min(sizes[5:]) < WEIGHTS / 4


@pytest.mark.parametrize("path", ["/sleep", "/wake"])
def test_it_wants_the_key(runner: Runner, path: str) -> None:
    assert httpx.post(runner.url + path, trust_env=False).status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.gpu
def test_on_a_gpu_its_memory_is_given_back(folder: Path, spawn: ThreadPoolExecutor) -> None:
    gpus, reason = nvml.read()
    if not gpus:
        pytest.skip(f"NO GPU, SLEEP IS TESTED ON THE CPU ONLY: {reason}")
    gpu = gpus[0].id
    request = Request(folder, "tiny", "127.0.0.1", 0, KEY, gpu, 256, keep_weights=True)
    runner = Runner.start(TorchRunner(SETTINGS), request, spawn, SETTINGS)
    try:
        runner.wait_ready(lambda: None)
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=runner.url, headers=headers, timeout=60, trust_env=False) as client:
            before, awake = said(client), free(gpu)
            for _ in range(20):
                assert runner.sleep()
                assert free(gpu) >= awake + WEIGHTS // 2
                runner.wake()
                assert said(client) == before
            assert free(gpu) >= awake - 64 * MIB
    finally:
        runner.stop(5)


def free(gpu: str) -> int:
    found = inventory.memory_free(gpu)
    assert found is not None
    return found
