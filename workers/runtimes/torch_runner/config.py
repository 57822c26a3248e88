"""What a model's folder says about itself, read without torch and without running anything."""

import json
from pathlib import Path
from typing import Any

from shared.fit import SOUND_MAKERS, VIDEO_MAKERS

INDEX = "model_index.json"
MAX_JSON_BYTES = 16 * 1024 * 1024
GENERATORS = ("ForCausalLM", "LMHeadModel")
ENCODERS = ("Model", "ForMaskedLM")


def text_model(folder: Path) -> bool:
    """Does `config.json` name an architecture that generates text?"""
    return _names(folder, GENERATORS)


def embedding_model(folder: Path) -> bool:
    """Does it name one whose last layer can be made into a vector: an encoder, or what generates text?"""
    return _names(folder, (*GENERATORS, *ENCODERS))


def sound_model(folder: Path) -> bool:
    """Does it name one that speaks, or plays music?"""
    return _names(folder, SOUND_MAKERS)


def pipeline(folder: Path) -> bool:
    """Does `model_index.json` name a pipeline? Whether it is one for images of texts, diffusers says in the runner."""
    index = read(folder / INDEX) or {}
    return isinstance(index.get("_class_name"), str)


def video_pipeline(folder: Path) -> bool:
    """Does it name one that makes videos of texts?"""
    return (read(folder / INDEX) or {}).get("_class_name") in VIDEO_MAKERS


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers loads of a folder, as it chooses: one file, else those of an index."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    places = (read(folder / "model.safetensors.index.json") or {}).get("weight_map")
    names = set(places.values()) if isinstance(places, dict) else set()
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        return []
    return [folder / name for name in sorted(names)]


def read(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where it is none, or far too large or deep to be honest."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            return None
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _names(folder: Path, endings: tuple[str, ...]) -> bool:
    names = (read(folder / "config.json") or {}).get("architectures")
    return isinstance(names, list) and any(isinstance(name, str) and name.endswith(endings) for name in names)
