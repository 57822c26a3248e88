"""How much memory a model needs to run, and whether a device has it: pure arithmetic on what files and devices say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any, NamedTuple

from shared.states import Holder, Output, output_of

MIB, MB, GB = 1024**2, 10**6, 10**9
CACHE_NUMBER_BYTES = 2
"""Keys and values are kept in 16 bits by llama.cpp, and by torch for weights of 16 bits; else as wide as those are."""
BATCH_TOKENS = 512
"""Tokens that llama.cpp works on at once (`n_ubatch`); it keeps the logits of all of them."""
LOGIT_BYTES = 4
IMAGE_SIZE = 1024
"""Pixels of the side of an image, where a pipeline does not say what it was made for."""
IMAGE_NUMBERS = 4 * 256
"""Numbers for every pixel while an image is decoded, which is when a pipeline takes most: a handful of layers at the
full size, of 256 channels in all common families. Larger images than its own are decoded in tiles of that size."""
FRAME_NUMBERS = 64
"""Numbers for every pixel of every frame while a video is made: all of its frames are, together, and twice, with what
it is to show and without; they are decoded one after the other, as images are."""
SPEECH_PIECE, SPEECH_SECONDS, SPEECH_LAYERS = 200, 15, 20
"""Characters that are spoken at once, how long that takes, and how many layers as wide as the last it has; measured."""

OLLAMA, DIFFUSERS = "ollama", "diffusers"
REPACKED = ("Q4_0", "Q4_K", "IQ4_NL")
"""Numbers that llama.cpp has a second time on a CPU, in the order in which that computes fastest with them."""
_RUNTIMES = {"gguf": "llamacpp", "transformers": "torch", "diffusers": DIFFUSERS}
"""By the format of a model's files, where Ollama does not hold them."""
CACHE_FIRST = frozenset({"llamacpp", OLLAMA})
"""Runtimes that set the whole cache aside when they load a model; that of the others grows with use."""
WIDE = {"F32": 4, "F64": 8}
"""Bytes of numbers of more than 16 bits."""
SOUND_MAKERS = ("VitsModel", "MusicgenForConditionalGeneration")
"""Architectures of transformers that speak or play."""
VIDEO_MAKERS = ("AnimateDiffPipeline",)
"""Pipelines of diffusers that make videos of texts here."""
VIDEO_FRAMES = 16
"""Of a video, where nothing else is asked for."""
_RUNNABLE = {
    Output.TEXT: "Runnable are transformers folders of safetensors that generate text, and GGUF files.",
    Output.VECTORS: "Runnable are transformers folders of safetensors, and GGUF files.",
    Output.SOUND: f"Runnable are transformers folders of safetensors: {', '.join(SOUND_MAKERS)}.",
    Output.VIDEO: f"Runnable are diffusers folders with their motion: {', '.join(VIDEO_MAKERS)}.",
    Output.IMAGES: "Runnable are diffusers folders: a model_index.json, and safetensors in the folders that it names.",
}


def size_text(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / MB:.1f} MB"


class Basis(StrEnum):
    """What a figure rests on, from the least to the most certain."""

    ESTIMATED = "estimated"
    CORRECTED = "corrected"
    MEASURED = "measured"


SPREAD = {Basis.ESTIMATED: 0.1, Basis.CORRECTED: 0.1, Basis.MEASURED: 0.05}
"""By how much a figure may be wrong, either way, as a part of it."""
RUNTIME_SPREAD = 0.3
"""And as a part of what a runtime takes on this machine, where nothing was measured: the same libraries take a fifth
more or less of it from one machine to the next."""
RUNTIME_BYTES = {
    ("torch", "cpu"): 370 * MIB,
    ("torch", "gpu"): 620 * MIB,
    (DIFFUSERS, "cpu"): 450 * MIB,
    (DIFFUSERS, "gpu"): 620 * MIB,
    ("llamacpp", "cpu"): 25 * MIB,
    ("llamacpp", "gpu"): 420 * MIB,
    (OLLAMA, "cpu"): 25 * MIB,  # what it runs models with comes from llama.cpp
    (OLLAMA, "gpu"): 420 * MIB,
}
"""What a runtime takes before it has a model: libraries on a CPU, the CUDA context and its kernels on a GPU. A first
guess, which the first measurement on a machine replaces."""


