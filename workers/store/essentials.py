"""What makes a model folder complete; what is safe to load is for `gate.py` to say."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import Corrupt, Invalid, ModelyardError, Unsafe
from shared.trust import NO_GRANTS, Trust
from workers.disk import storage
from workers.formats import TORCH
from workers.headers import GgufHeader
from workers.headers.plain import Openable, open_plain, read_exactly
from workers.store import gate
from workers.store.layout import PARTIAL, Layout

MAX_INDEX = 25 * 1024**2
MAX_CONFIG = 16 * 1024**2
_MAX_MARKS = {b"{": 100_000, b"[": 100_000, b",": 1_000_000}
"""No genuine settings or index have more; counted before parsing, so that memory is bounded too."""
MAX_NAMED = 20

_INDEX = ".safetensors.index.json"
_TORCH_INDEX = ".bin.index.json"
"""Repositories keep it beside the safetensors; it matters only where the pickles were wanted too."""
_CONFIGS = frozenset(
    (
        *("config.json", "model_index.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"),
        *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
        *("scheduler_config.json", "image_processor_config.json", "feature_extractor_config.json"),
    )
)
_ROOT_CONFIGS = frozenset({"config.json", "model_index.json", "adapter_config.json"})
_DIFFUSERS = frozenset({"unet", "transformer", "vae", "scheduler", "text_encoder_2"})
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
NO_TRUST = NO_GRANTS.of("")


@dataclass(frozen=True)
class Problem:
    """One reason why a folder is no model that we would load. `name` is the file, empty for the folder itself."""

    code: str
    name: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    hint: str = ""

    def error(self) -> ModelyardError:
        """The problem as an error to raise."""
        hint = self.hint or _HINTS[self.code]
        details = {"name": self.name, **self.details}
        if self.code in _UNSAFE:
            return Unsafe(self.code, self.message, hint, details)
        if self.code == "source_invalid_filename":
            return Invalid(self.code, self.message, hint, details)
        return Corrupt(self.code, self.message, hint, details)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"code": self.code, "name": self.name, "message": self.message, **self.details}


def check_essentials(folder: Path, names: Iterable[str], trust: Trust = NO_TRUST) -> list[Problem]:
    """Everything that keeps these files from being a model; an empty list is good news.

    Args:
        folder: where the files are; in staging they are found under their partial names too.
        names: the files' names in the model.
        trust: what a person allowed of this revision.

    Raises:
        Invalid: code `source_invalid_filename`, for one of `names`.
        Exhausted, Failed: the disk refuses.
    """
    return check_files({name: _place(folder, name) for name in names}, trust)


def check_files(files: Mapping[str, Openable], trust: Trust = NO_TRUST) -> list[Problem]:
    """The same, of files that lie anywhere.

    Raises:
        Exhausted, Failed: the disk refuses.
    """
    judged = _judge(files, trust)
    return [
        *judged.problems, *(_refusal(name, why, files, trust) for name, why in judged.refused.items()),
        *_parts(judged.weights), *_missing(files, judged.weights),
    ]  # fmt: skip


def check_loadable(files: Mapping[str, Openable], trust: Trust) -> None:
    """The last look before a runner is started; what no runner opens is let pass.

    Raises:
        Unsafe: it would run code that it brings along, and nobody allowed that.
        Corrupt: a header is wrong, a part is missing.
        Invalid: an index leads out of the folder.
        Exhausted, Failed: the disk refuses.
    """
    judged = _judge(files, trust)
    refused = gate.without_idle(judged.refused, judged.weights)
    problems = [*judged.problems, *(_refusal(name, why, files, trust) for name, why in refused.items())]
    for problem in [*problems, *_parts(judged.weights)]:
        raise problem.error()


def files_of(place: Path) -> dict[str, Path]:
    """What a model consists of, by name: a folder's files, links followed, or the file itself.

    Raises:
        Exhausted, Failed: the disk refuses.
    """
    with storage():
        if not place.is_dir():
            return {place.name: place.resolve()}
        found = (Path(parent) / name for parent, _, names in os.walk(place) for name in names)
        return {path.relative_to(place).as_posix(): path.resolve() for path in found if path.is_file()}


@dataclass
class _Judged:
    weights: dict[str, GgufHeader | None] = field(default_factory=dict)
    refused: dict[str, gate.Refused] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def _judge(files: Mapping[str, Openable], trust: Trust) -> _Judged:
    """Each file by itself."""
    judged = _Judged()
    with storage():
        for name in sorted(files):
            try:
                holds, header = gate.examine(name, files[name], trust)
            except Corrupt as error:
                judged.problems.append(Problem(error.code, name, f"{name}: {error.message}"))
                holds, header = name.lower().endswith(gate.WEIGHT_NAMES), None
            except gate.Refused as error:
                judged.refused[name] = error
                continue
            if holds:
                judged.weights[name] = header
            judged.problems += _config_problems(name, files, trust)
            if name.lower().endswith(_INDEX) or (trust.pickle and name.lower().endswith(_TORCH_INDEX)):
                judged.problems += _index_problems(name, files)
    return judged


def _refusal(name: str, why: gate.Refused, files: Iterable[str], trust: Trust) -> Problem:
    """What the gate says, with the way round it that there is."""
    twin = gate.twin_of(name, files) if why.code == "unsafe_format" else None
    hint = f"{twin} holds the same in a safe format: use that one." if twin else _way(name, why.code, trust)
    return Problem(why.code, name, f"{name}: {why}", {"twin": twin} if twin else {}, hint)


def _way(name: str, code: str, trust: Trust) -> str:
    if not trust.model_id:
        return ""
    if code == "remote_code_required":
        return f"{_HINTS[code]} {trust.way(remote_code=True)}"
    if code == "unsafe_format" and PurePosixPath(name.lower()).suffix in TORCH:
        return f"{_HINTS[code]} {trust.way(pickle=True)}"
    return ""


def _place(folder: Path, name: str) -> Path:
    path = Layout.inside(folder, name)
    partial = path.with_name(path.name + PARTIAL)
    return partial if partial.exists() and not path.exists() else path


def _config_problems(name: str, files: Mapping[str, Openable], trust: Trust) -> list[Problem]:
    if not gate.is_real_config(name):
        return []
    known = PurePosixPath(name).name.lower() in _CONFIGS
    try:
        config = _json(files[name], MAX_CONFIG)
    except ValueError as error:  # what no library knows may be any JSON
        fault = f"{name} is not the JSON object that it should be: {error}."
        return [Problem("invalid_format", name, fault)] if known else []
    keys = gate.remote_keys(config)
    if not keys or trust.remote_code:
        return _components(config, files) if name == "model_index.json" else []
    message = f"{name} asks for code that comes with the model ({', '.join(keys[:MAX_NAMED])}); it is never run."
    hint = _way(name, "remote_code_required", trust)
    return [Problem("remote_code_required", name, message, {"keys": keys[:MAX_NAMED]}, hint)]


def _components(index: Mapping[str, Any], files: Iterable[str]) -> list[Problem]:
    """Every part that a diffusers pipeline names, `[library, class]`, needs its folder."""
    folders = {name.split("/")[0] for name in files if "/" in name}
    wanted = [key for key, value in index.items() if isinstance(value, list) and value[:1] not in ([], [None])]
    missing = [key for key in wanted if not key.startswith("_") and all(isinstance(v, str) for v in index[key])]
    return [
        Problem("missing_essential", part, f"The pipeline's part {part!r} is missing.")
        for part in sorted(set(missing) - folders)
    ]


def _index_problems(name: str, files: Mapping[str, Openable]) -> list[Problem]:
    """Every shard that a weight index names must be there."""
    try:
        shards = _json(files[name], MAX_INDEX).get("weight_map")
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


def _missing(files: Iterable[str], weights: Mapping[str, GgufHeader | None]) -> list[Problem]:
    """What the folder as a whole lacks."""
    names = {name.lower() for name in files}
    in_root = [name for name in weights if "/" not in name and not name.lower().endswith(".gguf")]
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


def _json(file: Openable, most: int) -> dict[str, Any]:
    """Raises ValueError for anything but a JSON object of a sane size."""
    with open_plain(file) as (opened, size):
        if size > most:
            raise ValueError("it is too long")
        raw = read_exactly(opened, size)
    if any(raw.count(mark) > limit for mark, limit in _MAX_MARKS.items()):
        raise ValueError("it has too many parts")
    try:
        found = json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it cannot be read") from None
    if not isinstance(found, dict):
        raise ValueError("it is something else")
    return found
