"""What the formula says that models take, beside what they take: several families and number types, in real runners.

A cheap part of `make estimates`, which has more of them, in their usual sizes, and at work.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from deploy.demo.models import make_gguf_llm
from shared import fit
from shared.states import EMBEDDING
from tests.benchmarks.estimates import Case, measured
from tests.factories.families import encoder, transformers_llm
from tests.system.conftest import needs_llama_server

LLAMA_LIKE = {
    "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "num_hidden_layers": 4,
}  # fmt: skip
FOR_TORCH = (
    Case("Llama F32", "llm", lambda to: transformers_llm(to, "llama", torch.float32, **LLAMA_LIKE)),
    Case("Qwen2 BF16", "llm", lambda to: transformers_llm(to, "qwen2", torch.bfloat16, **LLAMA_LIKE)),
    Case("GPT-2 F16", "llm", lambda to: transformers_llm(to, "gpt2", torch.float16, n_embd=512, n_layer=4, n_head=8)),
    Case("BERT F32", EMBEDDING, lambda to: encoder(to, hidden_size=512, num_hidden_layers=4, num_attention_heads=8)),
)
AS_GGUF = (
    Case("GGUF Q4_0", "llm", lambda to: make_gguf_llm(to / "model.gguf", 1, 80_000_000, numbers_as="Q4_0")),
    Case("GGUF F16", "llm", lambda to: make_gguf_llm(to / "model.gguf", 1, 200_000_000)),
)


@pytest.mark.parametrize("cases", [FOR_TORCH, AS_GGUF], ids=["torch", "llama.cpp"])
def test_estimates_hold_before_anything_was_measured_and_after(tmp_path: Path, cases: Sequence[Case]) -> None:
    if cases is AS_GGUF:
        needs_llama_server()
    with ThreadPoolExecutor(1) as spawn:
        taken = [measured(case, tmp_path / case.name, spawn, at_work=False) for case in cases]
    for one in taken:
        first, then = one.need(), one.need(taken)
        later = first.total - one.footprint.predicted  # what only its work takes
        off, learned = (one.at_rest + later - need.total for need in (first, then))
        figures = (first.weights, one.footprint.predicted, one.at_rest, off, learned)
        print(one.case.name, *(round(figure / fit.MIB) for figure in figures))
        assert abs(off) <= first.spread, one.case.name
        assert abs(learned) <= then.spread < first.spread, one.case.name
