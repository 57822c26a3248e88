"""What every runtime must do, against real children with real, tiny models."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.demo.models import make_gguf_llm, make_transformers_llm
from shared.errors import Failed
from shared.settings import RunnerSettings
from tests.factories.runners import client_of, ready
from workers.runtimes.base import Request, Runtime
from workers.runtimes.llamacpp import LlamaCpp, find_binary
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchRunner

KEY = "0123456789abcdef-the-runner-key"
SECRETS = {"HF_TOKEN": "hf_secret", "MODELYARD_SECRET": "swordfish", "MODELYARD_DATABASE_URL": "postgresql://u:p@h/d"}
SETTINGS = RunnerSettings(readiness_interval=0.05)

PARENT = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shared.settings import RunnerSettings
from tests.conformance.test_runtimes import RUNTIMES, KEY
from workers.runtimes.base import Request
from workers.runtimes.runner import Runner
runtime = RUNTIMES[sys.argv[1]](RunnerSettings())
request = Request(Path(sys.argv[2]), "orphan", "127.0.0.1", 0, KEY, "cpu", 256)
runner = Runner.start(runtime, request, ThreadPoolExecutor(1), RunnerSettings())
if sys.argv[3] == "ready":
    runner.wait_ready(lambda: None)
print(runner.pid, flush=True)
sys.stdin.read()
"""

RUNTIMES: dict[str, Callable[[RunnerSettings], Runtime]] = {"torch": TorchRunner, "llamacpp": LlamaCpp}


@dataclass
class Case:
    """A runtime with a model that it runs."""

    runtime: Runtime
    folder: Path

    def request(self, folder: Path | None = None) -> Request:
        return Request(folder or self.folder, "tiny", "127.0.0.1", 0, KEY, "cpu", 256)


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    runtime = RUNTIMES[request.param](SETTINGS)
    if request.param == "llamacpp":
        try:
            find_binary(SETTINGS)
        except Failed as error:
            pytest.skip(f"llama.cpp IS NOT TESTED: {error.message} {error.hint}")
        make_gguf_llm(folder / "tiny.gguf", seed=1)
    else:
        make_transformers_llm(folder, seed=1, weight_bytes=1_000_000, name="tiny")
    return Case(runtime, folder)


@pytest.fixture(scope="module")
def spawn() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="module")
def runner(case: Case, spawn: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        runner = Runner.start(case.runtime, case.request(), spawn, SETTINGS, tmp_path_factory.mktemp("logs"))
    with ready(runner):
        yield runner


@pytest.fixture(scope="module")
def client(runner: Runner) -> Iterator[httpx.Client]:
    with client_of(runner, KEY) as client:
        yield client


def chat(**more: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **more}


def events(lines: Iterator[str]) -> Iterator[str]:
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def gone(pidfd: int) -> bool:
    """Waits for the end of a process that is not our child."""
    return bool(select.select([pidfd], [], [], 30)[0])


def test_accepts_its_own_folder_and_no_other(case: Case, tmp_path: Path) -> None:
    assert case.runtime.accepts(case.folder)
    assert not case.runtime.accepts(tmp_path)
    assert not case.runtime.accepts(tmp_path / "missing")
    (tmp_path / "model.gguf").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not case.runtime.accepts(tmp_path)


def test_is_ready_and_proves_itself(runner: Runner) -> None:
    assert runner.alive()
    assert runner.exit_code is None
    assert runner.healthy()
    runner.probe()
    assert runner.memory().host > 1_000_000


def test_is_its_own_group_in_an_empty_folder(runner: Runner) -> None:
    assert os.getpgid(runner.pid) == runner.pid != os.getpgid(0)
    assert list(Path(f"/proc/{runner.pid}/cwd").resolve().iterdir()) == []


@pytest.mark.fault("A-90")
def test_sees_no_secret_and_shows_no_key(runner: Runner) -> None:
    environment = Path(f"/proc/{runner.pid}/environ").read_text()
    for name, value in SECRETS.items():
        assert f"{name}=" not in environment
        assert value not in environment
    assert "HF_HUB_OFFLINE=1" in environment
    assert KEY not in Path(f"/proc/{runner.pid}/cmdline").read_text()
    assert KEY not in "\n".join(runner.log_tail(200))


@pytest.mark.fault("A-90")
def test_listens_on_loopback_only(runner: Runner) -> None:
    sockets = psutil.Process(runner.pid).net_connections("inet")
    assert {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@pytest.mark.fault("A-90")
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic d3Jvbmc6a2V5"}])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_refuses_without_the_key(runner: Runner, path: str, headers: dict[str, str]) -> None:
    answer = httpx.post(runner.url + path, json=chat(prompt="Hello"), headers=headers, trust_env=False)
    assert answer.status_code == httpx.codes.UNAUTHORIZED
    assert "choices" not in answer.text


def test_completes(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 8, "temperature": 0})
    body = answer.json()
    assert answer.status_code == httpx.codes.OK, body
    assert body["choices"][0]["text"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 8
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 8


def test_greedy_and_seeded_answers_repeat(client: httpx.Client) -> None:
    for sampling in ({"temperature": 0}, {"temperature": 1, "seed": 7}):
        texts = {
            client.post("/v1/completions", json=chat(prompt="Hi", **sampling)).json()["choices"][0]["text"]
            for _ in range(2)
        }
        assert len(texts) == 1


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}])
def test_who_takes_only_the_likeliest_token_is_greedy(client: httpx.Client, narrow: dict[str, float]) -> None:
    def said(**options: float) -> str:
        answer = client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 8, "seed": 3, **options})
        return str(answer.json()["choices"][0]["text"])

    assert said(temperature=1.5, **narrow) == said(temperature=0)
    assert client.post("/v1/chat/completions", json=chat(repeat_penalty=1.2)).is_success
    assert client.post("/v1/chat/completions", json=chat(chat_template_kwargs={"enable_thinking": False})).is_success


