"""Folders of transformers and diffusers, run by our own small server. Importing this never imports torch."""

import json
import math
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from shared.errors import Failed, Unsafe
from shared.settings import RunnerSettings
from shared.states import Output
from workers.runtimes.asking import ask, failed, probe_embedding, probe_image
from workers.runtimes.base import Launch, Request
from workers.runtimes.runner import Launched
from workers.runtimes.torch_runner.config import embedding_model, pipeline, sound_model, text_model, video_pipeline

ROOT = Path(__file__).parents[3]
COMMAND = (sys.executable, "-P", "-m", "workers.runtimes.torch_runner.server")
SPARE = "--spare"
"""In place of all other arguments, which come as a line of JSON on stdin once there is a model."""
KEY_VARIABLE = "MODELYARD_RUNNER_KEY"
PICKLE_FLOOR = (2, 10)
"""Older versions of torch run code out of pickles in spite of `weights_only`."""


class TorchRunner(Launched):
    """Runs a folder with a `config.json` and safetensors, with `workers.runtimes.torch_runner.server`."""

    name = "torch"
    output = Output.TEXT
    keeps_weights = True

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings

    def version(self) -> str:
        """Of torch.

        Raises:
            Failed: code `torch_missing`.
        """
        try:
            return version("torch")
        except PackageNotFoundError:
            hint = "pip install 'modelyard[torch]'"
            raise Failed("torch_missing", "Models of transformers need torch, and there is none here.", hint) from None

    def accepts(self, folder: Path) -> bool:
        """Is it a causal language model in transformers' layout, with weights in safetensors or in torch's pickles?"""
        return text_model(folder) and _has_weights(folder)

    def launch(self, request: Request) -> Launch:
        """The command for our server, in an interpreter that never looks for modules in its working folder.

        Raises:
            Unsafe: code `unsafe_format`, there are pickles only and nobody allowed them; `torch_too_old`.
        """
        if pickled := self._pickled(request.folder):
            _check_pickles(request)
        argv = (
            *COMMAND,
            *("--folder", str(request.folder.absolute())),
            *("--model-id", request.model_id),
            *("--host", request.host),
            *("--port", str(request.port)),
            *("--device", request.device),
            *("--context-length", str(request.context_length)),
            *(["--allow-pickle"] if pickled else []),
            *(["--allow-remote-code"] if request.allow_remote_code else []),
            *(["--keep-weights"] if request.keep_weights else []),
            *(["--piece-by-piece"] if request.piece_by_piece else []),
            *(["--precision", request.precision] if request.precision else []),
        )
        return Launch(argv, _env(request.key))

    def spare(self, key: str) -> Launch | None:
        """The same for one that reads its libraries and waits; None where there is no torch."""
        return Launch((*COMMAND, SPARE), _env(key)) if torch_version() else None

    def probe(self, base_url: str, key: str) -> None:
        """One token; the server looks at its numbers and refuses to answer where they are not finite.

        Raises:
            Failed: code `probe_failed`.
        """
        answer = ask(base_url, "/run", key, {"prompt": "Hello", "max_tokens": 1})
        seconds = answer.get("seconds")
        timed = isinstance(seconds, int | float) and math.isfinite(seconds)
        if not timed or not isinstance(answer.get("text"), str) or answer.get("tokens") != 1:
            failed("no token came back", 200, json.dumps(answer).encode())

    def _pickled(self, folder: Path) -> bool:
        """Are there weights that come as pickles only?"""
        return not any(folder.glob("*.safetensors"))


class TorchEmbedder(TorchRunner):
    """The same for a model that makes vectors of texts."""

    output = Output.VECTORS

    def accepts(self, folder: Path) -> bool:
        """Is it an encoder or a language model in transformers' layout?"""
        return embedding_model(folder) and _has_weights(folder)

    def launch(self, request: Request) -> Launch:
        """As `TorchRunner.launch`."""
        launch = super().launch(request)
        return replace(launch, argv=(*launch.argv, "--embeddings", request.pooling))

    def probe(self, base_url: str, key: str) -> None:
        """Raises: Failed: code `probe_failed`."""
        probe_embedding(base_url, key)


