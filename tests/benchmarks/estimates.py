"""What models are predicted to take beside what they take, at rest and at work: `python -m tests.benchmarks.estimates`.

All of them are real in every part but their numbers, and about as large as people publish small ones; each runs in its
own runner, as a device worker would start it, and is asked for as much as its cache has room for.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from rich.console import Console
from rich.table import Table

from deploy.demo.models import make_gguf_llm
from shared import fit
from shared.errors import Failed, ModelyardError
from shared.settings import RunnerSettings
from shared.states import ANIMATION, EMBEDDING, IMAGE_GEN, MUSIC, SPEECH, Output, output_of
from tests.factories.families import encoder, transformers_llm
from tests.factories.pipelines import animate_diff, stable_diffusion
from tests.factories.speech import musicgen, vits
from workers.runtimes.base import Request
from workers.runtimes.known import RUNNERS
from workers.runtimes.runner import Runner
from workers.store.essentials import files_of
from workers.store.facts import read_facts

CONTEXT = 1024
KEY = "0123456789abcdef-the-runner-key"
SETTINGS = RunnerSettings(max_startup_seconds=300)
LOOK_SECONDS = 0.02
"""Between two looks at how much a runner has while it works."""
PATIENCE_SECONDS = 900.0
WORDS = 100
MUSIC_SECONDS = 4.0
FAR = 0.25
"""Off by more, a prediction is marked."""


class Case(NamedTuple):
    """A model, and how it is made in a folder."""

    name: str
    type: str
    make: Callable[[Path], object]


@dataclass(frozen=True)
class Taken:
    """What a model took."""

    case: Case
    facts: dict[str, Any]
    size: int
    setting: fit.Setting
    at_rest: int
    """Bytes, once it was loaded and had answered its probe."""
    at_work: int = 0
    """The most that it had while it answered."""

    @property
    def footprint(self) -> fit.Footprint:
        return fit.Footprint(self.at_rest, fit.at_rest(self.facts, self.size, self.setting))

    def need(self, others: Sequence["Taken"] = (), *, own: bool = False) -> fit.Need:
        """Predicted: by the formula; as what others took corrects it; or by what it took itself."""
        learned = [one.footprint for one in others if one is not self and one.setting.runtime == self.setting.runtime]
        return fit.need(self.facts, self.size, self.setting, self.footprint if own else None, learned)


LLAMA = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 4}
LENGTH = {"max_position_embeddings": 4096}
GGUF_BYTES = 200_000_000

CASES = (
    Case("Llama F32", "llm", lambda to: transformers_llm(
        to, "llama", torch.float32, num_hidden_layers=8, **LLAMA, **LENGTH)),
    Case("Qwen2 BF16", "llm", lambda to: transformers_llm(
        to, "qwen2", torch.bfloat16, num_hidden_layers=8, **LLAMA, **LENGTH)),
    Case("GPT-2 F16", "llm", lambda to: transformers_llm(
        to, "gpt2", torch.float16, n_embd=512, n_layer=4, n_head=8, n_positions=CONTEXT)),
    Case("BERT F32", EMBEDDING, lambda to: encoder(
        to, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=512)),
    Case("VITS F32", SPEECH, lambda to: vits(to, small=False)),
    Case("MusicGen F32", MUSIC, lambda to: musicgen(to, small=False)),
    Case("Stable Diffusion F32", IMAGE_GEN, lambda to: stable_diffusion(to, small=False)),
    Case("Stable Diffusion F16", IMAGE_GEN, lambda to: stable_diffusion(to, small=False, dtype=torch.float16)),
    Case("AnimateDiff F32", ANIMATION, lambda to: animate_diff(to, small=False, most_frames=16)),
    Case("GGUF F16", "llm", lambda to: make_gguf_llm(to / "model.gguf", 1, GGUF_BYTES)),
    Case("GGUF Q8_0", "llm", lambda to: make_gguf_llm(
        to / "model.gguf", 1, GGUF_BYTES, numbers_as="Q8_0")),
    Case("GGUF Q4_0", "llm", lambda to: make_gguf_llm(
        to / "model.gguf", 1, GGUF_BYTES, numbers_as="Q4_0")),
)  # fmt: skip


def measured(case: Case, folder: Path, spawn: ThreadPoolExecutor, *, at_work: bool = True) -> Taken:
    """Make the model, load it, and look at its runner.

    Args:
        at_work: ask it for all that it has room for, too.
    """
    folder.mkdir(parents=True)
    case.make(folder)
    files = files_of(folder)
    facts, size = read_facts(files).to_dict(), sum(file.stat().st_size for file in files.values())
    output = output_of(case.type)
    runtime = next(one for kind in RUNNERS if (one := kind(SETTINGS)).output is output and one.accepts(folder))
    request = Request(
        folder, "measured", "127.0.0.1", 0, KEY, "cpu", CONTEXT, pooling=facts.get("pooling", "mean")
    )  # fmt: skip
    runner = Runner.start(runtime, request, spawn, SETTINGS)
    try:
        runner.wait_ready(lambda: None)
        runner.probe()
        rest = runner.memory().host
        setting = fit.Setting(runtime.name, "cpu", CONTEXT)
        return Taken(case, facts, size, setting, rest, _at_work(runner, case.type, facts) if at_work else 0)
    finally:
        runner.stop(5)


def _at_work(runner: Runner, model_type: str, facts: dict[str, Any]) -> int:
    seen, done = [runner.memory().host], threading.Event()

    def look() -> None:
        while not done.wait(LOOK_SECONDS):
            seen.append(runner.memory().host)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        _ask(runner.url, model_type, min(CONTEXT, facts.get("contextLength") or CONTEXT))
    finally:
        done.set()
        looking.join()
    return max(seen)


def _ask(url: str, model_type: str, context: int) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"{url}/v1", headers=headers, timeout=PATIENCE_SECONDS, trust_env=False) as http:

        def asked(path: str, **body: Any) -> httpx.Response:
            answer = http.post(path, json={"model": "measured", **body})
            if answer.status_code != httpx.codes.OK:
                raise Failed("not_answered", f"It answered {answer.status_code}: {answer.text[:200]}")
            return answer

        match output_of(model_type):
            case Output.TEXT:
                few = asked("/completions", prompt=" la" * WORDS, max_tokens=1).json()["usage"]["prompt_tokens"]
                asked("/completions", prompt=" la" * (WORDS * (context - 64) // few), max_tokens=16)
            case Output.VECTORS:
                few = asked("/embeddings", input=" la" * WORDS).json()["usage"]["prompt_tokens"]
                asked("/embeddings", input=[" la" * (WORDS * (context - 64) // few)] * 4)
            case Output.IMAGES:
                asked("/images/generations", prompt="A lighthouse at dusk", steps=2, seed=1)
            case Output.VIDEO:
                asked("/videos/generations", prompt="A lighthouse at dusk", steps=1, seed=1)
            case Output.SOUND if model_type == MUSIC:
                asked("/audio/speech", input="A slow waltz", seconds=MUSIC_SECONDS, seed=1)
            case Output.SOUND:
                asked("/audio/speech", input="the yard keeps every model where it can be found " * 4, seed=1)


def main() -> int:
    parser = argparse.ArgumentParser(description="The table of estimates.")
    parser.add_argument("models", nargs="*", help="those whose names contain one of these; all where none is named")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    wanted = [one for one in CASES if not options.models or any(each in one.name for each in options.models)]
    taken: list[Taken] = []
    with tempfile.TemporaryDirectory(prefix="estimates-") as root, ThreadPoolExecutor(1) as spawn:
        for number, case in enumerate(wanted):
            console.print(f"{case.name} …")
            try:
                taken.append(one := measured(case, Path(root) / str(number), spawn))
                console.print(f"  {_mb(one.at_rest)} MB at rest, {_mb(one.at_work)} MB at work")
            except ModelyardError as error:
                console.print(f"[red]{case.name}: {error.message} {error.hint}[/]")
    console.print(_table(taken))
    return 0


def _table(taken: Sequence[Taken]) -> Table:
    """In MB. What was learned is of the other models of the same runtime in the table."""
    table = Table(title="Memory in MB, and by how much each prediction is off")
    for head in ("Model", "Runtime", "Weights", "At rest", "Predicted", "Off", "Learned", "At work", "Predicted",
                 "Off", "Learned", "Own"):  # fmt: skip
        table.add_column(head, justify="left" if head in ("Model", "Runtime") else "right")
    for one in taken:
        first, then, own = one.need(), one.need(taken), one.need(own=True)
        rest = one.footprint.predicted
        table.add_row(
            one.case.name, one.setting.runtime, _mb(first.weights), _mb(one.at_rest), _mb(rest),
            _off(rest, one.at_rest), _off(rest + then.total - first.total, one.at_rest), _mb(one.at_work),
            _mb(first.total), *(_off(each.total, one.at_work) for each in (first, then, own)),
        )  # fmt: skip
    return table


def _mb(count: float) -> str:
    return f"{count / fit.MB:.0f}"


def _off(predicted: float, measured: int) -> str:
    share = predicted / measured - 1
    text = f"{share:+.0%}"
    return f"[red]{text}[/]" if abs(share) > FAR else text


if __name__ == "__main__":
    sys.exit(main())
