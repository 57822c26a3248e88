"""The malformed-file corpus: models that are broken or would run code, each with the verdict that it must get.

A case is a folder: names and bytes. `verdict` is the code of the first problem, None for an honest model that must
pass; `load` is the verdict at a load, where it is another one. Nothing of it is ever opened by a library in the tests
of the verdicts; `Canary` shows whether something was run after all.
"""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.factories.malformed import (
    Gguf,
    array,
    bad_gguf,
    bad_safetensors,
    good_safetensors,
    key,
    safetensors,
    tensor,
    text,
    u32,
)

WEIGHTS = good_safetensors()
CONFIG = b'{"model_type": "llama"}'
HONEST = {"config.json": CONFIG, "model.safetensors": WEIGHTS}


@dataclass(frozen=True)
class Case:
    """`fault` is its number in the fault list."""

    fault: str
    name: str
    files: dict[str, bytes]
    verdict: str | None

    def __str__(self) -> str:
        return f"{self.fault} {self.name}"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> list[str]:
        """Put its files there; answers their names."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return list(self.files)


class Canary:
    """A pickle of it makes a file when something unpickles it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self._path, "w"))


def cases(canary: str = "/nowhere/canary") -> Iterator[Case]:
    """All of the corpus.

    Args:
        canary: the file that its pickles would make.
    """
    for name, data in bad_safetensors():
        yield Case(_safetensors_fault(name), name, {"model.safetensors": data}, "invalid_format")
    for name, data in bad_gguf():
        yield Case(_gguf_fault(name), name, {"model.gguf": data}, "invalid_format")
    yield from _hungry()
    yield from _strange_gguf()
    for name, config, keys in remote_code():
        yield Case("A-75", name, {**HONEST, keys: json.dumps(config).encode()}, "remote_code_required")
    yield from _hungry_configs()
    yield from _archives(canary)
    yield from _pickles(canary)
    yield from _disguises(canary)
    yield from _honest()


def _safetensors_fault(name: str) -> str:
    return {"name twice": "A-68", "header over 100 MB": "A-67", "too many tensors": "A-69"}.get(name, "A-66")


def _gguf_fault(name: str) -> str:
    layout = ("overlap", "beyond the end", "offset that overflows", "cut in the data", "no room for the alignment")
    return "A-71" if name.endswith(layout) else "A-70"


def _hungry() -> Iterator[Case]:
    """Files whose reading would cost memory or time."""
    for name, data in {
        "ten million lists": safetensors(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}"),
        "fifteen million numbers": safetensors(b'{"a":[' + b"1," * 15_000_000 + b"1]}"),
        "six million names": safetensors(b'{"__metadata__":{' + b'"":1,' * 6_000_000 + b'"":1}}'),
        "wide characters": safetensors(b'{"a":"\xf0\x9f\x98\x80' + b"a" * 30_000_000 + b'"}'),
    }.items():
        yield Case("A-66", name, {"model.safetensors": data}, "invalid_format")
    for name, keys in {
        "two and a half million texts": [key("a", 9, array(8, 2_500_000, bytes(20_000_000)))],
        "long keys": [key("k" * 60_000 + str(i), 9, array(0, 2**40)) for i in range(5)],
    }.items():
        yield Case("A-70", name, {"model.gguf": Gguf(keys=keys).to_bytes()}, "invalid_format")


def _strange_gguf() -> Iterator[Case]:
    """What only the program that runs it would mind passes here, and dies there, alone."""
    keys = [
        key("general.architecture", 8, text("nobody-knows")),
        key("nobody-knows.block_count", 4, u32(10**6)),
        key("tokenizer.ggml.tokens", 9, array(4, 2, bytes(8))),
        key("tokenizer.chat_template", 8, text("{{ cycler.__init__.__globals__ }}" * 100_000)),
    ]
    yield Case("A-72", "unknown architecture", {"model.gguf": Gguf(keys=keys).to_bytes()}, None)
    split = [key("split.no", 4, u32(1)), key("split.count", 4, u32(5))]
    part = Gguf(keys=split).to_bytes()
    yield Case("A-73", "one part of five", {"m-00002-of-00005.gguf": part}, "missing_shards")
    foreign = {f"m-0000{number}-of-00002.gguf": part for number in (1, 2)}
    yield Case("A-73", "parts of another model", foreign, "missing_shards")