class TorchSoundMaker(TorchRunner):
    """The same for a model that speaks, or plays music."""

    output = Output.SOUND
    keeps_weights = False

    def accepts(self, folder: Path) -> bool:
        """Is it one of transformers' models that make sound?"""
        return sound_model(folder) and _has_weights(folder)

    def launch(self, request: Request) -> Launch:
        """As `TorchRunner.launch`."""
        launch = super().launch(request)
        return replace(launch, argv=(*launch.argv, "--sound"))

    def probe(self, base_url: str, key: str) -> None:
        """Raises: Failed: code `probe_failed`."""
        _probe_file(base_url, key, "sound")


class TorchImageGenerator(TorchRunner):
    """The same for a pipeline of diffusers that makes images of texts."""

    name = "diffusers"
    output = Output.IMAGES
    keeps_weights = False
    _makes = "--images"

    def version(self) -> str:
        """Of diffusers.

        Raises:
            Failed: code `torch_missing`, `diffusers_missing`.
        """
        super().version()
        try:
            return version("diffusers")
        except PackageNotFoundError:
            hint = "pip install 'modelyard[torch]'"
            message = f"Models that make {self.output} need diffusers, and there is none here."
            raise Failed("diffusers_missing", message, hint) from None

    def accepts(self, folder: Path) -> bool:
        """Is it a pipeline in diffusers' layout?"""
        return pipeline(folder)

    def launch(self, request: Request) -> Launch:
        """As `TorchRunner.launch`.

        Raises:
            Failed: see `version`.
        """
        self.version()
        launch = super().launch(request)
        return replace(launch, argv=(*launch.argv, self._makes))

    def probe(self, base_url: str, key: str) -> None:
        """Raises: Failed: code `probe_failed`."""
        probe_image(base_url, key)

    def _pickled(self, folder: Path) -> bool:
        parts = [part for part in folder.iterdir() if part.is_dir()]
        return any(any(part.glob("*.bin")) and not any(part.glob("*.safetensors")) for part in parts)


class TorchVideoMaker(TorchImageGenerator):
    """The same for a pipeline of diffusers that makes videos of texts."""

    output = Output.VIDEO
    _makes = "--videos"

    def version(self) -> str:
        """Of diffusers.

        Raises:
            Failed: as for images; code `av_missing`.
        """
        try:
            version("av")
        except PackageNotFoundError:
            hint = "pip install 'modelyard[torch]'"
            raise Failed("av_missing", "Videos are written by PyAV, and there is none here.", hint) from None
        return super().version()

    def accepts(self, folder: Path) -> bool:
        """Is it one of the pipelines that make videos here?"""
        return video_pipeline(folder)

    def probe(self, base_url: str, key: str) -> None:
        """Raises: Failed: code `probe_failed`."""
        _probe_file(base_url, key, "video")


def _probe_file(base_url: str, key: str, what: str) -> None:
    """Raises: Failed."""
    answer = ask(base_url, "/run", key, {"prompt": "Hello"})
    size = answer.get("bytes")
    if not isinstance(size, int) or size < 1:
        failed(f"no {what} came back", 200, json.dumps(answer).encode())


def _env(key: str) -> dict[str, str]:
    return {
        KEY_VARIABLE: key,
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",
        # code of the model's own, where it was allowed, is copied here: into the runner's own folder, gone with it
        "HF_MODULES_CACHE": "modules",
    }


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(names)) for names in ("*.safetensors", "*.bin"))


def _check_pickles(request: Request) -> None:
    """Raises: Unsafe."""
    if not request.allow_pickle:
        raise Unsafe(
            "unsafe_format",
            f"{request.model_id} has its weights only as pickles, which run code of the publisher when loaded.",
            "Use a variant with .safetensors or .gguf files.",
        )
    found = torch_version()
    if found < PICKLE_FLOOR:
        floor = ".".join(map(str, PICKLE_FLOOR))
        raise Unsafe(
            "torch_too_old",
            f"Pickles are allowed for {request.model_id}, but the torch that is installed reads them unsafely.",
            f"Install torch {floor} or newer (it is {'.'.join(map(str, found)) or 'not installed'} here), or use a "
            "variant with .safetensors or .gguf files.",
        )


def torch_version() -> tuple[int, ...]:
    """Major and minor version of the torch that a runner would import; empty where there is none."""
    try:
        return tuple(int(part) for part in version("torch").split("+")[0].split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return ()
