"""Files to move about: real safetensors of any size, quickly made."""

import json
import os
from pathlib import Path

BLOCK_BYTES = 16 * 1024**2


def weights(path: Path, size: int, *, hollow: bool = False) -> Path:
    """A safetensors file of exactly that size, of noise that no two blocks of 16 MiB share; answers its path.

    Args:
        hollow: of zeros that take no room on the disk instead.
    """
    head = _head(size)
    with path.open("wb") as file:
        file.write(head)
        noise, left = os.urandom(min(BLOCK_BYTES, size)), size - len(head)
        while left and not hollow:
            block = (os.urandom(16) + noise)[: min(BLOCK_BYTES, left)]
            file.write(block)
            left -= len(block)
        file.truncate(size)
    return path


def repository(root: Path, name: str, size: int, files: int = 1, *, hollow: bool = False) -> Path:
    """A model's folder below a hub's root, its weights in so many files of that size; answers the folder."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    for number in range(files):
        weights(folder / f"model-{number}.safetensors", size, hollow=hollow)
    return folder


def _head(size: int) -> bytes:
    """One tensor of bytes that takes all there is after the head, whose length does not depend on it."""
    length = 120
    tensor = {"weight": {"dtype": "U8", "shape": [size - 8 - length], "data_offsets": [0, size - 8 - length]}}
    return length.to_bytes(8, "little") + json.dumps(tensor).ljust(length).encode()
