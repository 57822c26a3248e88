"""What a transformers folder says about itself, read without torch and without running anything."""

import json
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 16 * 1024 * 1024
GENERATORS = ("ForCausalLM", "LMHeadModel")
ENCODERS = ("Model", "ForMaskedLM")


def text_model(folder: Path) -> bool:
    """Does `config.json` name an architecture that generates text?"""
    return _names(folder, GENERATORS)


def embedding_model(folder: Path) -> bool:
    """Does it name one whose last layer can be made into a vector: an encoder, or what generates text?"""
    return _names(folder, (*GENERATORS, *ENCODERS))


def _names(folder: Path, endings: tuple[str, ...]) -> bool:
    config = _read(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(names, list) and any(isinstance(name, str) and name.endswith(endings) for name in names)


def _read(file: Path) -> Any:
    """The JSON in a file; None where it is none, or far too large or deep to be honest."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
