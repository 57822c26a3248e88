"""What is read of model files, what is refused, and how much that may cost."""

import json
import struct
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from shared.errors import Corrupt
from tests.factories.malformed import (
    Gguf,
    array,
    bad_gguf,
    bad_safetensors,
    good_safetensors,
    info,
    key,
    mutations,
    safetensors,
    tensor,
    text,
    u32,
)
from workers.headers import Content, read_gguf, read_safetensors, sniff
from workers.headers.ggml import FILE_TYPES, TYPES
from workers.headers.sniff import content_of

BAD_SAFETENSORS = list(bad_safetensors())
BAD_GGUF = list(bad_gguf())
fuzzing = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", [data for _, data in BAD_SAFETENSORS], ids=[name for name, _ in BAD_SAFETENSORS])
def test_bad_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        read_safetensors(put(tmp_path, data))
    assert caught.value.code == "invalid_format"
    assert caught.value.details["reason"]


@pytest.mark.parametrize("data", [data for _, data in BAD_GGUF], ids=[name for name, _ in BAD_GGUF])
def test_bad_gguf_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        read_gguf(put(tmp_path, data))
    assert caught.value.code == "invalid_format"


def test_safetensors_made_by_hand(tmp_path: Path) -> None:
    header = read_safetensors(put(tmp_path, good_safetensors()))
    start = len(good_safetensors()) - 24
    assert header.tensors == {"a": ("F32", (2, 2), 16, start), "b": ("BF16", (4,), 8, start + 16)}
    assert header.metadata == {"format": "pt"}


def test_safetensors_without_tensors_padded_or_with_parts_of_bytes(tmp_path: Path) -> None:
    assert read_safetensors(put(tmp_path, safetensors(b"{}   "))).tensors == {}
    half = safetensors({"a": tensor("F4", [4], [0, 2]), "b": tensor("F6_E2M3", [4], [2, 5])}, bytes(5))
    assert read_safetensors(put(tmp_path, half)).tensors["b"].nbytes == 3
    empty = safetensors({"a": tensor("F32", [0, 4], [0, 0]), "b": tensor("F32", [], [0, 4])}, bytes(4))
    assert read_safetensors(put(tmp_path, empty)).tensors["b"].shape == ()


def test_safetensors_of_the_library_are_accepted(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64]
    tensors = {str(kind): torch.zeros((3, 4), dtype=kind) for kind in kinds}
    save_file(tensors, tmp_path / "file", {"format": "pt", "näme": "日本"})
    header = read_safetensors(tmp_path / "file")
    assert {name: (found.shape, found.nbytes) for name, found in header.tensors.items()} == {
        name: (tuple(made.shape), made.nbytes) for name, made in tensors.items()
    }
    assert header.metadata["näme"] == "日本"


