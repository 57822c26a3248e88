"""Model files made by hand: whole ones, and every way we know of being wrong. No library writes these."""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Tensors = dict[str, tuple[str, list[int], list[int]]]


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with that header (an object, or raw bytes), and that length of it claimed."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def good_safetensors() -> bytes:
    """Two tensors, 24 bytes of data."""
    header = {"a": tensor(), "b": tensor("BF16", [4], [16, 24]), "__metadata__": {"format": "pt"}}
    return safetensors(header, bytes(range(24)))


def bad_safetensors() -> Iterator[tuple[str, bytes]]:
    """What the format forbids, each with its name."""
    whole = good_safetensors()
    yield "empty", b""
    yield "7 bytes", whole[:7]
    yield "length only", whole[:8]
    yield "header longer than the file", safetensors(b"{}", length=1000)
    yield "header of 2^63 bytes", safetensors(b"{}", length=2**63)
    yield "header over 100 MB", safetensors(b"{}", length=100_000_001)
    yield "header of 0 bytes", safetensors(b"")
    yield "not JSON", safetensors(b"{nonsense")
    yield "a list", safetensors([])
    yield "leading space", safetensors(b" {}")
    yield "not UTF-8", safetensors(b'{"\xff\xfe": 1}')
    yield "NaN", safetensors(b'{"a": NaN}')
    yield "trailing data", whole + b"\0"
    yield "short data", whole[:-1]
    yield "data without tensors", safetensors({}, b"\0")
    yield "overlap", safetensors({"a": tensor(), "b": tensor("F32", [2], [12, 20])}, bytes(20))
    yield "hole", safetensors({"a": tensor(), "b": tensor("F32", [1], [20, 24])}, bytes(24))
    yield "the same place twice", safetensors({"a": tensor(), "b": tensor()}, bytes(16))
    yield "name twice", safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(tensor()).encode(),) * 2), bytes(16))
    yield "nested too deeply", safetensors(b'{"a":' * 20_000 + b"1" + b"}" * 20_000)
    yield "a list nested too deeply", safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    yield "huge number", safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,16]}}')
    yield "metadata of numbers", safetensors({"__metadata__": {"a": 1}})
    yield "metadata a list", safetensors({"__metadata__": []})
    yield "too many tensors", safetensors({f"t{i}": tensor("U8", [0], [0, 0]) for i in range(200_001)})
    for name, info in _bad_tensors():
        yield name, safetensors({"a": info}, bytes(16))


def _bad_tensors() -> Iterator[tuple[str, Any]]:
    yield "unknown dtype", tensor("F33")
    yield "dtype a list", tensor(["F32"])
    yield "no dtype", {"shape": [4], "data_offsets": [0, 16]}
    yield "tensor null", None
    yield "tensor a list", [1, 2]
    yield "shape does not fit", tensor("F32", [3])
    yield "shape overflows", tensor("F32", [2**32, 2**32, 2**32])
    yield "shape overflows back to what fits", tensor("F32", [2**62, 4, 2**60])
    yield "negative shape", tensor("F32", [-2, -2])
    yield "shape a text", tensor("F32", "22")
    yield "shape of truths", tensor("F32", [True, 4])
    yield "shape of fractions", tensor("F32", [2.0, 2.0])
    yield "ends before it begins", tensor("F32", [4], [16, 0])
    yield "negative place", tensor("F32", [4], [-16, 0])
    yield "three offsets", tensor("F32", [4], [0, 8, 16])
    yield "place beyond the end", tensor("F32", [8], [0, 32])
    yield "half a byte", tensor("F4", [31], [0, 16])


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def info(name: str | bytes, shape: tuple[int, ...] = (4, 2), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *(size % 2**64 for size in shape))
    return text(name) + u32(len(shape)) + sizes + struct.pack("<IQ", kind, offset)


