import json
from pathlib import Path

import pytest

from deploy.demo import models
from deploy.demo.models import make_gguf_llm, make_transformers_llm


def weights(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.glob("*.safetensors")))


@pytest.mark.parametrize("size", [800_000, 5_000_000, 30_000_000])
def test_has_the_size_asked_for(tmp_path: Path, size: int) -> None:
    make_transformers_llm(tmp_path, seed=1, weight_bytes=size, name="sized")
    assert len(weights(tmp_path)) == pytest.approx(size, rel=0.05)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_transformers_llm(tmp_path / name, seed, 700_000, "same")
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "c" / "tokenizer.json").read_bytes()


def test_large_ones_are_split_as_the_index_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open

    monkeypatch.setattr(models, "SHARD_BYTES", 300_000)
    make_transformers_llm(tmp_path, seed=1, weight_bytes=1_000_000, name="split")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = {file.name for file in tmp_path.glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) > 1
    for name in files:
        with safe_open(tmp_path / name, framework="np") as shard:
            assert set(shard.keys()) == {tensor for tensor, place in index["weight_map"].items() if place == name}


def test_the_gguf_says_what_it_is(tmp_path: Path) -> None:
    from gguf import GGUFReader

    make_gguf_llm(tmp_path / "tiny.gguf", seed=1, name="tiny")
    reader = GGUFReader(tmp_path / "tiny.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert {tensor.name for tensor in reader.tensors} >= {"token_embd.weight", "blk.1.ffn_down.weight", "output.weight"}
