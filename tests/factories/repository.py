"""Repositories of real-format files, with weights as large as a test needs them."""

import json
import random
import struct
from pathlib import Path


def weights(size: int, seed: int) -> bytes:
    """A safetensors file with one tensor of so many bytes, the same for the same seed."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


def make_repository(folder: Path, **files: int) -> None:
    """Write `config.json` and, for each name, `<name>.safetensors` of so many bytes; the name is the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["Tiny"]}))
    for name, size in files.items():
        (folder / f"{name}.safetensors").write_bytes(weights(size, sum(name.encode())))
