"""What an engine is asked for, and what it delivers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

Prompt = str | list[dict[str, str]]
"""A text to go on with, or the messages of a chat (`role`, `content`)."""
Texts = list[str]
"""To make vectors of."""


class Refused(Exception):
    """This request cannot be served, and why. `code` is stable; `status` is for HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Options:
    """How to generate. None leaves a value to the model's own generation config."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    check_numbers: bool = False
    """Refuse to answer from logits that are not finite; costs a device synchronisation per token."""


@dataclass(frozen=True)
class Outcome:
    """How a generation ended; always the last thing delivered, unless an exception is."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    vectors: list[list[float]] = field(default_factory=list)
    """Of an embedding model, one for each text."""


Event = str | Outcome | Exception


@dataclass
class Generation:
    """One request on its way. `deliver` is called from the engine's thread: texts, then an Outcome or an exception."""

    prompt: Prompt | Texts
    options: Options
    deliver: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
