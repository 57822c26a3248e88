"""Models that start in a moment: what is tested with them is the service, not what runs them."""

import json
import struct
from pathlib import Path

from deploy.demo.models import make_gguf_llm, make_transformers_llm
from shared.errors import ModelyardError
from shared.settings import Settings
from workers.runtimes.llamacpp import find_binary

WIDTH = b"llama.embedding_length"


def make_quick_llm(folder: Path, seed: int, weight_bytes: int) -> str:
    """For llama-server where there is one, which starts a hundred times as fast as torch; answers the runtime."""
    try:
        find_binary(Settings().runners)
    except ModelyardError:
        make_transformers_llm(folder, seed, weight_bytes, folder.name)
        return "torch"
    make_gguf_llm(folder / f"{folder.name}.gguf", seed, weight_bytes, name=folder.name)
    return "llama.cpp"


def contradict(folder: Path) -> None:
    """Let such a model say that it is twice as wide as its tensors are: whole, and nothing can run it."""
    for config in folder.glob("config.json"):
        told = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**told, "hidden_size": told["hidden_size"] * 2}), encoding="utf-8")
    for file in folder.glob("*.gguf"):
        content = bytearray(file.read_bytes())
        at = content.index(WIDTH) + len(WIDTH)
        kind, width = struct.unpack_from("<II", content, at)
        struct.pack_into("<II", content, at, kind, 2 * width)
        file.write_bytes(content)
