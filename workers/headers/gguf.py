"""The header of a GGUF file, checked as llama.cpp checks it and bounded where llama.cpp is not.

Layout of a file (little-endian): magic, version u32, number of tensors u64, number of keys u64; per key: name,
type u32, value; per tensor: name, dimensions u32, sizes u64 (innermost first), type u32, offset u64; then, aligned,
the bytes of the tensors. Texts are u64 length and bytes.
"""

import struct
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, NamedTuple, TypeVar

from shared.errors import Corrupt
from workers.headers.ggml import FILE_TYPES, TYPES
from workers.headers.plain import Openable, invalid_format, open_plain, read_exactly

MAX_TENSORS = 100_000
MAX_KEYS = 65_536
MAX_KEY = 65_535
MAX_TENSOR_NAME = 64
MAX_TEXT = 4096
"""Bytes of a text that is kept; longer ones (licences) are skipped."""
CHAT_TEMPLATE, MAX_TEMPLATE = "tokenizer.chat_template", 1024**2
"""A chat template is kept up to that many bytes: those that are published have up to some ten thousand."""
MAX_TEXTS = 2_000_000
"""Texts in all arrays of a file together: the largest vocabularies have half a million, with as many merges."""
MAX_ALIGNMENT = 2**20
MAX_DIMENSIONS = 4
_WINDOW = 1024**2
_T = TypeVar("_T")
_GUESSED = 1024
_TEXT, _ARRAY, _U32 = 8, 9, 4
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_LENGTH = struct.Struct("<Q")
_WIDE = _LENGTH.size


class GgufTensor(NamedTuple):
    """`shape` innermost dimension first, as written; `nbytes` on disk."""

    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says; None where it says nothing, or not in the type it should.

    `quantization` as people know it (`Q4_K_M`); `parameter_count` is elements of all tensors of this file;
    `split` is this file's number (from 0) and the number of files, for a model in parts.
    """

    version: int
    architecture: str | None
    name: str | None
    context_length: int | None
    block_count: int | None
    quantization: str | None
    parameter_count: int
    tensors: dict[str, GgufTensor]
    alignment: int
    has_chat_template: bool
    chat_template: str | None
    """As it stands there; nobody renders it here. None also where it is longer than is kept."""
    split: tuple[int, int] | None
    kv_heads: int | None = None
    """Heads of keys and values in each of `block_count` layers; None where they differ from layer to layer."""
    key_size: int | None = None
    value_size: int | None = None
    vocabulary: int | None = None
    pooling: int | None = None
    """How an embedding is made of its tokens', by llama.cpp's number (`llama_pooling_type`)."""


def read_gguf(path: Openable) -> GgufHeader:
    """Read and prove the header; the tensors' bytes are not read.

    Raises:
        Corrupt: code `invalid_format`, details `{"reason": …}`.
        OSError: the disk refuses.
    """
    with open_plain(path) as (file, size):
        reader = _Reader(file, size)
        if reader.take(4) != b"GGUF":
            raise invalid_format("it does not begin with GGUF")
        version = reader.number("<I")
        if version not in (2, 3):
            raise invalid_format(f"its GGUF version is {version}; 2 and 3 are known")
        tensor_count, key_count = reader.number("<Q"), reader.number("<Q")
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            raise invalid_format(f"it claims {tensor_count:,} tensors and {key_count:,} keys")
        keys = _keys(reader, key_count)
        alignment = _alignment(keys)
        tensors = _tensors(reader, tensor_count, alignment)
    return _header(version, keys, tensors, alignment)


def _header(version: int, keys: dict[str, Any], tensors: dict[str, GgufTensor], alignment: int) -> GgufHeader:
    architecture = _of(str, keys.get("general.architecture"))
    file_type = _of(int, keys.get("general.file_type"))
    part, parts = _of(int, keys.get("split.no")), _of(int, keys.get("split.count"))

    def told(key: str) -> int | None:
        return _of(int, keys.get(f"{architecture}.{key}"))

    heads, width = told("attention.head_count"), told("embedding_length")
    head_size = width // heads if width and heads else None
    embedding = tensors.get("token_embd.weight")
    return GgufHeader(
        version=version,
        architecture=architecture,
        name=_of(str, keys.get("general.name")),
        context_length=told("context_length"),
        block_count=told("block_count"),
        quantization=None if file_type is None else FILE_TYPES.get(file_type % _GUESSED),
        parameter_count=sum(prod(tensor.shape) for tensor in tensors.values()),
        tensors=tensors,
        alignment=alignment,
        has_chat_template=CHAT_TEMPLATE in keys,
        chat_template=_of(str, keys.get(CHAT_TEMPLATE)),
        split=None if part is None or parts is None else (part, parts),
        kv_heads=told("attention.head_count_kv") if f"{architecture}.attention.head_count_kv" in keys else heads,
        key_size=told("attention.key_length") or head_size,
        value_size=told("attention.value_length") or head_size,
        vocabulary=embedding.shape[-1] if embedding is not None else None,
        pooling=told("pooling_type"),
    )


def _of(wanted: type[_T], value: Any) -> _T | None:
    return value if type(value) is wanted else None


class _Reader:
    """A window that moves over the file; refuses to read past its end before it allocates anything."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._base = 0
        self._at = 0
        self._texts = 0

    @property
    def position(self) -> int:
        return self._base + self._at

    @property
    def size(self) -> int:
        return self._size

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._check(count)
        if self._at + count > len(self._window):
            self._move(self.position, max(count, _WINDOW))
        found = self._window[self._at : self._at + count]
        if len(found) != count:
            raise invalid_format("it ends in the middle of its header")
        self._at += count
        return found

    def skip(self, count: int) -> None:
        self._check(count)
        self._at += count
        if self._at > len(self._window):
            self._move(self.position, _WINDOW)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, most: int) -> str | None:
        """A text, or None where it is longer than is kept."""
        length = self.number("<Q")
        if length > most:
            self.skip(length)
            return None
        return self.take(length).decode(errors="replace")

    def skip_texts(self, count: int) -> None:
        """Step over an array of texts; the one loop here that may run a million times."""
        self._texts += count
        if self._texts > MAX_TEXTS:
            raise invalid_format(f"its arrays hold more than {MAX_TEXTS:,} texts")
        self._check(_WIDE * count)
        unpack, window, at = _LENGTH.unpack_from, self._window, self._at
        for _ in range(count):
            if at + _WIDE > len(window):
                self._move(self._base + at, _WINDOW)
                window, at = self._window, 0
                if len(window) < _WIDE:
                    raise invalid_format("it ends in the middle of its header")
            at += _WIDE + unpack(window, at)[0]
            if self._base + at > self._size:
                raise invalid_format("a text is longer than the file")
        self._at = at
        self.skip(0)

    def _check(self, count: int) -> None:
        if count > self._size - self.position:
            raise invalid_format("it ends in the middle of its header")

    def _move(self, position: int, count: int) -> None:
        self._file.seek(position)
        self._window, self._base, self._at = read_exactly(self._file, count), position, 0


