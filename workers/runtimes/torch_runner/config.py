"""What a transformers folder says about itself, read without torch and without running anything."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 16 * 1024 * 1024
ARCHITECTURES = ("ForCausalLM", "LMHeadModel")
CODE_KEYS = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "_attn_implementation_internal"})


def text_model(folder: Path) -> bool:
    """Does `config.json` name an architecture that generates text?"""
    config = _read(folder / "config.json")
    names = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(names, list) and any(isinstance(name, str) and name.endswith(ARCHITECTURES) for name in names)


def remote_code(folder: Path) -> list[str]:
    """Where the folder's JSON files ask for Python code of the model's own: `file: key.key`, sorted."""
    return sorted(
        f"{file.name}: {key}"
        for file in folder.glob("*.json")
        if not file.name.endswith(".index.json") and file.name != "tokenizer.json"
        for key in _code_keys(_read(file), "")
    )


def _code_keys(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _code_keys(item, path)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        here = f"{path}.{key}" if path else key
        asks = (key in CODE_KEYS and item) or (key == "trust_remote_code" and item is not False)
        if asks or (key == "_class_name" and isinstance(item, list)):
            yield here
        else:
            yield from _code_keys(item, here)


def _read(file: Path) -> Any:
    """The JSON in a file; None where it is none, or far too large or deep to be honest."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
