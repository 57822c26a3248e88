"""What a runner does with pickles and code: nothing by default, tensors only where they were allowed."""

import json
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from deploy.demo.models import make_transformers_llm
from shared.errors import Failed
from shared.settings import RunnerSettings
from tests.conformance.corpus import Canary
from tests.conftest import until
from workers.runtimes.base import Request
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchRunner
from workers.runtimes.torch_runner.chat import render
from workers.runtimes.torch_runner.request import Refused

SETTINGS = RunnerSettings(max_startup_seconds=90)
RUNTIME = TorchRunner(SETTINGS)
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({canary!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
Start = Callable[..., Runner]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Runner] = []
    with ThreadPoolExecutor(1) as spawn:

        def go(folder: Path, *, pickle: bool = False, code: bool = False) -> Runner:
            request = Request(
                folder, "m", "127.0.0.1", 0, "key", "cpu", 256, allow_pickle=pickle, allow_remote_code=code
            )
            running.append(Runner.start(RUNTIME, request, spawn, SETTINGS))
            running[-1].wait_ready(lambda: None)
            return running[-1]

        yield go
        for runner in running:
            runner.stop(2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_transformers_llm(tmp_path / "model", seed=1, weight_bytes=1_000_000, name="tiny")
    return tmp_path / "model"


@pytest.mark.fault("A-77")
class TestPickles:
    def test_allowed_weights_are_read_and_answer(self, folder: Path, start: Start) -> None:
        weights = folder / "model.safetensors"
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
        start(folder, pickle=True).probe()

    def test_allowed_or_not_nothing_in_them_is_run(self, folder: Path, start: Start, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        (folder / "model.safetensors").unlink()
        torch.save({"model.embed_tokens.weight": Canary(str(canary))}, folder / "pytorch_model.bin")
        with pytest.raises(Failed) as raised:
            start(folder, pickle=True)
        assert raised.value.code == "runner_exited"
        assert not canary.exists()


HOSTILE = """{%- set ask, n = messages[0].content, 10 -%}
{%- if ask == 'code' -%}{{ cycler.__init__.__globals__.os.system('touch CANARY') }}
{%- elif ask == 'range' -%}{% for i in range(n ** 9) %}x{% endfor %}
{%- elif ask == 'loops' -%}
{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}
{%- elif ask == 'step' -%}{{ n ** (n ** n) }}
{%- endif -%}"""


@pytest.mark.fault("A-74")
def test_a_hostile_template_of_ten_megabytes_harms_nobody_else(
    folder: Path, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, or ended between two of its steps; where one step never ends, the runner is seen to hang."""
    monkeypatch.chdir(tmp_path)
    template = HOSTILE.replace("CANARY", str(tmp_path / "canary")) + "{# " + "x" * 10_000_000 + " #}"
    (folder / "chat_template.jinja").write_text(template)
    runner = start(folder)

    def chat(ask: str) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": ask}], "max_tokens": 1}
        return client.post("/v1/chat/completions", json=body)

    with httpx.Client(base_url=runner.url, headers={"Authorization": "Bearer key"}, timeout=60) as client:
        assert [chat(ask).status_code for ask in ("code", "range")] == [400, 400]
        ended = chat("loops")
        assert (ended.status_code, "did not end" in ended.text) == (400, True)
        assert runner.healthy()
        plain = {"model": "m", "prompt": "hi", "max_tokens": 1}
        assert client.post("/v1/completions", json=plain).status_code == 200, "and others are served"
        until(lambda: psutil.Process(runner.pid).cpu_percent(0.5) < 50, what="the end of the loop")
        client.timeout = httpx.Timeout(2)
        with pytest.raises(httpx.ReadTimeout):
            chat("step")
    until(lambda: runner.hangs(1.0), what="the worker's sight of it")
    assert not (tmp_path / "canary").exists()
    assert not list(tmp_path.glob("CANARY"))


@pytest.mark.fault("A-74")
@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 10",
    ],
)
def test_a_template_stays_in_its_sandbox(
    template: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    try:
        text, _ = render([{"role": "user", "content": "hi"}], tokenizer)
    except (Refused, OverflowError):
        text = ""
    assert "os" not in text
    assert "class" not in text
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.fault("A-74")
def test_templates_are_rendered_in_one_place_only() -> None:
    root = Path(__file__).parents[3]
    naming = {
        path.relative_to(root).as_posix()
        for room in ("api", "workers", "shared", "deploy")
        for path in (root / room).rglob("*.py")
        if re.search(r"jinja2|apply_chat_template", path.read_text(encoding="utf-8"))
    }
    assert naming == {"workers/runtimes/torch_runner/chat.py"}


@pytest.mark.fault("A-75", "A-76")
class TestCode:
    @pytest.fixture
    def canary(self, folder: Path, tmp_path: Path) -> Path:
        """A model with code of its own, and further files that an interpreter might pick up by itself."""
        canary = tmp_path / "canary"
        config = json.loads((folder / "config.json").read_text())
        names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": names}))
        (folder / "own.py").write_text(CODE.format(canary=str(canary)))
        for name in ("sitecustomize.py", "usercustomize.py", "torch.py", "transformers.py", "evil.pth"):
            (folder / name).write_text(f"import pathlib; pathlib.Path({str(canary)!r}).touch()")
        for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin"):  # beside safetensors: never opened
            (folder / name).write_bytes(pickle.dumps(Canary(str(canary))))
        return canary

    def test_none_of_it_runs_by_default(self, folder: Path, canary: Path, start: Start) -> None:
        """Past the gate, which refuses such a model before: the runner itself does not run it either."""
        with pytest.raises(Failed):
            start(folder)
        assert not canary.exists()

    def test_allowed_it_runs_in_the_runner_and_leaves_nothing(self, folder: Path, canary: Path, start: Start) -> None:
        before = sorted(path.name for path in folder.iterdir())
        start(folder, code=True).probe()
        assert canary.exists()
        assert sorted(path.name for path in folder.iterdir()) == before