def _keys(reader: _Reader, count: int) -> dict[str, Any]:
    """Scalars and short texts by key; arrays and long texts are there as None."""
    keys: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text(MAX_KEY)
        if not key:
            raise invalid_format("a key is empty or too long")
        if key in keys:
            raise invalid_format(f"key {key[:100]!r} is there twice")
        kind = reader.number("<I")
        if key == "general.alignment" and kind != _U32:
            raise invalid_format("its alignment is not a 32-bit number")
        keys[key] = _value(reader, kind, MAX_TEMPLATE if key == CHAT_TEMPLATE else MAX_TEXT)
    return keys


def _value(reader: _Reader, kind: int, longest: int) -> Any:
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind == _TEXT:
        return reader.text(longest)
    if kind != _ARRAY:
        raise invalid_format(f"a key has the unknown type {kind}")
    of, count = reader.number("<I"), reader.number("<Q")
    if of in _SCALARS:
        reader.skip(struct.calcsize(_SCALARS[of]) * count)
    elif of == _TEXT:
        reader.skip_texts(count)
    else:
        raise invalid_format(f"an array holds things of type {of}")
    return None


def _alignment(keys: dict[str, Any]) -> int:
    alignment: int = keys.get("general.alignment", 32)
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise invalid_format(f"its alignment is {alignment}")
    return alignment


def _tensors(reader: _Reader, count: int, alignment: int) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    spans: list[tuple[int, int]] = []
    for _ in range(count):
        name = reader.text(MAX_TENSOR_NAME)
        if not name or name in tensors:
            raise invalid_format(f"a tensor's name is empty, too long or there twice: {name!r}")
        tensors[name] = _tensor(reader, name)
        offset = reader.number("<Q")
        if offset % alignment:
            raise _bad_tensor(name, "its place is not aligned")
        spans.append((offset, offset + tensors[name].nbytes))
    held = reader.size - -(-reader.position // alignment) * alignment
    end = 0
    for begin, after in sorted(spans):
        if begin < end:
            raise invalid_format("tensors overlap")
        if after > held:
            raise invalid_format(f"its tensors need {after:,} bytes and it holds {max(held, 0):,}")
        end = after
    return tensors


def _tensor(reader: _Reader, name: str) -> GgufTensor:
    dimensions = reader.number("<I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise _bad_tensor(name, f"it has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", reader.take(_WIDE * dimensions))
    kind = reader.number("<I")
    if kind not in TYPES:
        raise _bad_tensor(name, f"its type {kind} is unknown")
    label, elements, size = TYPES[kind]
    total = prod(shape)
    if not 0 < total < 2**62:
        raise _bad_tensor(name, "its shape is empty or too large")
    if shape[0] % elements:
        raise _bad_tensor(name, "its rows are no whole number of blocks")
    return GgufTensor(label, shape, total // elements * size)


def _bad_tensor(name: str, reason: str) -> Corrupt:
    return invalid_format(f"tensor {name[:100]!r}: {reason}")
