"""What makes a model folder complete and safe to load: content decides, not the names of files."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import Corrupt, Invalid, ModelyardError, Unsafe
from workers.store.headers import Content, GgufHeader, read_gguf, read_safetensors, sniff
from workers.store.headers.plain import open_plain, read_exactly
from workers.store.layout import PARTIAL, Layout, storage

MAX_JSON = 64 * 1024**2
MAX_NAMED = 20

_PICKLE_NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
_WEIGHT_NAMES = (".safetensors", ".gguf", *_PICKLE_NAMES)
_INDEX = ".safetensors.index.json"
_CONFIGS = frozenset(
    (
        *("config.json", "model_index.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"),
        *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
        *("scheduler_config.json", "image_processor_config.json", "feature_extractor_config.json"),
    )
)
_ROOT_CONFIGS = frozenset({"config.json", "model_index.json", "adapter_config.json"})
_DIFFUSERS = frozenset({"unet", "transformer", "vae", "scheduler", "text_encoder_2"})
_REMOTE_KEYS = frozenset(
    {"auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines", "_attn_implementation_internal"}
)
_KERNEL_KEYS = frozenset({"attn_implementation", "_attn_implementation"})
_GGUF_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)

_HINTS = {
    "missing_essential": "Choose a repository or revision that has the whole model.",
    "missing_shards": "Download or repair the model; if that does not help, the publisher's upload is incomplete.",
    "invalid_format": "Repair the model, or ask its publisher.",
    "content_mismatch": "Check the address: the server sent something else than the model.",
    "unsafe_format": "Choose a revision with safetensors or GGUF weights.",
    "remote_code_required": "Choose a model that the installed libraries support without code of its own.",
    "source_invalid_filename": "Ask the publisher to correct the index.",
}
_UNSAFE = frozenset({"unsafe_format", "remote_code_required"})


@dataclass(frozen=True)
class Problem:
    """One reason why a folder is no model that we would load. `name` is the file, empty for the folder itself."""

    code: str
    name: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    def error(self) -> ModelyardError:
        """The problem as an error to raise."""
        hint = _HINTS[self.code]
        details = {"name": self.name, **self.details}
        if self.code in _UNSAFE:
            return Unsafe(self.code, self.message, hint, details)
        if self.code == "source_invalid_filename":
            return Invalid(self.code, self.message, hint, details)
        return Corrupt(self.code, self.message, hint, details)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"code": self.code, "name": self.name, "message": self.message, **self.details}


def check_essentials(folder: Path, names: Iterable[str]) -> list[Problem]:
    """Everything that keeps these files from being a model; an empty list is good news.

    Args:
        folder: where the files are; in staging they are found under their partial names too.
        names: the files' names in the model.

    Raises:
        Invalid: code `source_invalid_filename`, for one of `names`.
        Exhausted, Failed: the disk refuses.
    """
    files = {name: _place(folder, name) for name in names}
    problems: list[Problem] = []
    weights: dict[str, GgufHeader | None] = {}
    with storage():
        for name in sorted(files):
            try:
                found = _weights(name, files[name])
            except Corrupt as error:
                problems.append(Problem(error.code, name, f"{name}: {error.message}"))
                found = _named(name, ".safetensors", ".gguf"), None
            except _Refused as error:
                problems.append(Problem(error.code, name, f"{name}: {error}"))
                continue
            if found[0]:
                weights[name] = found[1]
            problems += _config_problems(name, files)
            if name.lower().endswith(_INDEX):
                problems += _index_problems(name, files)
    return problems + _parts(weights) + _missing(files, weights)


def _place(folder: Path, name: str) -> Path:
    path = Layout.inside(folder, name)
    partial = path.with_name(path.name + PARTIAL)
    return partial if partial.exists() and not path.exists() else path


class _Refused(Exception):
    """A file that is not what may be loaded."""

    def __init__(self, code: str, message: str, /) -> None:
        super().__init__(message)
        self.code = code


def _weights(name: str, path: Path) -> tuple[bool, GgufHeader | None]:
    """Does it hold weights, and its header if it is GGUF.

    Raises:
        Corrupt: its header is wrong.
        _Refused: it is something else than weights, under a name of weights or dangerous under any.
    """
    content = sniff(path)
    if content is Content.PICKLE or (content is Content.ARCHIVE and _named(name, *_WEIGHT_NAMES)):
        raise _Refused("unsafe_format", f"it is {content.value}; loading it could run code that came with it.")
    wrong = (_named(name, ".safetensors") and content is Content.GGUF) or (
        _named(name, ".gguf") and content is Content.SAFETENSORS
    )
    if wrong or (content in (Content.PAGE, Content.POINTER) and _named(name, *_WEIGHT_NAMES)):
        raise _Refused("content_mismatch", f"it is {content.value}.")
    if content is Content.GGUF or _named(name, ".gguf"):
        return True, read_gguf(path)
    if content is Content.SAFETENSORS or _named(name, ".safetensors"):
        read_safetensors(path)
        return True, None
    if _named(name, *_PICKLE_NAMES) and content is not Content.ARRAY:
        raise _Refused("unsafe_format", "its name is that of a pickle, and it holds neither safetensors nor GGUF.")
    return False, None


def _config_problems(name: str, files: Mapping[str, Path]) -> list[Problem]:
    if PurePosixPath(name).name.lower() not in _CONFIGS:
        return []
    try:
        config = _json(files[name])
    except ValueError as error:
        return [Problem("invalid_format", name, f"{name} is not the JSON object that it should be: {error}.")]
    keys = sorted(set(_remote_keys(config)))
    if not keys:
        return _components(config, files) if name == "model_index.json" else []
    message = f"{name} asks for code that comes with the model ({', '.join(keys[:MAX_NAMED])}); it is never run."
    return [Problem("remote_code_required", name, message, {"keys": keys[:MAX_NAMED]})]


def _components(index: Mapping[str, Any], files: Iterable[str]) -> list[Problem]:
    """Every part that a diffusers pipeline names, `[library, class]`, needs its folder."""
    folders = {name.split("/")[0] for name in files if "/" in name}
    wanted = [key for key, value in index.items() if isinstance(value, list) and value[:1] not in ([], [None])]
    missing = [key for key in wanted if not key.startswith("_") and all(isinstance(v, str) for v in index[key])]
    return [
        Problem("missing_essential", part, f"The pipeline's part {part!r} is missing.")
        for part in sorted(set(missing) - folders)
    ]


def _remote_keys(value: Any) -> Iterable[str]:
    """Keys, at any depth, that make a library fetch or run code of the model's own."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield from (key for key in _REMOTE_KEYS & value.keys() if value[key])
            if isinstance(value.get("_class_name"), list):
                yield "_class_name"
            # a slash makes these the name of a repository with compiled code
            yield from (key for key in _KERNEL_KEYS & value.keys() if "/" in str(value[key]))


