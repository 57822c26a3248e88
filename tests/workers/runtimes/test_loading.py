"""A model made of an arena is the one that transformers makes of the files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from tests.factories.families import transformers_llm
from workers.runtimes.torch_runner.loading import load_model

SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, torch.dtype, dict[str, Any]]] = {
    "plain": ("llama", torch.float32, SHAPE),
    "one tensor for both ends": ("qwen2", torch.bfloat16, {**SHAPE, "tie_word_embeddings": True}),
    "float16, other names": ("gpt2", torch.float16, {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "experts that are put together": ("mixtral", torch.bfloat16, {**SHAPE, "num_local_experts": 4}),
}


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoModel])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_the_same_model(tmp_path: Path, family: str, auto: Any) -> None:
    name, dtype, shape = FAMILIES[family]
    folder = transformers_llm(tmp_path, name, dtype, **shape)
    wanted = auto.from_pretrained(folder, dtype="auto").eval()
    found, weights = load_model(auto, folder, "cpu", pickle=False, remote_code=False, keep_weights=True)
    assert weights is not None
    assert type(found) is type(wanted)
    theirs, ours = dict(wanted.state_dict()), dict(found.state_dict())
    assert theirs.keys() == ours.keys()
    assert all(ours[each].dtype == theirs[each].dtype and torch.equal(ours[each], theirs[each]) for each in theirs)
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        weights.drop()
        weights.to("cpu")
        assert torch.equal(found(ids)[0], wanted(ids)[0])
    if auto is AutoModelForCausalLM:
        assert found.generation_config.to_dict() == wanted.generation_config.to_dict()


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), (None, torch.float32)])
def test_piece_by_piece_it_is_the_same_model_in_whatever_precision(
    tmp_path: Path, precision: str | None, dtype: torch.dtype
) -> None:
    folder = transformers_llm(tmp_path, "llama", torch.float32, **SHAPE)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    found, weights = load_model(
        AutoModelForCausalLM, folder, "cpu", pickle=False, remote_code=False, keep_weights=False, piece_by_piece=True,
        precision=precision,
    )  # fmt: skip
    assert weights is None
    assert {tensor.dtype for tensor in found.parameters()} == {dtype}
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        assert torch.allclose(found(ids)[0].float(), whole(ids)[0], atol=0.05)