def remote_code() -> Iterator[tuple[str, Any, str]]:
    """Settings that have a library fetch or run code: a name, the settings, the file that holds them."""
    auto_map = {"AutoModel": "evil--x.Model"}
    yield "auto_map", {"auto_map": auto_map}, "config.json"
    yield "auto_map of a tokenizer", {"auto_map": {"AutoTokenizer": ["x.T", None]}}, "tokenizer_config.json"
    yield "auto_map deep inside", {"text_config": {"parts": [{"auto_map": auto_map}]}}, "config.json"
    yield "auto_map where no library is known to look", {"auto_map": auto_map}, "my_processor.json"
    yield "trust_remote_code", {"trust_remote_code": True}, "config.json"
    yield "a kernel of a repository", {"_attn_implementation_internal": "evil/kernel"}, "config.json"
    yield "attention out of a repository", {"text_config": {"attn_implementation": "evil/kernel"}}, "config.json"
    yield "a name with a repository", {"_name_or_path": "evil/x", "auto_map": auto_map}, "config.json"
    yield "custom_pipeline", {"custom_pipeline": "evil"}, "model_index.json"
    yield "custom_pipelines", {"custom_pipelines": {"a": {"impl": "x.P"}}}, "config.json"
    yield "custom_generate", {"custom_generate": "evil/generate"}, "generation_config.json"
    yield "a class as a list", {"_class_name": ["evil", "X"]}, "model_index.json"
    yield "a class as a list, below", {"_class_name": ["evil", "X"]}, "unet/config.json"
    yield "a part out of a repository", {"_class_name": "P", "unet": ["evil/code", "Unet"]}, "model_index.json"
    yield "a part out of a file", {"_class_name": "P", "unet": ["evil.py", "Unet"]}, "model_index.json"


def _hungry_configs() -> Iterator[Case]:
    for name, data in {
        "not JSON": b"{",
        "a list": b"[]",
        "nested too deeply": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a million objects": b'{"a":[' + b"{}," * 1_000_000 + b"{}]}",
        "20 MB": b'{"a":"' + b"x" * 20_000_000 + b'"}',
    }.items():
        yield Case("A-75", f"settings: {name}", {**HONEST, "config.json": data}, "invalid_format")
    big = b'{"weight_map":{' + b",".join(b'"t%d":"%d"' % (i, i) for i in range(1_100_000)) + b"}}"
    yield Case("A-79", "an index of a million", {**HONEST, "model.safetensors.index.json": big}, "invalid_format")


