"""Whether a model can run on a device, and what would have to change: pure, from figures that others have gathered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import ByteSize, TypeAdapter, ValidationError

from shared import fit
from shared.db.bases import Fit
from shared.fit import size_text

BITS = {"F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.56, "Q5_K_M": 5.69, "Q4_K_M": 4.85, "Q3_K_M": 3.91}
"""Bits a weight that llama.cpp's common quantizations take, as its `quantize` example lists them."""
_BYTES = TypeAdapter(ByteSize)


class Level(StrEnum):
    """From good to bad."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"


@dataclass(frozen=True)
class Issue:
    """Something that keeps a model from running as well as it could, and what to do about it."""

    code: str
    level: Level
    message: str
    recommendation: str


@dataclass(frozen=True)
class Place:
    """A device as it was last reported. Bytes; None where it does not tell."""

    kind: str
    memory_total: int
    memory_free: int | None
    runtimes: Mapping[str, Mapping[str, str]]
    """By name: its `version`, or what is `missing` and the `hint`."""
    fault: str | None = None
    limited: bool = False
    """MODELYARD_RUNNERS__MEMORY_LIMIT, and not the device, is what `memory_total` tells."""


@dataclass(frozen=True)
class Wanted:
    """A model as far as it is known, and how it is to run."""

    facts: Mapping[str, Any]
    size: int
    setting: fit.Setting
    need: fit.Need
    requirements: Mapping[str, Any] = field(default_factory=dict)
    """What the registry says: gpu_memory, disk, torch, modes, max_resolution; what it does not say is not asked."""
    bytes_to_fetch: int = 0
    mode: str | None = None
    resolution: tuple[int, int] | None = None
    model_type: str = "llm"


def variants(runtime: str) -> dict[str, float]:
    """Bits a weight of the variants that people publish for a runtime."""
    return {"F16": BITS["F16"]} if runtime == fit.DIFFUSERS else BITS


def level(issues: Sequence[Issue]) -> Level:
    """The worst of them."""
    levels = [issue.level for issue in issues]
    return Level.NONE if Level.NONE in levels else Level.PARTIAL if levels else Level.FULL


def judge(wanted: Wanted, place: Place, disk_free: int | None) -> list[Issue]:
    """Everything that stands in the way on that device, the worst first."""
    found = [
        *_health(place), *_runtime(wanted, place), *_memory(wanted, place), *_declared(wanted, place),
        *_disk(wanted, disk_free), *_generation(wanted),
    ]  # fmt: skip
    return sorted(found, key=lambda issue: issue.level is not Level.NONE)


def of_base(model_id: str, base: Fit | None) -> list[Issue]:
    """What stands between an adapter and the model that it is for; None of a model that is no adapter."""
    change = f"PUT /api/v1/models/{model_id}/base with the model that it was made for."
    if base is None or base.matches:
        return []
    if base.matches is False:
        return [Issue("base_mismatch", Level.NONE, base.why, change)]
    return [Issue("base_unknown", Level.PARTIAL, base.why, change)]


def size_of(text: object) -> int | None:
    """Bytes of a size as people write it (`8GB`); None where it is none."""
    try:
        return int(_BYTES.validate_python(text))
    except ValidationError:
        return None


def _health(place: Place) -> list[Issue]:
    if place.fault is None:
        return []
    return [Issue("device_unhealthy", Level.NONE, place.fault, "Mend the device, or choose another one.")]


def _runtime(wanted: Wanted, place: Place) -> list[Issue]:
    name, runnable = wanted.setting.runtime, fit.runnable(wanted.facts, wanted.model_type)
    if not name:
        if not wanted.facts:
            advice = f"Pull it: its files tell. {runnable}"
            return [Issue("format_unknown", Level.PARTIAL, "Whether a runtime runs it is not known yet.", advice)]
        kind = wanted.facts.get("format", "unknown")
        message = f"No runtime here runs models of the format {kind!r} as {wanted.model_type!r}."
        return [Issue("no_runtime", Level.NONE, message, runnable)]
    told = place.runtimes.get(name, {})
    if "missing" in told:
        return [Issue("runtime_missing", Level.NONE, told["missing"], told.get("hint", ""))]
    return []


def _memory(wanted: Wanted, place: Place) -> list[Issue]:
    if not wanted.size:
        advice = "Pull it: its files tell."
        return [Issue("size_unknown", Level.PARTIAL, "Nobody knows yet how large it is.", advice)]
    need, takes = wanted.need, f"It needs {size_text(wanted.need.total)} ± {size_text(wanted.need.spread)}"
    if need.total <= place.memory_total:
        if place.memory_free is None or need.total <= place.memory_free:
            return []
        message = f"{takes}, and {size_text(place.memory_free)} of {size_text(place.memory_total)} are free now."
        return [
            Issue("memory_in_use", Level.PARTIAL, message, "Unload another model first: modelyard devices shows them.")
        ]
    has = "models may take" if place.limited else "the device has"
    message = f"{takes}, and {has} {size_text(place.memory_total)}."
    context = fit.longest_context(wanted.facts, wanted.size, wanted.setting, place.memory_total)
    if 0 < context < wanted.setting.context_length:
        advice = f"A context of {context:,} tokens fits: MODELYARD_RUNNERS__CONTEXT_LENGTH={context}."
        return [Issue("context_too_long", Level.PARTIAL, message, advice)]
    return [Issue("memory_too_small", Level.NONE, message, _fewer_bits(wanted, place))]


def _fewer_bits(wanted: Wanted, place: Place) -> str:
    parameters = wanted.facts.get("parameterCount")
    room = place.memory_total - wanted.need.runtime
    for name, bits in variants(wanted.setting.runtime).items():
        if parameters and parameters * bits / 8 <= room:
            return f"A variant in {name} takes about {size_text(parameters * bits / 8)}, and may fit."
    if place.limited:
        return "Raise MODELYARD_RUNNERS__MEMORY_LIMIT, or choose a smaller model."
    return "Choose a smaller model, or a larger device."


def _declared(wanted: Wanted, place: Place) -> list[Issue]:
    found = []
    asked = size_of(wanted.requirements.get("gpu_memory"))
    if asked is not None and place.kind == "cpu":
        advice = "Where a CPU runs it at all, it is many times slower; better is a device with a GPU."
        found.append(Issue("no_gpu", Level.PARTIAL, f"It is meant for a GPU of {size_text(asked)}.", advice))
    elif asked is not None and place.memory_total < asked:
        message = (
            f"Its publisher asks for {size_text(asked)} of GPU memory; this one has {size_text(place.memory_total)}."
        )
        found.append(Issue("gpu_memory", Level.PARTIAL, message, "Use a quantized variant, or a larger GPU."))
    wish, there = wanted.requirements.get("torch"), place.runtimes.get("torch", {}).get("version")
    if isinstance(wish, str) and there is not None and not _satisfies(there, wish):
        advice = f"pip install 'torch{wish}'"
        found.append(Issue("torch_version", Level.NONE, f"It needs torch {wish}, and torch {there} is here.", advice))
    return found


def _satisfies(version: str, wish: str) -> bool:
    try:
        return Version(version) in SpecifierSet(wish, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True  # what cannot be read is no reason to refuse


def _disk(wanted: Wanted, free: int | None) -> list[Issue]:
    if free is None or wanted.bytes_to_fetch <= free:
        return []
    message = f"Its files take {size_text(wanted.bytes_to_fetch)}, and the store has {size_text(free)} left."
    return [Issue("disk_too_small", Level.NONE, message, "Make room: modelyard storage shows what takes it.")]


def _generation(wanted: Wanted) -> list[Issue]:
    found = []
    modes = wanted.requirements.get("modes")
    if wanted.mode is not None and isinstance(modes, list) and wanted.mode not in modes:
        message = f"It does not know the mode {wanted.mode!r}."
        found.append(Issue("mode_unsupported", Level.NONE, message, f"It knows {', '.join(map(str, modes))}."))
    own = wanted.facts.get("imageSize")
    largest = _pixels(wanted.requirements.get("max_resolution")) or ((own, own) if own else None)
    if wanted.resolution is not None and largest is not None:
        width, height = wanted.resolution
        if width * height > largest[0] * largest[1]:
            message = f"It was made for images of {largest[0]}x{largest[1]}."
            found.append(Issue("resolution", Level.PARTIAL, message, "Ask for less, and enlarge the picture."))
    return found


def _pixels(text: object) -> tuple[int, int] | None:
    width, _, height = str(text).partition("x")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None
