"""What looks at every token while transformers generates."""

from collections.abc import Callable

import torch
from transformers import LogitsProcessor, StoppingCriteria

from workers.runtimes.torch_runner.request import Refused
from workers.runtimes.torch_runner.text import Detokenizer, StopStrings


class Watch(StoppingCriteria):
    """Delivers text as it comes, and ends the generation at a stop string or when nobody wants it any more.

    Called by transformers after each token, with ids of shape [1, tokens].
    """

    def __init__(
        self, detokenizer: Detokenizer, stops: StopStrings, deliver: Callable[[str], None], unwanted: Callable[[], bool]
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._deliver = deliver
        self._unwanted = unwanted
        self.count = 0
        self.last: int | None = None
        self.stopped = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.last = int(input_ids[0, -1])
        self.count += 1
        self._show(self._stops.push(self._detokenizer.push(self.last)))
        self.stopped = self._stops.hit or self._unwanted()
        return torch.full((1,), self.stopped, dtype=torch.bool, device=input_ids.device)

    def flush(self) -> None:
        """Deliver what was held back for the rest of a character or of a stop string."""
        self._show(self._stops.push(self._detokenizer.flush()))
        self._show(self._stops.flush())

    def _show(self, text: str) -> None:
        if text:
            self._deliver(text)


class Finite(LogitsProcessor):
    """Refuses logits, of shape [1, vocabulary], with a NaN or an infinity that no processor put there."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not bool((scores.isfinite() | scores.isneginf()).all()) or bool(scores.isneginf().all()):
            raise Refused(500, "numbers_not_finite", "The model's numbers are not finite.")
        return scores