def _archives(canary: str) -> Iterator[Case]:
    """Archives under a name of weights are never opened."""
    escaping = io.BytesIO()
    with tarfile.open(fileobj=escaping, mode="w") as tar:
        for member, kind in (("../x", tarfile.REGTYPE), ("/etc/x", tarfile.REGTYPE), ("l", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        hard, device = tarfile.TarInfo("hard"), tarfile.TarInfo("null")
        hard.type, hard.linkname, device.type = tarfile.LNKTYPE, "../../etc/passwd", tarfile.CHRTYPE
        tar.addfile(hard)
        tar.addfile(device)
    yield Case("A-41", "a tar that leaves its folder", {"model.bin": escaping.getvalue()}, "unsafe_format")
    yield Case("A-41", "the same, renamed", {**HONEST, "vocab.txt": escaping.getvalue()}, "unsafe_format")
    for name, member in (("../x", "../x"), ("absolute", "/etc/x")):
        yield Case("A-41", f"a zip with {name}", {"model.safetensors": zipped({member: b"x"})}, "unsafe_format")
    yield Case("A-41", "gzip", {"model.gguf": b"\x1f\x8b\x08" + bytes(100)}, "unsafe_format")
    bomb = zipped({"archive/data.pkl": pickle.dumps(Canary(canary)), "archive/data/0": bytes(30_000_000)}, packed=True)
    for name in ("model.pt", "model.npz", "model.keras"):
        yield Case("A-42", f"a bomb as {name}", {name: bomb}, "unsafe_format")


def _pickles(canary: str) -> Iterator[Case]:
    """Every name that a pickle goes by."""
    for protocol in range(6):
        data = pickle.dumps(Canary(canary), protocol)
        yield Case("A-77", f"protocol {protocol}", {"pytorch_model.bin": data}, "unsafe_format")
    data = pickle.dumps(Canary(canary))
    for ending in ("bin", "ckpt", "pt", "pth", "pkl", "joblib", "npy", "npz", "BIN"):
        yield Case("A-77", ending, {f"model.{ending}": data}, "unsafe_format")
        yield Case("A-77", f"{ending} that is noise", {f"model.{ending}": b"noise"}, "unsafe_format")
    objects = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n" + data
    yield Case("A-77", "an array of objects", {"model.npy": objects}, "unsafe_format")
    yield Case("A-77", "torch's own zip", {"model.pt": torch_zip(data)}, "unsafe_format")


def _disguises(canary: str) -> Iterator[Case]:
    """What is known to slip past scanners. There is no scanner here: the format itself is refused."""
    data = pickle.dumps(Canary(canary))
    whole = torch_zip(data)
    yield Case("A-78", "behind safetensors", {"model.safetensors": WEIGHTS + data}, "invalid_format")
    yield Case("A-78", "a zip behind safetensors", {"model.safetensors": WEIGHTS + whole}, "invalid_format")
    crc = bytearray(whole)
    crc[14] ^= 0xFF
    flags = bytearray(whole)
    flags[6] ^= 0x01
    yield Case("A-78", "bad CRC", {"model.pt": bytes(crc)}, "unsafe_format")
    yield Case("A-78", "flipped flags", {"model.pt": bytes(flags)}, "unsafe_format")
    stacked = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, Canary(canary)))
    yield Case("A-78", "stacked", {"pytorch_model.bin": stacked}, "unsafe_format")
    yield Case("A-78", "a zip in a zip", {"model.pt": zipped({"inner.zip": whole})}, "unsafe_format")
    yield Case("A-78", "7z", {"model.pt": b"7z\xbc\xaf\x27\x1c" + bytes(100)}, "unsafe_format")
    yield Case("A-78", "7z as text", {**HONEST, "vocab.txt": b"7z\xbc\xaf\x27\x1c" + bytes(100)}, "unsafe_format")
    for protocol in (0, 1, 2, 4):
        renamed = pickle.dumps(Canary(canary), protocol)
        yield Case("A-78", f"protocol {protocol} as text", {**HONEST, "notes.txt": renamed}, "unsafe_format")
    yield Case("A-79", "shouting", {"MODEL.SAFETENSORS": data}, "unsafe_format")
    yield Case("A-79", "two endings", {"model.safetensors.bin": data}, "unsafe_format")
    yield Case("A-79", "a pickle as GGUF", {"model.gguf": data}, "unsafe_format")
    yield Case("A-79", "GGUF as safetensors", {"model.safetensors": Gguf().to_bytes()}, "content_mismatch")
    for shard in ("../other.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "..\\x", "x\x00"):
        index = json.dumps({"weight_map": {"t": shard}}).encode()
        files = {**HONEST, "model.safetensors.index.json": index}
        yield Case("A-79", f"an index to {shard!r}", files, "source_invalid_filename")
    url = json.dumps({"weight_map": {"t": "https://evil.example/x.safetensors"}}).encode()
    yield Case("A-79", "an index to a URL", {**HONEST, "model.safetensors.index.json": url}, "source_invalid_filename")
    yield Case("A-76", "code among the files", {**HONEST, "sitecustomize.py": b"import os"}, "remote_code_required")
    yield Case("A-76", "a library among the files", {**HONEST, "x.so": b"\x7fELF"}, "remote_code_required")
    yield Case("A-76", "a path file among the files", {**HONEST, "evil.pth": b"import os\n"}, "unsafe_format")
    page = b"<!DOCTYPE html><html><body>Sign in</body></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for name, data in {"a page": page, "an LFS pointer": pointer}.items():
        yield Case("A-40", name, {"config.json": CONFIG, "model.safetensors": data}, "content_mismatch")
    refused = b'{"error": "Access to model is restricted"}' + bytes(593)
    yield Case("A-40", "an error in JSON", {"config.json": CONFIG, "model.safetensors": refused}, "invalid_format")


def _honest() -> Iterator[Case]:
    """What must pass, so that the gate stays open for those who mean well."""
    inert = {"_name_or_path": "meta/llama", "trust_remote_code": False, "auto_map": {}, "attn_implementation": "sdpa"}
    yield Case("A-75", "a name of a repository alone", {**HONEST, "config.json": json.dumps(inert).encode()}, None)
    parts = {"_class_name": "P", "unet": ["diffusers", "Unet"], "safety": [None, None], "size": [512, 512]}
    pipeline = {"model_index.json": json.dumps(parts).encode(), "unet/d.safetensors": WEIGHTS}
    yield Case("A-75", "a pipeline of diffusers", pipeline, None)
    yield Case("A-79", "safetensors under a pickle's name", {"model.safetensors.bin": WEIGHTS}, None)
    yield Case("A-77", "words that could be opcodes", {**HONEST, "vocab.txt": b"cat\ndog\n(\nR\n."}, None)
    numbers = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n" + bytes(4)
    yield Case("A-77", "an array of numbers", {**HONEST, "stats.npy": numbers}, None)
    torch_index = json.dumps({"weight_map": {"t": "pytorch_model-00001-of-00002.bin"}}).encode()
    yield Case("A-79", "the index of what was left", {**HONEST, "pytorch_model.bin.index.json": torch_index}, None)
    many = safetensors({f"t{i}": tensor("U8", [0], [0, 0]) for i in range(100_000)})
    yield Case("A-69", "a hundred thousand tensors", {"model.safetensors": many}, None)


def zipped(members: dict[str, bytes], *, packed: bool = False) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def torch_zip(data: bytes, **more: bytes) -> bytes:
    """What `torch.save` writes, as far as anybody here looks."""
    return zipped({"archive/data.pkl": data, "archive/version": b"3\n", **more})


def hiding(whole: bytes) -> bytes:
    """A zip that counts one entry less than its directory has: some readers go by the one, some by the other."""
    at = len(whole) - 22 + 8
    count = struct.unpack_from("<H", whole, at)[0] - 1
    return whole[:at] + struct.pack("<2H", count, count) + whole[at + 4 :]


def with_second_directory(whole: bytes) -> bytes:
    """A zip with a wider record of its directory, which says that it is empty, before the usual one."""
    place = len(whole) - 22
    wider = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 0, 0, 0, place)
    return whole[:place] + wider + struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1) + whole[place:]


def overlapping() -> bytes:
    """A zip of torch's form whose two entries are the same bytes."""
    made = bytearray(torch_zip(pickle.dumps({})))
    directory = made.rfind(b"PK\x05\x06")
    (begin,) = struct.unpack_from("<L", made, directory + 16)
    second = made.index(b"PK\x01\x02", begin + 4)
    made[second + 42 : second + 46] = made[begin + 42 : begin + 46]
    return bytes(made)
