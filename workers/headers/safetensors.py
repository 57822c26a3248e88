"""The header of a safetensors file, stricter than the library: duplicate names are refused.

Layout of a file: 8 bytes length of the header (little-endian), the header (a JSON object, padded with spaces), the
bytes of the tensors without holes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from shared.errors import Corrupt
from workers.headers.plain import Openable, invalid_format, open_plain, read_exactly

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000
MAX_TENSORS = 200_000
MAX_WIDE_HEADER = 25_000_000
"""Bytes of a header with characters beyond ASCII: in memory each of them makes all others four times as wide."""
_MAX_MARKS = {
    b'"data_offsets"': MAX_TENSORS,
    b"{": MAX_TENSORS + 1_000,
    b"[": 2 * MAX_TENSORS + 1_000,
    b",": 8 * MAX_TENSORS,
    b'"': 13 * MAX_TENSORS,
}
"""No genuine header has more of these; counted before parsing, so that memory is bounded too."""
_MAX_ELEMENTS = 2**62
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class Tensor(NamedTuple):
    """Shape as written, outermost dimension first; `nbytes` on disk, from `begin` on in the file."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    begin: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """Tensors by name, and the free text that came along."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_safetensors(path: Openable) -> SafetensorsHeader:
    """Read and prove the header; the tensors' bytes are not read.

    Raises:
        Corrupt: code `invalid_format`, details `{"reason": …}`.
        OSError: the disk refuses.
    """
    with open_plain(path) as (file, size):
        length = int.from_bytes(read_exactly(file, LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > size - LENGTH_BYTES:
            raise invalid_format("it is shorter than its header says")
        if length > MAX_HEADER:
            raise invalid_format(f"its header is longer than {MAX_HEADER:,} bytes")
        raw = read_exactly(file, length)
    if len(raw) != length:
        raise invalid_format("it is shorter than its header says")
    header = _parse(raw)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise invalid_format("its metadata is not text")
    if len(header) > MAX_TENSORS:
        raise invalid_format(f"it has more than {MAX_TENSORS:,} tensors")
    return SafetensorsHeader(_tensors(header, LENGTH_BYTES + length, size), metadata)


def _parse(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise invalid_format("its header is not a JSON object")
    if any(raw.count(mark) > most for mark, most in _MAX_MARKS.items()):
        raise invalid_format(f"its header has more parts than {MAX_TENSORS:,} tensors need")
    if len(raw) > MAX_WIDE_HEADER and not raw.isascii():
        raise invalid_format(f"its header is longer than {MAX_WIDE_HEADER:,} bytes and not plain ASCII")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise invalid_format("its header is nested too deeply") from None
    except ValueError as error:
        raise invalid_format(f"its header cannot be read ({str(error)[:100]})") from None
    if not isinstance(header, dict):
        raise invalid_format("its header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _tensors(header: dict[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """Check each tensor alone, then that all together fill the file from `start` on exactly."""
    tensors = {name: _tensor(name, info, start) for name, info in header.items()}
    spans = sorted((tensor.begin - start, tensor.begin - start + tensor.nbytes) for tensor in tensors.values())
    _check_spans(spans, size - start)
    return tensors


def _tensor(name: str, info: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = info["dtype"], info["shape"], info["data_offsets"]
        bits = _BITS[dtype]
    except (KeyError, TypeError, ValueError):
        raise _bad_tensor(name, "its type, shape or place is missing or unknown") from None
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise _bad_tensor(name, "its shape or place is not made of whole numbers")
    if end < begin:
        raise _bad_tensor(name, "it ends before it begins")
    for size in shape:
        bits *= size
        if bits > _MAX_ELEMENTS:
            raise _bad_tensor(name, "its shape is too large")
    if (end - begin) * 8 != bits:
        raise _bad_tensor(name, "its shape does not fit its bytes")
    return Tensor(dtype, tuple(shape), end - begin, start + begin)


def _check_spans(spans: Iterable[tuple[int, int]], held: int) -> None:
    position = 0
    for begin, end in spans:
        if begin != position:
            raise invalid_format("tensors overlap" if begin < position else "there is a hole between tensors")
        position = end
    if position != held:
        raise invalid_format(f"its tensors need {position:,} bytes and it holds {held:,}")


def _bad_tensor(name: str, reason: str) -> Corrupt:
    return invalid_format(f"tensor {name[:100]!r}: {reason}")