@dataclass
class Gguf:
    """A GGUF file in its parts; the defaults make a whole one."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: list[bytes] = field(
        default_factory=lambda: [
            key("general.architecture", 8, text("llama")),
            key("general.name", 8, text("Tiny")),
            key("general.file_type", 4, u32(15)),
            key("tokenizer.ggml.tokens", 9, array(8, 3, text("<s>") + text("") + text("a" * 40))),
            key("tokenizer.ggml.scores", 9, array(6, 3, bytes(12))),
            key("llama.context_length", 4, u32(2048)),
            key("llama.block_count", 4, u32(2)),
        ]
    )
    tensors: list[bytes] = field(default_factory=lambda: [info("a"), info("b", (32,), 2, 32)])
    data: bytes = bytes(32 + 18)
    key_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32

    def to_bytes(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        keys = len(self.keys) if self.key_count is None else self.key_count
        counts = struct.pack("<QQ", tensors % 2**64, keys % 2**64)
        head = self.magic + u32(self.version) + counts + b"".join(self.keys) + b"".join(self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data


def bad_gguf() -> Iterator[tuple[str, bytes]]:
    """What llama.cpp's own tests refuse, and what it does not."""
    whole = Gguf().to_bytes()
    yield "empty", b""
    yield "magic only", b"GGUF"
    yield "cut in the header", whole[:100]
    yield "cut in the data", whole[:-1]
    yield "bad magic", Gguf(magic=b"GGML").to_bytes()
    for version in (0, 1, 4, 99, 3 << 24):
        yield f"version {version}", Gguf(version=version).to_bytes()
    for count in (2**63, -1, 100, 10**6):
        yield f"{count} tensors", Gguf(tensor_count=count).to_bytes()
        yield f"{count} keys", Gguf(key_count=count).to_bytes()
    for name, made in _bad_keys():
        yield name, Gguf(keys=made).to_bytes()
    for name, made in _bad_infos():
        yield name, Gguf(tensors=made).to_bytes()
    yield "no room for the alignment", Gguf(tensors=[info("a")], data=b"", alignment=1).to_bytes()


def _bad_keys() -> Iterator[tuple[str, list[bytes]]]:
    yield "key of -1 bytes", [struct.pack("<q", -1) + b"abc" + u32(4) + u32(1)]
    yield "key of 2^62 bytes", [struct.pack("<Q", 2**62) + b"abc" + u32(4) + u32(1)]
    yield "empty key", [key("", 4, u32(1))]
    yield "key of 70 kB", [key("k" * 70_000, 4, u32(1))]
    yield "key twice", [key("a", 4, u32(1)), key("a", 4, u32(1))]
    for kind in (13, 99, 2**32 - 1):
        yield f"type {kind}", [key("a", kind, u32(1))]
        yield f"array of type {kind}", [key("a", 9, array(kind, 1, u32(1)))]
    for kind in (0, 4, 8, 12):
        yield f"2^63 items of type {kind}", [key("a", 9, array(kind, 2**63))]
        yield f"2^61 items of type {kind}", [key("a", 9, array(kind, 2**61 + 1))]
    yield "nested array", [key("a", 9, array(9, 1, array(4, 1, u32(1))))]
    yield "text beyond the end", [key("a", 8, struct.pack("<Q", 10**6))]
    yield "text of 2^64-1 bytes", [key("a", 8, struct.pack("<Q", 2**64 - 1))]
    yield "a text in an array beyond the end", [key("a", 9, array(8, 2, text("x") + struct.pack("<Q", 2**63)))]
    yield "too many texts", [key("a", 9, array(8, 2_000_001, bytes(8 * 2_000_001)))]
    for alignment in (0, 13, 2**30, 2**32 - 1):
        yield f"alignment {alignment}", [key("general.alignment", 4, u32(alignment))]
    yield "alignment a text", [key("general.alignment", 8, text("32"))]
    yield "alignment of 64 bits", [key("general.alignment", 10, struct.pack("<Q", 32))]


def _bad_infos() -> Iterator[tuple[str, list[bytes]]]:
    yield "no dimension", [info("a", ())]
    yield "five dimensions", [info("a", (1, 1, 1, 1, 8))]
    yield "2^32-1 dimensions", [text("a") + u32(2**32 - 1) + bytes(64)]
    yield "a dimension of 0", [info("a", (0, 2))]
    yield "a negative dimension", [info("a", (-4, 2))]
    yield "dimensions that overflow", [info("a", (2**32, 2**32))]
    yield "dimensions that overflow back", [info("a", (2**33, 2**31, 8))]
    yield "tensor twice", [info("a", offset=0), info("a", offset=32)]
    yield "empty name", [info("")]
    yield "name of 65 bytes", [info("n" * 65)]
    yield "name of 2^63 bytes", [struct.pack("<Q", 2**63) + bytes(64)]
    for kind in (4, 5, 31, 36, 38, 42, 2**32 - 1):
        yield f"tensor of type {kind}", [info("a", (256,), kind)]
    yield "half a block", [info("a", (16,), 2)]
    yield "not aligned", [info("a", offset=1)]
    yield "beyond the end", [info("a", offset=64)]
    yield "reaches beyond the end", [info("a", (64,))]
    yield "offset that overflows", [info("a", offset=2**64 - 32)]
    yield "overlap", [info("a", (8,)), info("b", (8,), offset=0)]


def mutations(whole: bytes) -> Iterator[tuple[str, Callable[[int, int], bytes]]]:
    """Ways to damage a file: each takes a position and a value below 256."""
    size = len(whole)
    yield "cut", lambda at, _: whole[: at % size]
    yield (
        "flip",
        lambda at, value: whole[: at % size] + bytes([whole[at % size] ^ (value or 1)]) + whole[at % size + 1 :],
    )
    yield "insert", lambda at, value: whole[: at % size] + bytes([value]) + whole[at % size :]
