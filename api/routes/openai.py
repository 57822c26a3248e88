"""The OpenAI dialect: clients that speak it reach the active model with no change but the address."""

from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.responses import Response

from api.deps import FrontDep, run_sync
from shared.db import catalog
from shared.states import ResidencyState

SAID_TO_US = {"user", "n", "store", "metadata", "tools", "response_format", "logprobs"}
"""Accepted at their harmless values, so that clients work that always send them; nothing for a runner."""
IMAGE_SAID_TO_US = {"user", "response_format"}
SIDE_STEP, SMALLEST_SIDE, LARGEST_SIDE = 8, 64, 2048
"""Pixels of an image's sides: pipelines work on squares of eight, and fewer than eight such are no image."""
router = APIRouter(prefix="/v1", tags=["openai"])


class Ask(BaseModel):
    """What both kinds of completion take; anything else is refused, never passed to a runner."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=96, description="A model id, or a type such as `llm`.")]
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
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


class ChatBody(Ask):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    logprobs: Literal[False] | None = None

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


@router.post("/chat/completions", summary="Chat with the active model", response_model=None)
async def chat(front: FrontDep, request: Request, body: ChatBody) -> Response:
    """Streams when `stream` is true. A swap in the meantime delays the answer; it does not fail it."""
    return await front.gateway.forward("/v1/chat/completions", _plain(body), request.is_disconnected)


@router.post("/completions", summary="Complete a prompt with the active model", response_model=None)
async def completions(front: FrontDep, request: Request, body: CompletionBody) -> Response:
    """Streams when `stream` is true. A swap in the meantime delays the answer; it does not fail it."""
    return await front.gateway.forward("/v1/completions", _plain(body), request.is_disconnected)


class EmbeddingBody(BaseModel):
    """Texts to make vectors of."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "embedding", "input": ["one text", "another"]}]}
    )

    model: Annotated[str, Field(max_length=96, description="A model id, or the type `embedding`.")]
    input: Annotated[str, Field(max_length=1_000_000)] | Annotated[list[str], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    user: Annotated[str, Field(max_length=200)] | None = None


@router.post("/embeddings", summary="Vectors of texts", response_model=None)
async def embeddings(front: FrontDep, request: Request, body: EmbeddingBody) -> Response:
    """Of length 1, so that the inner product of two is how alike the texts are."""
    return await front.gateway.forward(
        "/v1/embeddings", body.model_dump(exclude_none=True, exclude=SAID_TO_US), request.is_disconnected
    )


def _sides(size: str) -> str | None:
    """Raises: ValueError."""
    if size == "auto":
        return None
    if any(int(side) % SIDE_STEP or not SMALLEST_SIDE <= int(side) <= LARGEST_SIDE for side in size.split("x")):
        message = f"width and height are multiples of {SIDE_STEP} from {SMALLEST_SIDE} to {LARGEST_SIDE}"
        raise ValueError(message)
    return size


class ImageBody(BaseModel):
    """What to show. Only `prompt` has to be said; what is left out is as the model has it by itself."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "image_gen", "prompt": "A lighthouse at dusk"}]}
    )

    model: Annotated[str, Field(max_length=96, description="A model id, or the type `image_gen`.")]
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    n: Annotated[int, Field(ge=1, le=4, description="How many; the second has the next seed, and so on.")] = 1
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
        Annotated[int, Field(ge=0, lt=2**32, description="Asked again with the same, the image is the same.")] | None
    ) = None
    negative_prompt: Annotated[str, Field(max_length=4000, description="What it is not to show.")] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, description="How closely it keeps to the prompt.")] | None = (
        None
    )
    response_format: Literal["b64_json"] = "b64_json"
    user: Annotated[str, Field(max_length=200)] | None = None


@router.post("/images/generations", summary="Images of a text", response_model=None)
async def images(front: FrontDep, request: Request, body: ImageBody) -> Response:
    """PNG files in base64. A client that leaves ends the work at the next step."""
    return await front.gateway.forward(
        "/v1/images/generations", body.model_dump(exclude_none=True, exclude=IMAGE_SAID_TO_US), request.is_disconnected
    )


@router.get("/models", summary="Models that can be asked now")
async def models(front: FrontDep) -> dict[str, Any]:
    """Models in memory, in OpenAI's shape."""
    ready = await run_sync(_ready, front)
    return {"object": "list", "data": ready}


def _plain(body: Ask) -> dict[str, Any]:
    return body.model_dump(exclude_none=True, exclude=SAID_TO_US)


def _ready(front: FrontDep) -> list[dict[str, Any]]:
    with front.database.reading() as session:
        rows = catalog.in_state(session, ResidencyState.READY)
    return [
        {"id": row.model_id, "object": "model", "created": int(row.started_at), "owned_by": "modelyard"} for row in rows
    ]
