"""What the formula says that models take, beside what they take: several families and number types, in real runners."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.demo.models import make_gguf_llm
from shared import fit
from shared.settings import RunnerSettings
from tests.factories.families import transformers_llm
from tests.system.conftest import needs_llama_server
from workers.runtimes.base import Request
from workers.runtimes.llamacpp import LlamaCpp
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchRunner
from workers.store.essentials import files_of
from workers.store.facts import read_facts

CONTEXT = 2048
SETTINGS = RunnerSettings(max_startup_seconds=120)
LLAMA_LIKE = {
    "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}  # fmt: skip


Folders = dict[str, Path]


@dataclass(frozen=True)
class Seen:
    name: str
    facts: dict[str, Any]
    size: int
    setting: fit.Setting
    footprint: fit.Footprint


def published_for_torch(root: Path) -> Folders:
    return {
        "Llama F32": transformers_llm(root / "a", "llama", torch.float32, num_hidden_layers=4, **LLAMA_LIKE),
        "Qwen2 BF16": transformers_llm(root / "b", "qwen2", torch.bfloat16, num_hidden_layers=4, **LLAMA_LIKE),
        "Mistral BF16": transformers_llm(root / "c", "mistral", torch.bfloat16, num_hidden_layers=32, **LLAMA_LIKE),
        "GPT-2 F16": transformers_llm(root / "d", "gpt2", torch.float16, n_embd=512, n_layer=4, n_head=8),
    }


def published_as_gguf(root: Path) -> Folders:
    needs_llama_server()
    sizes = {"GGUF F16, small": 20_000_000, "GGUF F16": 200_000_000}
    for name, size in sizes.items():
        make_gguf_llm(root / name / "model.gguf", 1, size)
    return {name: root / name for name in sizes}


def measured(name: str, folder: Path, spawn: ThreadPoolExecutor) -> Seen:
    runtime = next(one for one in (TorchRunner(SETTINGS), LlamaCpp(SETTINGS)) if one.accepts(folder))
    files = files_of(folder)
    facts, size = read_facts(files).to_dict(), sum(file.stat().st_size for file in files.values())
    setting = fit.Setting(runtime.name, "cpu", CONTEXT)
    runner = Runner.start(runtime, Request(folder, name, "127.0.0.1", 0, "key", "cpu", CONTEXT), spawn, SETTINGS)
    try:
        runner.wait_ready(lambda: None)
        runner.probe()
        return Seen(name, facts, size, setting, fit.Footprint(runner.memory().host, fit.at_rest(facts, size, setting)))
    finally:
        runner.stop(5)


@pytest.mark.parametrize("published", [published_for_torch, published_as_gguf])
def test_estimates_hold_before_anything_was_measured_and_after(
    tmp_path: Path, published: Callable[[Path], Folders]
) -> None:
    folders = published(tmp_path)
    with ThreadPoolExecutor(1) as spawn:
        seen = [measured(name, folder, spawn) for name, folder in folders.items()]
    for one in seen:
        others = [each.footprint for each in seen if each is not one]
        first = fit.need(one.facts, one.size, one.setting)
        then = fit.need(one.facts, one.size, one.setting, others=others)
        later = first.total - one.footprint.predicted  # torch's cache, which no request has filled yet
        off, learned = (one.footprint.measured + later - need.total for need in (first, then))
        figures = (first.weights, one.footprint.predicted, one.footprint.measured, off, learned)
        print(one.name, *(round(figure / fit.MIB) for figure in figures))
        assert abs(off) <= first.spread, one.name
        assert abs(learned) <= then.spread < first.spread, one.name
