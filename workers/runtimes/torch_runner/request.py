"""What an engine is asked for, and what it delivers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

Prompt = str | list[dict[str, str]]
"""A text to go on with, or the messages of a chat (`role`, `content`)."""
Texts = list[str]
"""To make vectors of."""


@dataclass(frozen=True)
class Drawing:
    """What images are to show, and how. None leaves a value to the model's pipeline."""

    prompt: str
    n: int = 1
    size: tuple[int, int] | None = None
    """Width and height in pixels."""
    steps: int | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class Filming(Drawing):
    """What a video is to show, and how."""

    frames: int | None = None
    rate: float = 8.0
    """Frames a second."""


@dataclass(frozen=True)
class Sounding:
    """What is to be heard, and how."""

    text: str
    voice: str | None = None
    """The number of a speaker, for a model that has several."""
    speed: float = 1.0
    seconds: float | None = None
    """Of music."""
    seed: int | None = None


class Refused(Exception):
    """This request cannot be served, and why. `code` is stable; `status` is for HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Options:
    """How to generate text. None leaves a value to the model's own generation config."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """0 takes all tokens."""
    min_p: float | None = None
    repeat_penalty: float | None = None
    thinking: bool | None = None
    """For templates that know it."""
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
    images: list[bytes] = field(default_factory=list)
    """PNG files."""
    sound: bytes = b""
    """A WAV file."""
    video: bytes = b""
    """An MP4 file."""


Event = str | Outcome | Exception


@dataclass
class Generation:
    """One request on its way. `deliver` is called from the engine's thread: texts, then an Outcome or an exception."""

    prompt: Prompt | Texts | Drawing | Sounding
    options: Options
    deliver: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
