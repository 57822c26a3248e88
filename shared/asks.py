"""What can be asked of a model, over HTTP or as a job: OpenAI's shapes, and nothing of them that is not known here."""

from collections.abc import Set
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.states import Output

SAID_TO_US = {"user", "n", "store", "metadata", "tools", "response_format", "logprobs", "parallel_tool_calls"}
"""Accepted at their harmless values, so that clients work that always send them; nothing for a runner."""
IMAGE_SAID_TO_US = {"user", "response_format"}
SIDE_STEP, SMALLEST_SIDE, LARGEST_SIDE = 8, 64, 2048
"""Pixels of an image's sides: pipelines work on squares of eight, and fewer than eight such are no image."""


class Ask(BaseModel):
    """What both kinds of completion take; anything else is refused, never passed to a runner."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=96, description="A model id, or a type such as `llm`.")]
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1000, description="As llama.cpp has it; 0 takes all.")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=2, description="1 is none.")] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: Annotated[str, Field(max_length=200)] | Annotated[list[str], Field(max_length=8)] | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    user: Annotated[str, Field(max_length=200)] | None = None
    n: Literal[1] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, Field(pattern="^(system|developer|user|assistant)$")]
    content: str | list[TextPart]
    name: Annotated[str, Field(max_length=64)] | None = None


class TemplateOptions(BaseModel):
    """What a model's chat template may be told."""

    model_config = ConfigDict(extra="forbid")

    enable_thinking: bool


class ChatBody(Ask):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000)]
    chat_template_kwargs: TemplateOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    logprobs: Literal[False] | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("messages")
    @classmethod
    def _joined(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        """Parts of text become one text: runners need not know the difference."""
        for message in messages:
            if isinstance(message.content, list):
                message.content = "\n".join(part.text for part in message.content)
        return messages

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        """The older name of the same limit is the one that every runtime knows."""
        if self.max_completion_tokens is not None:
            self.max_tokens, self.max_completion_tokens = self.max_completion_tokens, None
        return self


class CompletionBody(Ask):
    prompt: str


class EmbeddingBody(BaseModel):
    """Texts to make vectors of."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "embedding", "input": ["one text", "another"]}]}
    )

    model: Annotated[str, Field(max_length=96, description="A model id, or the type `embedding`.")]
    input: Annotated[str, Field(max_length=1_000_000)] | Annotated[list[str], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    user: Annotated[str, Field(max_length=200)] | None = None


def _sides(size: str) -> str | None:
    """Raises: ValueError."""
    if size == "auto":
        return None
    if any(int(side) % SIDE_STEP or not SMALLEST_SIDE <= int(side) <= LARGEST_SIDE for side in size.split("x")):
        message = f"width and height are multiples of {SIDE_STEP} from {SMALLEST_SIDE} to {LARGEST_SIDE}"
        raise ValueError(message)
    return size


class Shown(BaseModel):
    """What both images and videos take. Only `prompt` has to be said; what is left out is as the model has it."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=96, description="A model id, or a type such as `image_gen`.")]
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    size: (
        Annotated[
            str,
            Field(pattern="^([0-9]{2,4}x[0-9]{2,4}|auto)$", description="Width and height."),
            AfterValidator(_sides),
        ]
        | None
    ) = None
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    seed: (
        Annotated[int, Field(ge=0, lt=2**32, description="Asked again with the same, what is made is the same.")] | None
    ) = None
    negative_prompt: Annotated[str, Field(max_length=4000, description="What it is not to show.")] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, description="How closely it keeps to the prompt.")] | None = (
        None
    )
    user: Annotated[str, Field(max_length=200)] | None = None


class ImageBody(Shown):
    """What images are to show."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "image_gen", "prompt": "A lighthouse at dusk"}]}
    )

    n: Annotated[int, Field(ge=1, le=4, description="How many; the second has the next seed, and so on.")] = 1
    response_format: Literal["b64_json"] = "b64_json"


class VideoBody(Shown):
    """What a video is to show; in a job, whose result has the file."""

    frames: Annotated[int, Field(ge=1, le=1000, description="16 where nothing is said.")] | None = None
    fps: Annotated[float, Field(ge=1, le=60, description="Frames a second; 8 where nothing is said.")] | None = None
    response_format: Literal["mp4"] = "mp4"


class SpeechBody(BaseModel):
    """What to say; or, of a model of the type `music`, what to play."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "tts", "input": "Good morning.", "seed": 1}]}
    )

    model: Annotated[str, Field(max_length=96, description="A model id, or the type `tts` or `music`.")]
    input: Annotated[str, Field(min_length=1, max_length=4096)]
    voice: (
        Annotated[str, Field(max_length=64, description="The number of one, for a model that has several.")] | None
    ) = None
    speed: Annotated[float, Field(ge=0.25, le=4, description="Of speech.")] | None = None
    seconds: Annotated[float, Field(gt=0, le=30, description="Of music; 10 where nothing is said.")] | None = None
    seed: (
        Annotated[int, Field(ge=0, lt=2**32, description="Asked again with the same, the sound is the same.")] | None
    ) = None
    response_format: Literal["wav"] = "wav"


AskPath = Literal[
    "chat/completions", "completions", "embeddings", "images/generations", "audio/speech", "videos/generations"
]


class Asked(NamedTuple):
    """What an endpoint takes, and what a model makes of it."""

    body: type[BaseModel]
    output: Output
    kept: Set[str]
    """Fields that are for us, and not for a runner."""

    def passed_on(self, body: BaseModel) -> dict[str, Any]:
        """What a runner gets of it."""
        return body.model_dump(exclude_none=True, exclude=set(self.kept))


ASKS: dict[str, Asked] = {
    "chat/completions": Asked(ChatBody, Output.TEXT, SAID_TO_US),
    "completions": Asked(CompletionBody, Output.TEXT, SAID_TO_US),
    "embeddings": Asked(EmbeddingBody, Output.VECTORS, SAID_TO_US),
    "audio/speech": Asked(SpeechBody, Output.SOUND, {"response_format"}),
    "images/generations": Asked(ImageBody, Output.IMAGES, IMAGE_SAID_TO_US),
    "videos/generations": Asked(VideoBody, Output.VIDEO, IMAGE_SAID_TO_US),
}
"""By the path below `/v1`."""
