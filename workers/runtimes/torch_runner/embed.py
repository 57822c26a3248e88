"""Vectors of texts: the same engine, whose model has no words to say."""

import time
from pathlib import Path
from typing import Any

from workers.runtimes.torch_runner.generate import Engine
from workers.runtimes.torch_runner.request import Generation, Outcome, Refused


class Embedder(Engine):
    """One loaded encoder, or the layers of a language model, and the thread that works with it.

    A generation's prompt is a list of texts here, and its outcome has their vectors, each of length 1.

    Args:
        pooling: `mean` of all tokens, the first one (`cls`), or the `last` one.
    """

    def __init__(self, folder: Path, device: str, context_length: int, *, pooling: str, **allowed: Any) -> None:
        super().__init__(folder, device, context_length, **allowed)
        self._pooling = pooling

    def _load(self) -> None:
        super()._load()
        # Some tokenizers have no padding of their own; what it is does not matter where the mask says to pass it over.
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        self._tokenizer.padding_side = "right"

    def _auto_class(self) -> Any:
        from transformers import AutoModel

        return AutoModel

    def _answer(self, generation: Generation) -> Outcome:
        import torch

        started = time.monotonic()
        encoded = self._tokenizer(generation.prompt, padding=True, return_tensors="pt").to(self._device)
        mask = encoded["attention_mask"]
        lengths = mask.sum(dim=1)
        if int(lengths.min()) < 1:
            raise Refused(400, "empty_prompt", "A text holds no token.")
        if int(lengths.max()) > self._context_length:
            message = f"A text has {int(lengths.max())} tokens; {self._context_length} are the most."
            raise Refused(400, "context_length_exceeded", message)
        with torch.inference_mode():
            hidden = self._model(input_ids=encoded["input_ids"], attention_mask=mask).last_hidden_state
            vectors = torch.nn.functional.normalize(self._pooled(hidden, mask, lengths).float(), dim=1)
        if not bool(torch.isfinite(vectors).all()):
            raise Refused(500, "not_finite", "The model's numbers are not finite.")
        return Outcome("stop", int(lengths.sum()), 0, time.monotonic() - started, vectors.tolist())

    def _pooled(self, hidden: Any, mask: Any, lengths: Any) -> Any:
        """Shapes: hidden (texts, tokens, width), mask (texts, tokens), lengths (texts); the answer (texts, width)."""
        import torch

        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "last":
            return hidden[torch.arange(hidden.shape[0], device=hidden.device), lengths - 1]
        return (hidden * mask.unsqueeze(-1)).sum(dim=1) / lengths.unsqueeze(-1)
