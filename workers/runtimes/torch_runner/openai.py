"""The shapes of OpenAI's completion routes: what comes in, what goes out."""

import base64
import struct
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from workers.runtimes.torch_runner.request import Drawing, Filming, Options, Outcome, Prompt, Sounding

MAX_TOKENS = 1_000_000
COMPLETION_TOKENS = 16
"""What OpenAI's `/v1/completions` gives when nothing is asked for; a chat may fill the context."""


def _text(content: Any) -> Any:
    """The text of a message; of a list of parts, their texts joined. Other parts (images) are left for a refusal."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


class Message(BaseModel):
    """One turn of a chat."""

    role: str
    content: Annotated[str, BeforeValidator(_text)]


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class TemplateOptions(BaseModel):
    """What the chat template is told."""

    enable_thinking: bool | None = None


class Body(BaseModel):
    """What both routes take. Fields that this runner does not know are passed over, as OpenAI's clients send many."""

    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1000)
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, gt=0, le=2)
    chat_template_kwargs: TemplateOptions = TemplateOptions()
    stop: Annotated[list[str], BeforeValidator(_many), Field(max_length=16)] = []
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    def options(self, default_tokens: int | None) -> Options:
        """As the engine takes them."""
        limit = self.max_completion_tokens or self.max_tokens or default_tokens
        return Options(
            limit, self.temperature, self.top_p, self.top_k, self.min_p, self.repeat_penalty,
            self.chat_template_kwargs.enable_thinking, tuple(self.stop), self.seed,
        )  # fmt: skip


class Completion(Body):
    """POST /v1/completions."""

    prompt: Annotated[str, BeforeValidator(_one)]


class ChatCompletion(Body):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)

    def prompt(self) -> Prompt:
        """As the engine takes it."""
        return [{"role": one.role, "content": one.content} for one in self.messages]


class Embedding(BaseModel):
    """POST /v1/embeddings."""

    input: Annotated[list[str], BeforeValidator(_many), Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"

    def reply(self, model_id: str, vectors: list[list[float]], tokens: int) -> dict[str, Any]:
        """In base64 little-endian float32, as OpenAI's clients ask for by themselves."""
        written = [_packed(vector) for vector in vectors] if self.encoding_format == "base64" else vectors
        data = [{"object": "embedding", "index": number, "embedding": each} for number, each in enumerate(written)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": model_id, "data": data, "usage": usage}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


class ImageGeneration(BaseModel):
    """POST /v1/images/generations."""

    prompt: str = Field(min_length=1, max_length=4000)
    n: int = Field(1, ge=1, le=4)
    size: str | None = Field(None, pattern=r"^\d{2,4}x\d{2,4}$")
    steps: int | None = Field(None, ge=1, le=100)
    seed: int | None = Field(None, ge=0, lt=2**32)
    negative_prompt: str | None = Field(None, max_length=4000)
    guidance_scale: float | None = Field(None, ge=0, le=100)

    def drawing(self) -> Drawing:
        """As the engine takes it."""
        width, _, height = (self.size or "").partition("x")
        return Drawing(
            self.prompt, self.n, (int(width), int(height)) if self.size else None, self.steps, self.seed,
            self.negative_prompt, self.guidance_scale,
        )  # fmt: skip


class VideoGeneration(ImageGeneration):
    """POST /v1/videos/generations."""

    n: Literal[1] = 1
    frames: int | None = Field(None, ge=1, le=1000)
    fps: float = Field(8.0, ge=1, le=60)

    def filming(self) -> Filming:
        """As the engine takes it."""
        return Filming(**vars(self.drawing()), frames=self.frames, rate=self.fps)


class Speech(BaseModel):
    """POST /v1/audio/speech."""

    input: str = Field(min_length=1, max_length=4096)
    voice: str | None = Field(None, max_length=64)
    speed: float | None = Field(None, ge=0.25, le=4)
    seconds: float | None = Field(None, gt=0, le=30)
    seed: int | None = Field(None, ge=0, lt=2**32)

    def sounding(self) -> Sounding:
        """As the engine takes it."""
        return Sounding(self.input, self.voice, self.speed or 1.0, self.seconds, self.seed)


def images_reply(images: list[bytes]) -> dict[str, Any]:
    """PNG files in base64."""
    data = [{"b64_json": base64.b64encode(image).decode("ascii")} for image in images]
    return {"created": int(time.time()), "data": data}


class Run(BaseModel):
    """POST /run."""

    prompt: str
    max_tokens: int = Field(COMPLETION_TOKENS, ge=1, le=MAX_TOKENS)


class Reply:
    """Writes the answer to one request, whole or in chunks."""

    def __init__(self, model_id: str, chat: bool) -> None:
        self._chat = chat
        prefix, self._object = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_id}

    def whole(self, text: str, outcome: Outcome) -> dict[str, Any]:
        """The one object of an answer that is not streamed."""
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": outcome.finish_reason}
        return {**self._head, "object": self._object, "choices": [choice], "usage": usage(outcome)}

    def chunk(self, text: str | None, finish_reason: str | None = None, first: bool = False) -> dict[str, Any]:
        """One piece of a stream; the last one has a finish reason and no text."""
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if text is not None:
            delta["content"] = text
        content = {"delta": delta} if self._chat else {"text": text or ""}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self._chunk_object, "choices": [choice]}

    def usage_chunk(self, outcome: Outcome) -> dict[str, Any]:
        """What `stream_options.include_usage` asks for: no choices, the counts."""
        return {**self._head, "object": self._chunk_object, "choices": [], "usage": usage(outcome)}

    @property
    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self._chat else self._object


def usage(outcome: Outcome) -> dict[str, int]:
    """Token counts."""
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
    }
