"""Models of several families, with random weights in the formats and number types that people publish them in."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from deploy.demo.models import write_tokenizer

VOCABULARY = 8192


def transformers_llm(folder: Path, family: str, dtype: torch.dtype, **shape: Any) -> Path:
    """A causal language model as its publisher would save it."""
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, **shape)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
