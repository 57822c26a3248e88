"""Makes small, real models on the spot: random weights in formats that transformers and llama.cpp load and run.

What they say is nonsense; their files, sizes, tokenizers, chat templates and speeds are like those of any model.
"""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SHARD_BYTES = 1_000_000_000
CHUNK_VALUES = 2 * 1024 * 1024
VALUE_BYTES = 4
LAYERS = 2
CONTEXT_LENGTH = 2048
HEAD_SIZE = 64
BLOCK = 256
"""Rows of quantised numbers are made of blocks that this is a multiple of."""
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|begin|>' + message['role'] + ': ' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant:' }}{% endif %}"
)
SYLLABLES = "ba be bo da de do fa fe ga go ka ke ki la le li lo ma me mi mo na ne no pa po ra re ri ro sa se ta te to"
SENTENCES = (
    "The yard keeps every model where it can be found.",
    "Hello! How are you today? I am well, thank you.",
    "A model is loaded, asked, and put back on its shelf.",
)


def make_transformers_llm(folder: Path, seed: int, weight_bytes: int, name: str) -> None:
    """Write a Llama in transformers' layout, its weights within a few percent of `weight_bytes`.

    They are float32: CPUs without bfloat16 arithmetic run it several times faster.

    Args:
        folder: made if it is missing.
        seed: the same seed gives the same files, another one other weights of the same shapes.
        weight_bytes: at least some 800,000; over 1 GB the weights are split into shards with an index.
        name: goes into `config.json`, for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(weight_bytes, name, VALUE_BYTES)
    write_tokenizer(folder)
    _write_json(folder / "config.json", config)
    ids = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "pad_token_id": 2}
    _write_json(folder / "generation_config.json", ids)
    shards = _shards(_shapes(config))
    numbers = np.random.default_rng(seed)
    for number, shard in enumerate(shards, 1):
        _write_safetensors(folder / _shard_name(number, len(shards)), shard, numbers)
    if len(shards) > 1:
        places = {
            tensor: _shard_name(number, len(shards)) for number, shard in enumerate(shards, 1) for tensor in shard
        }
        total = sum(VALUE_BYTES * _count(shape) for shard in shards for shape in shard.values())
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def make_gguf_llm(
    path: Path, seed: int, weight_bytes: int = 1_000_000, name: str = "tiny", numbers_as: str = "F16"
) -> None:
    """Write a Llama as one GGUF file, with the same tokenizer and chat template.

    Args:
        path: the file; its folder is made if it is missing.
        seed: as for `make_transformers_llm`.
        weight_bytes: at least some 800,000, as they are in float16; all of it passes through memory.
        name: goes into the file's metadata.
        numbers_as: how llama.cpp calls the type of the numbers, such as `Q8_0`.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

    kind, quantised = GGMLQuantizationType[numbers_as], numbers_as != "F16"

    path.parent.mkdir(parents=True, exist_ok=True)
    config = _config(weight_bytes, name, value_bytes=2, step=BLOCK if quantised else 8)
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_vocab_size(config["vocab_size"])
    if quantised:
        writer.add_file_type(LlamaFileType[f"MOSTLY_{numbers_as}"])
    _add_tokenizer(writer)
    numbers = np.random.default_rng(seed)
    for tensor, shape in _shapes(config).items():
        norm = "norm" in tensor
        if norm:
            writer.add_tensor(_gguf_name(tensor), np.ones(shape, np.float32))
        else:
            values = quants.quantize(numbers.normal(0, 0.02, shape).astype(np.float32), kind)
            writer.add_tensor(_gguf_name(tensor), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(weight_bytes: int, name: str, value_bytes: int, step: int = 8) -> dict[str, Any]:
    """Two layers as wide as the size asks: few large products run faster than many small ones."""
    vocabulary = _tokenizer().get_vocab_size()
    parameters = weight_bytes // value_bytes
    fixed = {size: 2 * vocabulary * size + LAYERS * 4 * size**2 for size in (64, 128, 256, 512, 1024, 2048)}
    hidden = max((size for size, count in fixed.items() if count < parameters / 2), default=64)
    rest = parameters - fixed[hidden]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "_name_or_path": name,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": max(64, rest // (LAYERS * 3 * hidden) // step * step),
        "num_hidden_layers": LAYERS,
        "num_attention_heads": hidden // HEAD_SIZE,
        "num_key_value_heads": hidden // HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "dtype": "float32",
    }


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama with its shape, in transformers' names."""
    hidden, wide, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.self_attn.{one}_proj.weight": (hidden, hidden) for one in "qkvo"}
        shapes |= {f"{block}.mlp.{one}_proj.weight": (wide, hidden) for one in ("gate", "up")}
        shapes[f"{block}.mlp.down_proj.weight"] = (hidden, wide)
        shapes |= {f"{block}.{one}_layernorm.weight": (hidden,) for one in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def _gguf_name(tensor: str) -> str:
    for ours, theirs in GGUF_NAMES:
        tensor = tensor.replace(ours, theirs)
    return tensor


GGUF_NAMES = (
    ("model.embed_tokens", "token_embd"),
    ("lm_head", "output"),
    ("model.norm", "output_norm"),
    ("model.layers", "blk"),
    *((f"self_attn.{one}_proj", f"attn_{one}") for one in "qkv"),
    ("self_attn.o_proj", "attn_output"),
    *((f"mlp.{one}_proj", f"ffn_{one}") for one in ("gate", "up", "down")),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
)


def _shards(shapes: dict[str, tuple[int, ...]]) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for tensor, shape in shapes.items():
        if shards[-1] and size + VALUE_BYTES * _count(shape) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][tensor] = shape
        size += VALUE_BYTES * _count(shape)
    return shards


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _write_safetensors(file: Path, shapes: dict[str, tuple[int, ...]], numbers: np.random.Generator) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, shape in shapes.items():
        start, end = end, end + VALUE_BYTES * _count(shape)
        header[tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor, shape in shapes.items():
            for chunk in _float32(_count(shape), numbers, ones="norm" in tensor):
                stream.write(chunk)


def _float32(count: int, numbers: np.random.Generator, ones: bool) -> Iterator[bytes]:
    """Random weights of either sign with sizes from 2⁻⁷ to 2⁻⁵, made from raw bits: as fast as a disk writes them."""
    for start in range(0, count, CHUNK_VALUES):
        size = min(CHUNK_VALUES, count - start)
        if ones:
            yield np.ones(size, np.float32).tobytes()
            continue
        bits = np.frombuffer(numbers.bytes(VALUE_BYTES * size), np.uint32)
        yield ((bits & 0x80FFFFFF) | 0x3C000000).tobytes()


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


@cache
def _tokenizer() -> Any:
    """Byte-level BPE, trained on words made of syllables: every text can be encoded, and every token is readable."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    words = random.Random(0)
    texts = ["".join(words.choices(SYLLABLES.split(), k=words.randint(1, 4))) for _ in range(3200)]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES * 4, " ".join(texts)], trainer)
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    _tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT_LENGTH,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
            **special,
        },
    )


def _add_tokenizer(writer: Any) -> None:
    from gguf import TokenType

    model = json.loads(_tokenizer().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if one in {BEGIN, END, PAD} else TokenType.NORMAL for one in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
