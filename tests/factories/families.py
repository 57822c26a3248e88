"""Models of several families, with random weights in the formats and number types that people publish them in."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from deploy.demo.models import write_tokenizer

VOCABULARY = 8192


def transformers_llm(folder: Path, family: str, dtype: torch.dtype, **shape: Any) -> Path:
    """A causal language model as its publisher would save it."""
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, **shape)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def encoder(folder: Path, **shape: Any) -> Path:
    """One that makes vectors of texts, as sentence-transformers publishes one that pools its first token."""
    config = AutoConfig.for_model("bert", vocab_size=VOCABULARY, **shape)
    AutoModel.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
