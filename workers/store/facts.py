"""What a model's files say about themselves, for people to see and for lists to sort by: nothing here is a verdict."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

from pydantic.alias_generators import to_camel

from shared.states import ANIMATION, EMBEDDING, IMAGE_GEN, MUSIC, SPEECH, VIDEO_GEN
from workers import pipelines
from workers.headers import Content, GgufHeader, read_gguf, read_safetensors, sniff
from workers.headers.plain import Openable, open_plain, read_exactly

MAX_CONFIG = 16 * 1024**2
MAX_TEXT = 200
MOST_STEPS_UP = 16

_GGUF_TYPES = {
    **dict.fromkeys(("flux", "sd1", "sdxl", "sd3", "aura", "lumina2", "hidream", "qwen_image", "cosmos"), IMAGE_GEN),
    **dict.fromkeys(("wan", "ltxv", "hyvid"), VIDEO_GEN),
    **dict.fromkeys(("bert", "nomic-bert", "jina-bert-v2"), EMBEDDING),
}
"""By `general.architecture`; every other one is a language model's."""
_PIPELINE_TYPES = (
    *(("Animate", ANIMATION), ("Video", VIDEO_GEN), ("Wan", VIDEO_GEN), ("LTX", VIDEO_GEN)),
    *(("Music", MUSIC), ("Audio", MUSIC)),
)
"""By a word in a pipeline's class; every other one makes images."""
_CLASS_TYPES = (
    *(("VitsModel", SPEECH), ("MusicgenForConditionalGeneration", MUSIC)),
    *(("ForCausalLM", "llm"), ("LMHeadModel", "llm"), ("ForConditionalGeneration", "llm")),
)
_GGUF_POOLINGS = {1: "mean", 2: "cls", 3: "last"}
_POOLING_FILE = "1_Pooling/config.json"
_POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
}  # fmt: skip
"""As sentence-transformers writes it beside a model."""
_THINKS = re.compile(
    r"enable_thinking|reasoning_(?:content|effort)|</?(?:seed:)?think(?:ing)?>|\[THINK\]|<\|channel\|>analysis"
)
"""In the chat templates of models that think before they answer: of Qwen, DeepSeek, Mistral, Seed, gpt-oss."""
_TEMPLATE_FILE, _TOKENIZER_FILE = "chat_template.jinja", "tokenizer_config.json"
_LORA = re.compile(r"[._]lora_(?:A|B|up|down|embedding_[AB])(?:[._]|$)|\.lokr_|\.hada_")
"""In the names of tensors of adapters, as peft, diffusers and kohya's scripts write them."""
_BASES = ("ss_base_model_version", "modelspec.architecture")
"""Under which trainers note in a safetensors file what an adapter is for."""
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


class Facts(NamedTuple):
    """`name` as the files have it; `type` is a guess. Counts are None where the files do not tell."""

    format: str
    type: str
    name: str | None = None
    architecture: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    parameter_count: int | None = None
    base_model: str | None = None
    """The model that an adapter is for."""
    weight_bytes: int | None = None
    """Of all tensors, as they lie in the files."""
    layers: int | None = None
    kv_heads: int | None = None
    key_size: int | None = None
    """Numbers in one key of one head, as `value_size` of a value."""
    value_size: int | None = None
    vocabulary: int | None = None
    pooling: str | None = None
    """How one embedding is made of those of its tokens: `mean`, `cls` or `last`."""
    image_size: int | None = None
    """Pixels of the side of an image that a pipeline was made for."""
    frames: int | None = None
    """The most of them that its motion was made for, where it makes videos."""
    sound_numbers: int | None = None
    """Of the widest layer behind one second of speech."""
    thinking: bool | None = None
    """Its chat template knows of thoughts before an answer; None where it has none, or none was read."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what is not known."""
        found = {to_camel(name): value for name, value in self._asdict().items() if name != "type"}
        return {name: value for name, value in found.items() if value is not None}


def read_facts(files: Mapping[str, Openable]) -> Facts:
    """Read the headers and settings of a model whose files have been checked.

    Raises:
        Corrupt: code `invalid_format`; a header has changed since.
        OSError: the disk refuses.
    """
    gguf = [read_gguf(file) for name, file in sorted(files.items()) if sniff(file) is Content.GGUF]
    if gguf:
        return _of_gguf(gguf)
    if (index := _json(files.get("model_index.json"))) is not None:
        return _of_diffusers(index, files)
    common = _tensors(file for name, file in files.items() if name.lower().endswith(".safetensors"))
    if (adapter := _json(files.get("adapter_config.json"))) is not None:
        base, method = _text(adapter.get("base_model_name_or_path")), _text(adapter.get("peft_type"))
        return Facts("adapter", "adapter", architecture=method, base_model=base, **common)
    if (config := _json(files.get("config.json"))) is not None:
        common["thinking"] = _thinks(_template(files))
        pooled = _json(files.get(_POOLING_FILE)) or {}
        pooling = next((told for name, told in _POOLING_MODES.items() if pooled.get(name) is True), None)
        return _of_transformers(config, {**common, "pooling": pooling})
    if (kind := _lora(files)) is not None:
        return Facts("adapter", "adapter", architecture="LORA", base_model=kind or None, **common)
    return Facts("safetensors", "other", **common)


