"""Transformers folders with safetensors, run by our own small server. Importing this never imports torch."""

import json
import math
import sys
from pathlib import Path

from shared.errors import Unsafe
from shared.settings import RunnerSettings
from workers.runtimes.asking import ask, failed
from workers.runtimes.base import Launch, Request
from workers.runtimes.torch_runner.config import remote_code, text_model

ROOT = Path(__file__).parents[3]
KEY_VARIABLE = "MODELYARD_RUNNER_KEY"


class TorchRunner:
    """Runs a folder with a `config.json` and safetensors, with `workers.runtimes.torch_runner.server`."""

    name = "torch"

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings

    def accepts(self, folder: Path) -> bool:
        """Is it a causal language model in transformers' layout, with weights in safetensors?"""
        return text_model(folder) and any(folder.glob("*.safetensors"))

    def launch(self, request: Request) -> Launch:
        """The command for our server, in an interpreter that never looks for modules in its working folder.

        Raises:
            Unsafe: code `remote_code_required`; details list the keys that name code of the model's own.
        """
        found = remote_code(request.folder)
        if found:
            raise Unsafe(
                "remote_code_required",
                f"{request.model_id} would run code that it brings along.",
                "Take a variant of this model that transformers supports by itself.",
                {"keys": found},
            )
        argv = (
            *(sys.executable, "-P", "-m", "workers.runtimes.torch_runner.server"),
            *("--folder", str(request.folder.absolute())),
            *("--model-id", request.model_id),
            *("--host", request.host),
            *("--port", str(request.port)),
            *("--device", request.device),
            *("--context-length", str(request.context_length)),
        )
        env = {
            KEY_VARIABLE: request.key,
            "PYTHONPATH": str(ROOT),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "passive",
        }
        return Launch(argv, env)

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
