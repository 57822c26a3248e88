"""Every runtime there is, and the tiny question that each has for a model in memory."""

from dataclasses import replace

from shared.errors import Failed
from shared.settings import Settings
from shared.states import Output
from workers.runtimes.base import Runtime
from workers.runtimes.llamacpp import LlamaCpp, LlamaCppEmbedder
from workers.runtimes.ollama import OllamaRuntime
from workers.runtimes.torch_runner import (
    TorchEmbedder,
    TorchImageGenerator,
    TorchRunner,
    TorchSoundMaker,
    TorchVideoMaker,
)

RUNNERS = (
    TorchRunner,
    TorchEmbedder,
    TorchImageGenerator,
    TorchVideoMaker,
    TorchSoundMaker,
    LlamaCpp,
    LlamaCppEmbedder,
)


def all_runtimes(settings: Settings) -> tuple[Runtime, ...]:
    """In the order in which they are asked whether they run a model."""
    ollama = OllamaRuntime(settings.runners, settings.sources)
    return (*(kind(settings.runners) for kind in RUNNERS), ollama, replace(ollama, output=Output.VECTORS))


def ask_tiny(settings: Settings, runtime: str, output: Output, url: str, key: str, known_as: str | None) -> None:
    """Ask a server something tiny, and look at its answer, as is done before it serves.

    Args:
        runtime: its name.
        known_as: what a server that is not ours calls the model.

    Raises:
        Failed: code `probe_failed`, with the status and what came back; `unknown_runtime`.
        ModelyardError: what else Ollama says.
    """
    if known_as is not None:
        OllamaRuntime(settings.runners, settings.sources, output).probe(known_as)
        return
    for kind in RUNNERS:
        asker = kind(settings.runners)
        if (asker.name, asker.output) == (runtime, output):
            asker.probe(url, key)
            return
    raise Failed(
        "unknown_runtime", f"This worker does not know the runtime {runtime!r}.", "Run one version everywhere."
    )