def _index_problems(name: str, files: Mapping[str, Path]) -> list[Problem]:
    """Every shard that a weight index names must be there."""
    try:
        shards = _json(files[name]).get("weight_map")
    except ValueError as error:
        return [Problem("invalid_format", name, f"{name} is not the JSON object that it should be: {error}.")]
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        return [Problem("invalid_format", name, f"{name} has no map from tensors to files.")]
    parent = PurePosixPath(name).parent
    missing = []
    for shard in sorted(set(shards.values())):
        try:
            Layout.inside(Path(), shard)
        except Invalid as error:
            return [Problem(error.code, name, f"{name}: {error.message}", error.details | {"name": name})]
        if "://" in shard or str(parent / shard) not in files:
            missing.append(str(parent / shard))
    return _missing_shards(name, missing)


def _parts(weights: Mapping[str, GgufHeader | None]) -> list[Problem]:
    """A GGUF model in parts needs all of them, and all of one model."""
    groups: dict[tuple[str, int], dict[int, GgufHeader | None]] = {}
    for name, header in weights.items():
        match = _GGUF_PART.fullmatch(name)
        if match:
            groups.setdefault((match[1], int(match[3])), {})[int(match[2])] = header
    problems = []
    for (prefix, count), parts in groups.items():
        missing = [number for number in range(1, count + 1) if number not in parts]
        foreign = [n for n, part in parts.items() if part and part.split is not None and part.split != (n - 1, count)]
        labels = [f"{prefix}-{number:05}-of-{count:05}.gguf" for number in sorted(missing + foreign)]
        problems += _missing_shards(f"{prefix}-*.gguf", labels)
    return problems


def _missing_shards(name: str, missing: list[str]) -> list[Problem]:
    if not missing:
        return []
    shown = ", ".join(missing[:MAX_NAMED]) + (" …" if len(missing) > MAX_NAMED else "")
    message = f"{len(missing)} of the files that {name} needs are missing or of another model: {shown}."
    return [Problem("missing_shards", name, message, {"missing": missing[:MAX_NAMED]})]


def _missing(files: Mapping[str, Path], weights: Mapping[str, GgufHeader | None]) -> list[Problem]:
    """What the folder as a whole lacks."""
    names = {name.lower() for name in files}
    in_root = [name for name in weights if "/" not in name and not _named(name, ".gguf")]
    if not weights:
        return [Problem("missing_essential", "", "There are no weights in safetensors or GGUF among the files.")]
    if not _ROOT_CONFIGS.isdisjoint(names):
        return []
    if any(name.split("/")[0].lower() in _DIFFUSERS for name in files if "/" in name):
        wanted = "model_index.json"
    elif len(in_root) > 1 or any(name.endswith(_INDEX) for name in names):
        wanted = "config.json"
    else:
        return []
    return [Problem("missing_essential", wanted, f"{wanted} is missing; without it nobody knows how to load the rest.")]


def _json(path: Path) -> dict[str, Any]:
    """Raises ValueError for anything but a JSON object of a sane size."""
    with open_plain(path) as (file, size):
        if size > MAX_JSON:
            raise ValueError("it is too long")
        raw = read_exactly(file, size)
    try:
        found = json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it cannot be read") from None
    if not isinstance(found, dict):
        raise ValueError("it is something else")
    return found


def _named(name: str, *endings: str) -> bool:
    return name.lower().endswith(endings)