def runtime_of(facts: Mapping[str, Any], holder: str, model_type: str) -> str:
    """Which runtime makes of a model what its type is for; empty where none is known to.

    Args:
        facts: what its files say.
        holder: who holds them, see `shared.states.Holder`.
    """
    if holder == Holder.OLLAMA:
        return OLLAMA
    found = _RUNTIMES.get(facts.get("format", ""), "")
    if output_of(model_type) is Output.SOUND:
        return found if found == "torch" and facts.get("architecture") in (None, *SOUND_MAKERS) else ""
    if output_of(model_type) is Output.VIDEO:
        return found if found == DIFFUSERS and facts.get("architecture") in VIDEO_MAKERS else ""
    return found if (found == DIFFUSERS) is (output_of(model_type) is Output.IMAGES) else ""


def runnable(facts: Mapping[str, Any], model_type: str) -> str:
    """What to do about files that no runtime runs."""
    output, kind = output_of(model_type), facts.get("format")
    if kind == "safetensors":
        return f"These are bare weights, and nothing says what to make of them. {_RUNNABLE[output]}"
    if kind == "diffusers" and output not in (Output.IMAGES, Output.VIDEO):
        return "Of diffusers' pipelines those run that make images of texts, as models of the type `image_gen`."
    return _RUNNABLE[output]


PRECISIONS = ("bfloat16", "float16")
"""Of 16 bits a number."""


class Lowered(NamedTuple):
    """What a model is given less of than it could have, to need less of its device."""

    gpu_layers: int | None = None
    """So many of its layers on the GPU, and the others on the CPU; None: all."""
    on_cpu: bool = False
    """It runs on the CPU, though its device is a GPU."""
    precision: str | None = None
    """Of its numbers, one of `PRECISIONS`; None: as in its files."""

    def told(self) -> dict[str, Any]:
        """As JSON; empty where it is given all."""
        told = {"gpuLayers": self.gpu_layers, "device": "cpu" if self.on_cpu else None, "precision": self.precision}
        return {name: value for name, value in told.items() if value is not None}


WHOLE = Lowered()


class Setting(NamedTuple):
    """How a model is to run."""

    runtime: str
    device_kind: str
    context_length: int
    lowered: Lowered = WHOLE


class HostNeed(NamedTuple):
    """Bytes of the machine's memory that a model takes whose device is a GPU."""

    at_once: int
    """Where its weights are all read there before the GPU gets them, which is quickest and lets it sleep."""
    least: int
    """Where they go to the GPU piece by piece, and the page cache alone has them on their way."""


@dataclass(frozen=True)
class Need:
    """Bytes of a device's memory that a model takes."""

    weights: int
    cache: int
    """Keys and values of a full context; for images, what their making takes."""
    runtime: int
    """The runtime itself, and its buffers."""
    total: int
    """The sum of the three; or what was measured, or learned, in its place."""
    spread: int
    """How far off `total` may be, either way."""
    basis: Basis


@dataclass(frozen=True)
class Footprint:
    """What a model took once it was loaded, beside what `at_rest` said of it."""

    measured: int
    predicted: int


def need(
    facts: Mapping[str, Any],
    size: int,
    setting: Setting,
    own: Footprint | None = None,
    others: Sequence[Footprint] = (),
) -> Need:
    """What a model takes that runs like this.

    Args:
        facts: what its files say; see `workers/store/facts.py`.
        size: its bytes on disk, for where the files do not tell their tensors'.
        own: what it took when it ran just like this.
        others: what other models took with this runtime on such a device.
    """
    weights, cache, runtime = predicted(facts, size, setting)
    rest, basis = at_rest(facts, size, setting), Basis.ESTIMATED
    later = weights + cache + runtime - rest
    if setting.lowered.on_cpu:
        others = ()  # they took of the GPU
    if own is not None:
        rest, basis = own.measured, Basis.MEASURED
    elif others:
        # The median of what the formula missed: models of one runtime on one machine err alike, and mostly by what
        # the runtime takes for itself.
        missed = round(median(other.measured - other.predicted for other in others))
        rest, basis = max(weights, rest + missed), Basis.CORRECTED
    total = rest + later
    unknown = runtime * RUNTIME_SPREAD if basis is Basis.ESTIMATED else 0
    return Need(weights, cache, runtime, total, round(total * SPREAD[basis] + unknown), basis)


def at_rest(facts: Mapping[str, Any], size: int, setting: Setting) -> int:
    """What the formula says of a model that was just loaded."""
    weights, cache, runtime = predicted(facts, size, setting)
    return weights + runtime + (cache if setting.runtime in CACHE_FIRST else 0)


def predicted(facts: Mapping[str, Any], size: int, setting: Setting) -> tuple[int, int, int]:
    """Bytes that the weights, the cache and the runtime take of the device, as the formula has them.

    Of llama.cpp's layers each has its part of the weights and of the cache, wherever it is.
    """
    weights, cache, runtime = _altogether(facts, size, setting)
    if setting.device_kind != "gpu":
        return weights, cache, runtime
    if setting.lowered.on_cpu:
        return 0, 0, 0
    share = _share(facts, setting)
    return round(weights * share), round(cache * share), runtime