def test_chats(client: httpx.Client) -> None:
    body = client.post("/v1/chat/completions", json=chat(temperature=0)).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 8


def test_streams_what_it_would_have_said(client: httpx.Client) -> None:
    whole = client.post("/v1/chat/completions", json=chat(temperature=0)).json()
    asked = chat(temperature=0, stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, last = events(answer.iter_lines())
    assert last == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    choices = [chunk["choices"][0] for chunk in parsed if chunk["choices"]]
    assert "".join(one["delta"].get("content") or "" for one in choices) == whole["choices"][0]["message"]["content"]
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["length"]
    assert parsed[-1]["usage"]["completion_tokens"] == 8
    assert {chunk["id"] for chunk in parsed} == {parsed[0]["id"]}


def test_stops_at_a_stop_string(client: httpx.Client) -> None:
    asked = {"prompt": "Hello", "max_tokens": 8, "temperature": 0}
    text = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    stop = text[len(text) // 2 :][:2]
    choice = client.post("/v1/completions", json={**asked, "stop": [stop]}).json()["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_serves_the_next_after_one_hung_up(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=200)) as answer:
        assert next(events(answer.iter_lines()))
    assert client.post("/v1/chat/completions", json=chat()).status_code == httpx.codes.OK


def test_serves_several_at_a_time(client: httpx.Client) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda _: client.post("/v1/chat/completions", json=chat()), range(6))
        assert all(answer.json()["usage"]["completion_tokens"] >= 1 for answer in answers)


def test_refuses_nonsense_and_goes_on(client: httpx.Client) -> None:
    for body in (
        {},
        {"messages": "no"},
        chat(temperature="hot"),
        chat(messages=[{"role": "user", "content": "long " * 2000}]),
    ):
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.is_error
        assert answer.json()["error"]["message"]
    assert client.post("/v1/chat/completions", json=chat()).status_code == httpx.codes.OK


def test_stops_with_an_open_stream_and_leaves_nothing(case: Case, spawn: ThreadPoolExecutor, tmp_path: Path) -> None:
    runner = Runner.start(case.runtime, case.request(), spawn, SETTINGS, tmp_path)
    runner.wait_ready(lambda: None)
    pidfd = os.pidfd_open(runner.pid)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        httpx.Client(base_url=runner.url, headers=headers, timeout=60, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=200)) as answer,
    ):
        assert next(events(answer.iter_lines()))
        runner.stop(30)
        assert runner.exit_code != -signal.SIGKILL
        assert gone(pidfd)
    os.close(pidfd)
    assert not runner.alive()
    assert not runner.healthy()
    assert runner.memory().host == 0
    assert (tmp_path / "tiny.log").exists()
    runner.stop(5)


def test_a_broken_model_ends_with_its_reason(case: Case, spawn: ThreadPoolExecutor, tmp_path: Path) -> None:
    for file in case.folder.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix in {".gguf", ".safetensors"} else data)
    assert case.runtime.accepts(tmp_path)
    runner = Runner.start(case.runtime, case.request(tmp_path), spawn, SETTINGS)
    with pytest.raises(Failed) as caught:
        runner.wait_ready(lambda: None)
    assert caught.value.code == "runner_exited"
    assert caught.value.details["exit_code"] == 1
    assert caught.value.details["log"]
    assert not runner.alive()


def test_numbers_gone_bad_fail_the_probe(case: Case, spawn: ThreadPoolExecutor, tmp_path: Path) -> None:
    for file in case.folder.iterdir():
        data = file.read_bytes()
        if file.suffix in {".gguf", ".safetensors"}:  # the end of both is the output layer, all ones are NaN
            data = data[:-400] + b"\xff" * 400
        (tmp_path / file.name).write_bytes(data)
    runner = Runner.start(case.runtime, case.request(tmp_path), spawn, SETTINGS)
    try:
        runner.wait_ready(lambda: None)
        with pytest.raises(Failed) as caught:
            runner.probe()
        assert caught.value.code == "probe_failed"
    finally:
        runner.stop(5)


@pytest.mark.fault("F-38")
@pytest.mark.parametrize("when", ["loading", "ready"])
def test_dies_with_its_parent(case: Case, when: str) -> None:
    command = [sys.executable, "-c", PARENT, case.runtime.name, str(case.folder), when]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root, env=os.environ) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    assert gone(pidfd)
    os.close(pidfd)
