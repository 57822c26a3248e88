"""Which folders are models, and which say why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Corrupt, Invalid, Unsafe
from tests.factories.malformed import Gguf, good_safetensors, key, safetensors, u32
from workers.store.essentials import check_essentials

WEIGHTS = good_safetensors()
GGUF = Gguf().to_bytes()
INDEX = "m.safetensors.index.json"
PICKLE = b"\x80\x02cos\nsystem\n"
TORCH = b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + PICKLE
PAGE = b"<!DOCTYPE html><html><body>Not found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"t{i}": shard for i, shard in enumerate(shards)}}).encode()


def part(number: int, count: int, *, said: tuple[int, int] | None = None) -> bytes:
    no, total = said or (number - 1, count)
    return Gguf(keys=[key("split.no", 4, u32(no)), key("split.count", 4, u32(total))]).to_bytes()


def pipeline(**parts: Any) -> bytes:
    return json.dumps({"_class_name": "FluxPipeline", "_diffusers_version": "0.36", **parts}).encode()


def problems(folder: Path, files: dict[str, bytes]) -> list[tuple[str, str]]:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [(problem.code, problem.name) for problem in check_essentials(folder, files)]


WHOLE: dict[str, dict[str, bytes]] = {
    "one safetensors": {"juggernaut.safetensors": WEIGHTS},
    "one gguf": {"model-q4.gguf": GGUF, "README.md": b"# hi"},
    "several quantisations": {"q4.gguf": GGUF, "q8.gguf": GGUF},
    "shouting": {"MODEL.SAFETENSORS": WEIGHTS},
    "content under another name": {"model.safetensors.bin": WEIGHTS},
    "transformers": {
        "config.json": b'{"model_type":"llama"}',
        "model.safetensors": WEIGHTS,
        "vocab.txt": b"cat\ndog\n",
    },
    "sharded": {
        "config.json": b"{}",
        "model.safetensors.index.json": index("a.safetensors", "b.safetensors", "a.safetensors"),
        "a.safetensors": WEIGHTS,
        "b.safetensors": WEIGHTS,
    },
    "adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS},
    "split gguf": {f"m-{i:05}-of-00003.gguf": part(i, 3) for i in (1, 2, 3)},
    "split gguf that does not say so": {f"sub/m-{i:05}-of-00002.gguf": GGUF for i in (1, 2)},
    "diffusers": {
        "model_index.json": pipeline(unet=["diffusers", "UNet"], vae=["diffusers", "VAE"], safety=[None, None]),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors.index.json": index("x.safetensors"),
        "unet/x.safetensors": WEIGHTS,
        "vae/x.safetensors": WEIGHTS,
    },
    "remote code that is switched off": {
        "config.json": b'{"auto_map":{},"trust_remote_code":false,"_attn_implementation":"sdpa"}',
        "model.safetensors": WEIGHTS,
    },
    "plain numbers beside": {"a.safetensors": WEIGHTS, "voice.npy": b"\x93NUMPY\x01\0v\0{'descr': '<f4'}"},
}


@pytest.mark.parametrize("files", WHOLE.values(), ids=WHOLE.keys())
def test_whole_models(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert problems(tmp_path, files) == []


TWO = {"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS}
ROOT = {"config.json": b"{}", "model.safetensors": WEIGHTS}
BROKEN: list[tuple[str, dict[str, bytes], list[tuple[str, str]]]] = [
    ("nothing", {}, [("missing_essential", "")]),
    ("a readme", {"README.md": b"hi"}, [("missing_essential", "")]),
    ("config alone", {"config.json": b"{}"}, [("missing_essential", "")]),
    (
        "shards without config",
        {INDEX: index("a.safetensors"), "a.safetensors": WEIGHTS},
        [("missing_essential", "config.json")],
    ),
    ("two without config", TWO, [("missing_essential", "config.json")]),
    ("no model_index", {"unet/x.safetensors": WEIGHTS}, [("missing_essential", "model_index.json")]),
    (
        "a part of the pipeline",
        {"model_index.json": pipeline(unet=["diffusers", "UNet"], vae=["d", "V"]), "unet/x.safetensors": WEIGHTS},
        [("missing_essential", "vae")],
    ),
    ("shard", {**ROOT, INDEX: index("x.safetensors")}, [("missing_shards", INDEX)]),
    (
        "shard elsewhere",
        {**ROOT, INDEX: index("../other.safetensors")},
        [("source_invalid_filename", INDEX)],
    ),
    (
        "shard at a URL",
        {**ROOT, INDEX: index("https://evil.example/x.safetensors")},
        [("source_invalid_filename", INDEX)],
    ),
    ("index of numbers", {**ROOT, INDEX: b'{"weight_map":{"a":1}}'}, [("invalid_format", INDEX)]),
    ("index torn", {**ROOT, INDEX: b"{"}, [("invalid_format", INDEX)]),
    ("gguf part", {"m-00002-of-00005.gguf": part(2, 5)}, [("missing_shards", "m-*.gguf")]),
    (
        "gguf part of another model",
        {"m-00001-of-00002.gguf": part(1, 2), "m-00002-of-00002.gguf": part(2, 2, said=(1, 7))},
        [("missing_shards", "m-*.gguf")],
    ),
    ("cut weights", {**ROOT, "model.safetensors": WEIGHTS[:-1]}, [("invalid_format", "model.safetensors")]),
    ("cut gguf", {"m.gguf": GGUF[:-1]}, [("invalid_format", "m.gguf")]),
    ("empty weights", {**ROOT, "model.safetensors": b""}, [("invalid_format", "model.safetensors")]),
    ("name twice", {"m.safetensors": safetensors(b'{"a":{},"a":{}}')}, [("invalid_format", "m.safetensors")]),
    ("torn config", {**ROOT, "config.json": b"{"}, [("invalid_format", "config.json")]),
    ("config a list", {**ROOT, "config.json": b"[]"}, [("invalid_format", "config.json")]),
    ("config too deep", {**ROOT, "config.json": b"[" * 100_000}, [("invalid_format", "config.json")]),
]  # fmt: skip


@pytest.mark.parametrize(("files", "found"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_is_missing_or_broken(tmp_path: Path, files: dict[str, bytes], found: list[tuple[str, str]]) -> None:
    assert problems(tmp_path, files) == found


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("pytorch_model.bin", TORCH, "unsafe_format"),
        ("model.ckpt", PICKLE, "unsafe_format"),
        ("model.pt", b"(dp0\n.", "unsafe_format"),
        ("model.pth", b"cos\nsystem\n(S'true'\ntR.", "unsafe_format"),
        ("model.joblib", b"x\x9c", "unsafe_format"),
        ("a.npy", b"\x93NUMPY\x01\0v\0{'descr': '|O'}" + PICKLE, "unsafe_format"),
        ("a.npz", b"PK\x03\x04 a.npy", "unsafe_format"),
        ("model.bin", b"7z\xbc\xaf\x27\x1c", "unsafe_format"),
        ("notes.txt", PICKLE, "unsafe_format"),
        ("notes.txt", TORCH, "unsafe_format"),
        ("other.gguf", PICKLE, "unsafe_format"),
        ("other.safetensors", TORCH, "unsafe_format"),
        ("other.safetensors", PAGE, "content_mismatch"),
        ("other.gguf", POINTER, "content_mismatch"),
        ("pytorch_model.bin", PAGE, "content_mismatch"),
        ("other.safetensors", GGUF, "content_mismatch"),
        ("other.gguf", WEIGHTS, "content_mismatch"),
        ("other.gguf", b"noise", "invalid_format"),
        ("hidden.txt", WEIGHTS + b"x", "invalid_format"),
    ],
)
def test_content_decides(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    assert problems(tmp_path, {**ROOT, name: data}) == [(code, name)]


@pytest.mark.parametrize(
    ("name", "config", "keys"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil--x.Model"}}, ["auto_map"]),
        ("config.json", {"x": [{"auto_map": {"A": 1}}], "trust_remote_code": True}, ["auto_map", "trust_remote_code"]),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x", None]}}, ["auto_map"]),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}, ["_attn_implementation_internal"]),
        ("config.json", {"text": {"attn_implementation": "evil/kernel"}}, ["attn_implementation"]),
        ("config.json", {"custom_pipelines": {"a": {"impl": "x.P"}}}, ["custom_pipelines"]),
        ("model_index.json", {"_class_name": ["x", "X"], "custom_pipeline": "x"}, ["_class_name", "custom_pipeline"]),
        ("unet/config.json", {"_class_name": ["evil", "X"]}, ["_class_name"]),
    ],
)  # fmt: skip
def test_remote_code_is_reported_by_its_keys(tmp_path: Path, name: str, config: Any, keys: list[str]) -> None:
    files = {**ROOT, name: json.dumps(config).encode()}
    assert problems(tmp_path, files) == [("remote_code_required", name)]
    (problem,) = check_essentials(tmp_path, files)
    assert problem.details["keys"] == keys
    assert isinstance(problem.error(), Unsafe)
    assert problem.error().hint


def test_problems_are_errors_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"noise")
    problem = check_essentials(tmp_path, ["a.gguf"])[0]
    error = problem.error()
    assert isinstance(error, Corrupt)
    assert (error.code, error.details["name"]) == ("invalid_format", "a.gguf")
    json.dumps(problem.to_dict())
    with pytest.raises(Invalid):
        check_essentials(tmp_path, ["../a.gguf"])


def test_missing_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "m-00002-of-00003.gguf").write_bytes(part(2, 3))
    (problem,) = check_essentials(tmp_path, ["m-00002-of-00003.gguf"])
    assert problem.details == {"missing": ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]}


def test_files_in_staging_are_found_under_their_partial_names(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.partial").write_bytes(WEIGHTS)
    assert check_essentials(tmp_path, ["model.safetensors"]) == []