def host_need(facts: Mapping[str, Any], size: int, setting: Setting) -> HostNeed | None:
    """What it takes beside its GPU; None on a CPU, where there is but one memory, and for Ollama, which sees to it."""
    if setting.device_kind != "gpu" or setting.runtime not in _RUNTIMES.values():
        return None
    weights, cache, runtime = _altogether(facts, size, setting._replace(device_kind="cpu"))
    if setting.lowered.on_cpu:
        return HostNeed(weights + cache + runtime, weights + cache + runtime)
    if setting.runtime == "llamacpp":
        there = round((weights + cache) * (1 - _share(facts, setting))) + runtime
        return HostNeed(there, there)
    if setting.runtime == DIFFUSERS:
        weights, _, _ = _altogether(facts, size, setting)
        return HostNeed(weights + runtime, weights + runtime)
    return HostNeed(runtime if setting.lowered.precision else weights + runtime, runtime)


def _share(facts: Mapping[str, Any], setting: Setting) -> float:
    """Of a model that is on the GPU, 0 to 1."""
    layers, number = setting.lowered.gpu_layers, facts.get("layers")
    return 1.0 if layers is None else min(1.0, layers / number) if number else 1.0


def _altogether(facts: Mapping[str, Any], size: int, setting: Setting) -> tuple[int, int, int]:
    """Bytes of the weights, of the cache and of the runtime, wherever they are.

    The cache of a transformer: in every layer, for every token, one key and one value of each KV head. On a CPU images
    are made in 32 bits, whatever the weights are published in.
    """
    weights, numbers = facts.get("weightBytes") or size, facts.get("quantization", "")
    per_token = facts.get("layers", 0) * facts.get("kvHeads", 0) * (facts.get("keySize", 0) + facts.get("valueSize", 0))
    context = min(setting.context_length, facts.get("contextLength") or setting.context_length)
    runtime = RUNTIME_BYTES.get((setting.runtime, setting.device_kind), 0)
    if setting.runtime == DIFFUSERS:
        full = numbers == "F32" and not setting.lowered.precision
        number_bytes = 4 if setting.device_kind == "cpu" or full else 2
        weights = facts["parameterCount"] * number_bytes if "parameterCount" in facts else weights
        pixels = facts.get("imageSize", IMAGE_SIZE) ** 2
        moving = pixels * facts.get("frames", 0) * FRAME_NUMBERS
        return weights, max(pixels * IMAGE_NUMBERS, moving) * number_bytes, runtime
    if setting.lowered.precision and numbers in WIDE:
        weights = weights * 2 // WIDE[numbers]
    if setting.runtime in CACHE_FIRST:
        context = setting.context_length  # it sets the whole of it aside, whatever the model was made for
        runtime += BATCH_TOKENS * facts.get("vocabulary", 0) * LOGIT_BYTES
    if "soundNumbers" in facts:
        return weights, facts["soundNumbers"] * SPEECH_SECONDS * SPEECH_LAYERS * WIDE["F32"], runtime
    if setting.runtime == "llamacpp" and setting.device_kind == "cpu" and numbers.startswith(REPACKED):
        weights *= 2
    kept_as = numbers if setting.runtime == "torch" and not setting.lowered.precision else ""
    return weights, per_token * context * WIDE.get(kept_as, CACHE_NUMBER_BYTES), runtime


def longest_context(facts: Mapping[str, Any], size: int, setting: Setting, room: int) -> int:
    """The most tokens of context with which a model fits into `room` bytes, in whole steps of 256; 0 where none do.

    What makes images knows no context: all of it, or 0.
    """
    weights, cache, runtime = predicted(facts, size, setting)
    context = min(setting.context_length, facts.get("contextLength") or setting.context_length)
    if setting.runtime == DIFFUSERS or cache == 0 or context == 0:
        return setting.context_length if weights + cache + runtime <= room else 0
    fits = (room - weights - runtime) * context // cache
    return max(0, min(fits, setting.context_length) // 256 * 256)


def most_layers(facts: Mapping[str, Any], size: int, setting: Setting, room: int) -> int:
    """The most layers on the GPU with which a GGUF file fits into `room` bytes of it; 0 where none do, or all."""
    layers = facts.get("layers", 0)
    weights, cache, runtime = predicted(facts, size, setting)
    if setting.runtime != "llamacpp" or setting.device_kind != "gpu" or setting.lowered != WHOLE or not layers:
        return 0
    fits = (room - runtime) * layers // (weights + cache)
    return fits if 0 < fits < layers else 0
