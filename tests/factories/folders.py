"""Model folders as people have them on their disks, tiny and whole."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from tests.factories.malformed import Gguf, key, text, u32

SNAPSHOT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(*shapes: tuple[int, ...], dtype: str = "F16") -> bytes:
    """A safetensors file with a tensor of each shape, two bytes a number."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for number, shape in enumerate(shapes):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[f"layer.{number}.weight"] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(end)


def gguf(name: str = "Tiny", *, architecture: str = "llama", split: tuple[int, int] | None = None) -> bytes:
    keys = [
        key("general.architecture", 8, text(architecture)),
        key("general.name", 8, text(name)),
        key("general.file_type", 4, u32(15)),
        key(f"{architecture}.context_length", 4, u32(2048)),
    ]
    if split:
        keys += [
            key("split.no", 2, split[0].to_bytes(2, "little")),
            key("split.count", 2, split[1].to_bytes(2, "little")),
        ]
    return Gguf(keys=keys).to_bytes()


def write(path: Path, data: bytes | dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


def transformers(folder: Path, **config: object) -> Path:
    write(folder / "config.json", {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, **config})
    write(folder / "model.safetensors", safetensors((4, 8), (2,)))
    write(folder / "tokenizer.json", {"model": {}})
    return folder


def diffusers(folder: Path, kind: str = "StableDiffusionXLPipeline") -> Path:
    write(folder / "model_index.json", {"_class_name": kind, "unet": ["diffusers", "UNet2DConditionModel"]})
    write(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel"})
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", safetensors((8, 8)))
    return folder


def hub_cache(folder: Path, repo: str = "acme/Acorn-1B") -> Path:
    """The Hub's own cache: a snapshot of links to blobs. Answers the snapshot."""
    home = folder / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / SNAPSHOT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(SNAPSHOT)
    whole = transformers(folder / "made")
    for file in sorted(whole.iterdir()):
        blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        write(blob, file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        file.unlink()
    whole.rmdir()
    return snapshot
