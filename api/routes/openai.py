"""The OpenAI dialect: clients that speak it reach the active model with no change but the address."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from api.deps import Front, FrontDep, run_sync
from shared.asks import ASKS, AskPath, ChatBody, CompletionBody, EmbeddingBody, ImageBody, SpeechBody
from shared.db import catalog
from shared.states import ResidencyState

router = APIRouter(prefix="/v1", tags=["openai"])
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}}}
}
SOUND: dict[int | str, dict[str, Any]] = {200: {"content": {"audio/wav": {}}}}


@router.post("/chat/completions", summary="Chat with the active model", response_model=None, responses=STREAM)
async def chat(front: FrontDep, request: Request, body: ChatBody) -> Response:
    """Streams when `stream` is true. A swap in the meantime delays the answer; it does not fail it."""
    return await _forward(front, request, "chat/completions", body)


@router.post("/completions", summary="Complete a prompt with the active model", response_model=None, responses=STREAM)
async def completions(front: FrontDep, request: Request, body: CompletionBody) -> Response:
    """Streams when `stream` is true. A swap in the meantime delays the answer; it does not fail it."""
    return await _forward(front, request, "completions", body)


@router.post("/embeddings", summary="Vectors of texts", response_model=None)
async def embeddings(front: FrontDep, request: Request, body: EmbeddingBody) -> Response:
    """Of length 1, so that the inner product of two is how alike the texts are."""
    return await _forward(front, request, "embeddings", body)


@router.post("/images/generations", summary="Images of a text", response_model=None)
async def images(front: FrontDep, request: Request, body: ImageBody) -> Response:
    """PNG files in base64. A client that leaves ends the work at the next step."""
    return await _forward(front, request, "images/generations", body)


@router.post("/audio/speech", summary="Speech or music of a text", response_model=None, responses=SOUND)
async def speech(front: FrontDep, request: Request, body: SpeechBody) -> Response:
    """A WAV file. A client that leaves ends music at the next step."""
    return await _forward(front, request, "audio/speech", body)


@router.get("/models", summary="Models that can be asked now")
async def models(front: FrontDep) -> dict[str, Any]:
    """Models in memory, in OpenAI's shape."""
    ready = await run_sync(_ready, front)
    return {"object": "list", "data": ready}


async def _forward(front: Front, request: Request, path: AskPath, body: BaseModel) -> Response:
    return await front.gateway.forward(path, ASKS[path].passed_on(body), request.is_disconnected)


def _ready(front: FrontDep) -> list[dict[str, Any]]:
    with front.database.reading() as session:
        rows = catalog.in_state(session, ResidencyState.READY)
    return [
        {"id": row.model_id, "object": "model", "created": int(row.started_at), "owned_by": "modelyard"} for row in rows
    ]
