"""Vectors of texts, by both runtimes, against real children with real, tiny models."""

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from deploy.demo.models import make_gguf_llm, make_transformers_llm, write_tokenizer
from shared.errors import Failed
from shared.settings import RunnerSettings
from tests.system.conftest import needs_llama_server
from workers.runtimes.base import Request, Runtime
from workers.runtimes.llamacpp import LlamaCppEmbedder
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchEmbedder, TorchRunner
from workers.store.essentials import files_of
from workers.store.facts import read_facts

KEY = "0123456789abcdef-the-runner-key"
SETTINGS = RunnerSettings(readiness_interval=0.05)
CONTEXT = 128
TEXTS = ["a first text", "another one that is a little longer than the first", "a first text"]


def a_language_model(folder: Path) -> None:
    make_transformers_llm(folder, seed=1, weight_bytes=1_000_000, name="tiny")


def a_gguf(folder: Path) -> None:
    needs_llama_server()
    make_gguf_llm(folder / "tiny.gguf", seed=1)


def an_encoder(folder: Path) -> None:
    """As sentence-transformers publishes one that pools its first token."""
    write_tokenizer(folder)
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "bert", vocab_size=8192, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=CONTEXT,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


CASES: dict[str, tuple[Callable[[Path], None], Callable[[RunnerSettings], Runtime], str | None]] = {
    "a language model": (a_language_model, TorchEmbedder, None),
    "an encoder": (an_encoder, TorchEmbedder, "cls"),
    "a GGUF": (a_gguf, LlamaCppEmbedder, None),
}


@pytest.fixture(scope="module", params=list(CASES))
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    make, runtime, pooling = CASES[request.param]
    folder = tmp_path_factory.mktemp("model")
    make(folder)
    facts = read_facts(files_of(folder)).to_dict()
    assert facts.get("pooling") == pooling
    asked = Request(
        folder, "tiny", "127.0.0.1", 0, KEY, "cpu", CONTEXT, pooling=facts.get("pooling", "mean")
    )  # fmt: skip
    with ThreadPoolExecutor(1) as spawn:
        runner = Runner.start(runtime(SETTINGS), asked, spawn, SETTINGS, tmp_path_factory.mktemp("logs"))
        try:
            runner.wait_ready(lambda: None)
            runner.probe()
            with httpx.Client(
                base_url=runner.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
            ) as client:
                yield client
        finally:
            runner.stop(5)


def vectors(client: httpx.Client, texts: list[str]) -> list[list[float]]:
    answer = client.post("/v1/embeddings", json={"model": "tiny", "input": texts})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [one["index"] for one in data] == list(range(len(texts)))
    return [one["embedding"] for one in data]


def alike(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_equal_texts_have_equal_vectors_of_length_one(client: httpx.Client) -> None:
    first, second, third = vectors(client, TEXTS)
    assert len(first) == len(second) >= 64
    assert all(math.isclose(alike(one, one), 1, rel_tol=1e-3) for one in (first, second, third))
    assert alike(first, third) > 0.9999
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 1e-4, "another text has another vector"


def test_company_changes_nothing(client: httpx.Client) -> None:
    """Texts are padded to one length to go through the model together."""
    together = vectors(client, [*TEXTS, *TEXTS[:2] * 10])
    alone = [vectors(client, [text])[0] for text in TEXTS[:2]]
    for one, other in zip(together[:2], alone, strict=True):
        assert alike(one, other) > 0.999


def test_in_base64_it_is_the_same(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"model": "t", "input": TEXTS[0], "encoding_format": "base64"}).json()
    raw = base64.b64decode(answer["data"][0]["embedding"])
    found = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    assert alike(found, vectors(client, TEXTS[:1])[0]) > 0.9999
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_what_is_too_long_is_refused_and_it_goes_on(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"model": "tiny", "input": "long " * 10 * CONTEXT})
    assert answer.is_error, answer.text  # llama-server has a 500 for it
    assert "tokens" in answer.text
    assert vectors(client, TEXTS[:1])


def test_it_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    """Both poolings that texts are made into one vector with, against the definition."""
    from workers.runtimes.torch_runner.embed import Embedder
    from workers.runtimes.torch_runner.request import Generation, Options

    an_encoder(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    for pooling, pooled in (
        ("mean", [one.mean(dim=0) for one in hidden]), ("cls", [one[0] for one in hidden]),
        ("last", [one[-1] for one in hidden]),
    ):  # fmt: skip
        engine = Embedder(tmp_path, "cpu", CONTEXT, pooling=pooling)
        engine._load()
        found = torch.tensor(engine._answer(Generation(TEXTS, Options(), lambda _: None)).vectors)
        wanted = torch.nn.functional.normalize(torch.stack(pooled), dim=1)
        assert torch.allclose(found, wanted, atol=1e-5), pooling


def test_an_encoder_does_not_generate_and_a_broken_one_is_found_out(tmp_path: Path) -> None:
    """transformers would give it a head of random numbers, and answer with noise."""
    an_encoder(tmp_path)
    assert not TorchRunner(SETTINGS).accepts(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    asked = Request(tmp_path, "tiny", "127.0.0.1", 0, KEY, "cpu", CONTEXT)
    with ThreadPoolExecutor(1) as spawn:
        runner = Runner.start(TorchEmbedder(SETTINGS), asked, spawn, SETTINGS)
        try:
            runner.wait_ready(lambda: None)
            with pytest.raises(Failed) as raised:
                runner.probe()
            assert raised.value.code == "probe_failed"
        finally:
            runner.stop(5)