def test_gguf_of_the_library_is_accepted(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "file", "qwen2")
    writer.add_name("Tiny Qwen")
    writer.add_context_length(32768)
    writer.add_block_count(3)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_token_list([f"token{i}" for i in range(5000)])
    writer.add_token_scores([0.5] * 5000)
    writer.add_chat_template("{{ messages }}" * 1000)
    writer.add_tensor("token_embd.weight", np.zeros((16, 8), dtype=np.float32))
    writer.add_tensor("blk.0.ffn", np.zeros((2, 144), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf(tmp_path / "file")
    assert (header.version, header.architecture, header.name) == (3, "qwen2", "Tiny Qwen")
    assert (header.context_length, header.block_count, header.quantization) == (32768, 3, "Q4_K_M")
    assert header.has_chat_template
    assert header.tensors["token_embd.weight"] == ("F32", (8, 16), 512)
    assert header.tensors["blk.0.ffn"] == ("Q4_K", (256, 2), 288)
    assert header.parameter_count == 8 * 16 + 512


def test_gguf_made_by_hand(tmp_path: Path) -> None:
    header = read_gguf(put(tmp_path, Gguf().to_bytes()))
    assert header.tensors == {"a": ("F32", (4, 2), 32), "b": ("Q4_0", (32,), 18)}
    assert (header.alignment, header.has_chat_template, header.split) == (32, False, None)


def test_gguf_that_only_another_program_minds(tmp_path: Path) -> None:
    keys = [
        key("general.alignment", 4, u32(64)),
        key("general.architecture", 8, text("nobody-knows")),
        key("nobody-knows.block_count", 4, u32(10**6)),
        key("nobody-knows.context_length", 8, text("long")),
        key("general.name", 8, text(b"caf\xe9")),
        key("split.no", 2, struct.pack("<H", 0)),
        key("split.count", 2, struct.pack("<H", 3)),
        key("tokenizer.ggml.tokens", 9, array(4, 2, bytes(8))),
    ]
    header = read_gguf(put(tmp_path, Gguf(version=2, keys=keys, tensors=[], data=b"", alignment=64).to_bytes()))
    assert (header.architecture, header.block_count, header.context_length) == ("nobody-knows", 10**6, None)
    assert (header.alignment, header.split, header.parameter_count) == (64, (0, 3), 0)


def test_texts_across_the_edge_of_the_window(tmp_path: Path) -> None:
    words = b"".join(text("w" * (i % 40)) for i in range(100_000))
    keys = [key("a", 9, array(8, 100_000, words)), key("general.architecture", 8, text("llama"))]
    assert read_gguf(put(tmp_path, Gguf(keys=keys).to_bytes())).architecture == "llama"


def test_the_tables_are_ggmls_own() -> None:
    assert {int(k): (k.name, *v) for k, v in gguf.GGML_QUANT_SIZES.items()} == TYPES
    names = {int(k): k.name.removeprefix("MOSTLY_").removeprefix("ALL_") for k in gguf.LlamaFileType}
    assert {number: name for number, name in names.items() if name != "GUESSED"} == FILE_TYPES


def test_links_and_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(good_safetensors())
    (tmp_path / "link").symlink_to("real")
    subprocess.run(["mkfifo", tmp_path / "pipe"], check=True)
    for name in ("link", "pipe", "absent"):
        with pytest.raises(Corrupt):
            read_safetensors(tmp_path / name)
    with pytest.raises(Corrupt):
        read_gguf(tmp_path)


@fuzzing
@given(at=st.integers(0, 2000), value=st.integers(0, 255), which=st.integers(0, 2))
def test_damaged_safetensors_raise_nothing_but_corrupt(tmp_path: Path, at: int, value: int, which: int) -> None:
    _, damage = list(mutations(good_safetensors()))[which]
    survives(lambda: read_safetensors(put(tmp_path, damage(at, value))))


@fuzzing
@given(at=st.integers(0, 2000), value=st.integers(0, 255), which=st.integers(0, 2))
def test_damaged_gguf_raises_nothing_but_corrupt(tmp_path: Path, at: int, value: int, which: int) -> None:
    _, damage = list(mutations(Gguf().to_bytes()))[which]
    survives(lambda: read_gguf(put(tmp_path, damage(at, value))))


@fuzzing
@given(data=st.binary(max_size=300))
@example(b"")
def test_noise_raises_nothing_but_corrupt(tmp_path: Path, data: bytes) -> None:
    survives(lambda: read_safetensors(put(tmp_path, data)))
    survives(lambda: read_safetensors(put(tmp_path, safetensors(data))))
    survives(lambda: read_gguf(put(tmp_path, data)))
    survives(lambda: read_gguf(put(tmp_path, b"GGUF\x03\0\0\0" + data)))
    assert content_of(data) in Content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@fuzzing
@given(value=json_values, data=st.binary(max_size=16))
def test_any_json_as_a_header_raises_nothing_but_corrupt(tmp_path: Path, value: object, data: bytes) -> None:
    described = {"a": value, "b": {"dtype": value, "shape": value, "data_offsets": value}, "__metadata__": value}
    survives(lambda: read_safetensors(put(tmp_path, safetensors(described, data))))
    survives(lambda: read_safetensors(put(tmp_path, safetensors({"a": tensor("F32", value, value)}, data))))


def survives(read: object) -> None:
    assert callable(read)
    try:
        read()
    except Corrupt as error:
        assert error.code == "invalid_format"  # noqa: PT017 - damage may also leave the file whole


@pytest.mark.parametrize(
    ("head", "content"),
    [
        (good_safetensors(), Content.SAFETENSORS),
        (Gguf().to_bytes(), Content.GGUF),
        (b"", Content.EMPTY),
        (b"\x80\x02}q\x00.", Content.PICKLE),
        (b"\x80\x04\x95", Content.PICKLE),
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", Content.PICKLE),
        (b"PK\x03\x04" + bytes(26) + b"readme.txt", Content.ARCHIVE),
        (b"7z\xbc\xaf\x27\x1c", Content.ARCHIVE),
        (bytes(257) + b"ustar", Content.ARCHIVE),
        (b"\x93NUMPY\x01\0v\0{'descr': '|O', 'shape': ()}", Content.PICKLE),
        (b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'shape': ()}", Content.ARRAY),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", Content.PAGE),
        (b"<html lang=en>", Content.PAGE),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", Content.POINTER),
        (b"cat\ndog\n", Content.OTHER),
        (b"(see the readme)\nisympy\nsympy\n", Content.OTHER),
        (b"import os\nfrom pathlib import Path\n", Content.OTHER),
        (b"cos\nsystem\n(S'id'\ntR.", Content.PICKLE),
        (b"(S'id'\nios\nsystem\n.", Content.PICKLE),
        (json.dumps({"a": 1}).encode(), Content.OTHER),
    ],
)
def test_content_is_told_by_the_first_bytes(tmp_path: Path, head: bytes, content: Content) -> None:
    assert sniff(put(tmp_path, head)) is content


def test_a_valid_tensor_at_each_block_type(tmp_path: Path) -> None:
    for kind, (label, elements, size) in TYPES.items():
        path = put(tmp_path, Gguf(tensors=[info("a", (elements, 2), kind)], data=bytes(2 * size)).to_bytes())
        assert read_gguf(path).tensors["a"] == (label, (elements, 2), 2 * size)