def _of_gguf(parts: list[GgufHeader]) -> Facts:
    first = parts[0]
    return Facts(
        format="gguf", type=_GGUF_TYPES.get(first.architecture or "", "llm"), name=_text(first.name),
        architecture=_text(first.architecture), quantization=first.quantization, context_length=first.context_length,
        parameter_count=sum(part.parameter_count for part in parts),
        weight_bytes=sum(tensor.nbytes for part in parts for tensor in part.tensors.values()),
        layers=first.block_count, kv_heads=first.kv_heads, key_size=first.key_size, value_size=first.value_size,
        vocabulary=next((part.vocabulary for part in parts if part.vocabulary), None),
        pooling=_GGUF_POOLINGS.get(first.pooling or 0), thinking=_thinks(first.chat_template),
    )  # fmt: skip


def _of_diffusers(index: dict[str, Any], files: Mapping[str, Openable]) -> Facts:
    """Of several editions of its weights, those count that are loaded."""
    kind = _text(index.get("_class_name")) or ""
    guess = next((type_ for word, type_ in _PIPELINE_TYPES if word in kind), IMAGE_GEN)
    loaded = pipelines.weights(files, pipelines.parts(index))

    def config(part: str) -> dict[str, Any] | None:
        return _json(files.get(f"{part}/config.json"))

    return Facts(
        "diffusers", guess, architecture=kind or None, **_tensors(files[name] for name in loaded),
        image_size=pipelines.image_size(config) if guess in (IMAGE_GEN, ANIMATION) else None,
        frames=pipelines.frames(config),
    )  # fmt: skip


def _of_transformers(config: dict[str, Any], common: dict[str, Any]) -> Facts:
    named = config.get("architectures")
    architecture = _text(named[0]) if isinstance(named, list) and named else None
    guess = next((type_ for ending, type_ in _CLASS_TYPES if (architecture or "").endswith(ending)), "other")
    guess = EMBEDDING if common["pooling"] is not None else guess
    quantized = config.get("quantization_config")
    method = _text(quantized.get("quant_method")) if isinstance(quantized, dict) else None
    if method:
        common = {**common, "quantization": method}
    return Facts("transformers", guess, architecture=architecture, **common, **_shape(config))


def _sound_numbers(config: dict[str, Any]) -> int | None:
    """Of one that speaks: each of its steps up has half as many numbers at a time, for more times."""
    rate, width, steps = (config.get(name) for name in ("sampling_rate", "upsample_initial_channel", "upsample_rates"))
    if type(rate) is int and type(width) is int and isinstance(steps, list) and len(steps) < MOST_STEPS_UP:
        return rate * max(1, width >> len(steps))
    return None


def _shape(config: dict[str, Any]) -> dict[str, Any]:
    """What decides how much a model keeps of each token, under the names that transformers' configurations use."""
    inner = config.get("text_config")
    places = [each for each in (config, inner) if isinstance(each, dict)]

    def told(*names: str) -> int | None:
        values = (place.get(name) for place in places for name in names)
        return next((value for value in values if type(value) is int and value > 0), None)

    heads, width = told("num_attention_heads", "n_head"), told("hidden_size", "n_embd", "d_model")
    size = told("head_dim") or (width // heads if width and heads else None)
    return {
        "context_length": told(*_LENGTHS), "layers": told("num_hidden_layers", "n_layer", "num_layers"),
        "kv_heads": told("num_key_value_heads") or (1 if config.get("multi_query") is True else heads),
        "key_size": size, "value_size": size, "vocabulary": told("vocab_size"),
        "sound_numbers": _sound_numbers(config),
    }  # fmt: skip


def _template(files: Mapping[str, Openable]) -> str | None:
    """The chat template of a transformers folder: a file of its own, or part of the tokenizer's settings."""
    if (file := files.get(_TEMPLATE_FILE)) is not None:
        with open_plain(file) as (opened, size):
            return read_exactly(opened, min(size, MAX_CONFIG)).decode(errors="replace")
    told = (_json(files.get(_TOKENIZER_FILE)) or {}).get("chat_template")
    if isinstance(told, list):  # several, each with its name
        told = "\n".join(str(each.get("template", "")) for each in told if isinstance(each, dict))
    return told if isinstance(told, str) else None


def _thinks(template: str | None) -> bool | None:
    return None if template is None else _THINKS.search(template) is not None


def _lora(files: Mapping[str, Openable]) -> str | None:
    """What the one safetensors file of an adapter says that it is for, empty where it does not; None: it is none."""
    only = [file for name, file in files.items() if name.lower().endswith(".safetensors")]
    if len(only) != 1:
        return None
    header = read_safetensors(only[0])
    if not any(map(_LORA.search, header.tensors)):
        return None
    return next((told for name in _BASES if (told := _text(header.metadata.get(name)))), "")


def _tensors(files: Iterable[Openable]) -> dict[str, Any]:
    """The number type that takes most bytes, the bytes of all, and how many numbers there are."""
    dtypes: Counter[str] = Counter()
    count = 0
    for file in files:
        for tensor in read_safetensors(file).tensors.values():
            dtypes[tensor.dtype] += tensor.nbytes
            count += prod(tensor.shape)
    most = dtypes.most_common(1)[0][0] if dtypes else None
    return {"quantization": most, "parameter_count": count or None, "weight_bytes": dtypes.total() or None}


def _json(file: Openable | None) -> dict[str, Any] | None:
    if file is None:
        return None
    with open_plain(file) as (opened, size):
        raw = read_exactly(opened, min(size, MAX_CONFIG))
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(value: object) -> str | None:
    """Text from a file, if it can be shown."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_TEXT else None
