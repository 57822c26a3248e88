"""What the torch runner answers: health, one plain route for probes, and OpenAI's completion routes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from workers.runtimes.torch_runner.generate import Engine
from workers.runtimes.torch_runner.openai import (
    COMPLETION_TOKENS,
    Body,
    ChatCompletion,
    Completion,
    Embedding,
    ImageGeneration,
    Reply,
    Run,
    Speech,
    VideoGeneration,
    images_reply,
)
from workers.runtimes.torch_runner.request import (
    Drawing,
    Event,
    Filming,
    Generation,
    Options,
    Outcome,
    Prompt,
    Refused,
    Sounding,
    Texts,
)
from workers.runtimes.torch_runner.sound import SoundMaker

UNAVAILABLE = 503
PROBE_SECONDS = 0.2
"""Of music."""
PROBE_SIZE, PROBE_FRAMES = (64, 64), 2
"""Of a video."""
BATCH = 16
"""Texts that go through the model together: more would hold up who comes next."""


class Listener:
    """Carries events from the engine's thread to one request on the event loop.

    Raises:
        Refused: the model is loading, or the queue is full.
    """

    def __init__(self, engine: Engine, prompt: Prompt | Texts | Drawing | Sounding, options: Options) -> None:
        if not engine.ready.is_set():
            raise Refused(UNAVAILABLE, "loading", "The model is still loading.")
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._generation = Generation(prompt, options, self._deliver)
        engine.submit(self._generation)

    async def next(self) -> str | Outcome:
        """The next text, or the outcome, which is the last. Raises what went wrong in the engine."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def collect(self) -> tuple[str, Outcome]:
        """The whole text."""
        texts: list[str] = []
        while isinstance(event := await self.next(), str):
            texts.append(event)
        return "".join(texts), event

    def cancel(self) -> None:
        """Nobody listens any more: the engine ends this generation at its next token, or step."""
        self._generation.cancelled.set()

    def _deliver(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class EventStream(StreamingResponse):
    """Server-sent events; however the response ends, the generation ends with it."""

    def __init__(self, events: AsyncIterator[str], listener: Listener) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._listener.cancel()


def create_app(engine: Engine, model_id: str) -> FastAPI:
    """The routes for an engine that generates; whoever serves this must ask for a key first."""
    app = _create(engine, model_id)

    @app.post("/run")
    async def run(body: Run, request: Request) -> Response:
        listener = Listener(engine, body.prompt, Options(body.max_tokens, temperature=0, check_numbers=True))
        text, outcome = await _unless_gone(request, listener)
        return JSONResponse({"text": text, "tokens": outcome.completion_tokens, "seconds": outcome.seconds})

    @app.post("/v1/completions")
    async def completions(body: Completion, request: Request) -> Response:
        listener = Listener(engine, body.prompt, body.options(COMPLETION_TOKENS))
        return await _answer(request, body, listener, Reply(model_id, chat=False))

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatCompletion, request: Request) -> Response:
        listener = Listener(engine, body.prompt(), body.options(None))
        return await _answer(request, body, listener, Reply(model_id, chat=True))

    return app


def create_embedding_app(engine: Engine, model_id: str) -> FastAPI:
    """The routes for an engine that makes vectors."""
    app = _create(engine, model_id)

    @app.post("/v1/embeddings")
    async def embeddings(body: Embedding, request: Request) -> Response:
        vectors: list[list[float]] = []
        tokens = 0
        for start in range(0, len(body.input), BATCH):
            listener = Listener(engine, body.input[start : start + BATCH], Options())
            _, outcome = await _unless_gone(request, listener)
            vectors += outcome.vectors
            tokens += outcome.prompt_tokens
        return JSONResponse(body.reply(model_id, vectors, tokens))

    return app


def create_image_app(engine: Engine, model_id: str) -> FastAPI:
    """The routes for an engine that makes images."""
    app = _create(engine, model_id)

    @app.post("/v1/images/generations")
    async def images(body: ImageGeneration, request: Request) -> Response:
        listener = Listener(engine, body.drawing(), Options())
        _, outcome = await _unless_gone(request, listener)
        return JSONResponse(images_reply(outcome.images))

    return app


def create_video_app(engine: Engine, model_id: str) -> FastAPI:
    """The routes for an engine that makes videos."""
    app = _create(engine, model_id)

    @app.post("/run")
    async def run(body: Run, request: Request) -> Response:
        short = Filming(body.prompt, size=PROBE_SIZE, steps=1, seed=0, frames=PROBE_FRAMES)
        _, outcome = await _unless_gone(request, Listener(engine, short, Options()))
        return JSONResponse({"bytes": len(outcome.video), "seconds": outcome.seconds})

    @app.post("/v1/videos/generations")
    async def videos(body: VideoGeneration, request: Request) -> Response:
        _, outcome = await _unless_gone(request, Listener(engine, body.filming(), Options()))
        return Response(outcome.video, media_type="video/mp4")

    return app


def create_sound_app(engine: SoundMaker, model_id: str) -> FastAPI:
    """The routes for an engine that makes sound."""
    app = _create(engine, model_id)

    @app.post("/run")
    async def run(body: Run, request: Request) -> Response:
        short = Sounding(body.prompt, seconds=PROBE_SECONDS if engine.plays else None, seed=0)
        _, outcome = await _unless_gone(request, Listener(engine, short, Options()))
        return JSONResponse({"bytes": len(outcome.sound), "seconds": outcome.seconds})

    @app.post("/v1/audio/speech")
    async def speech(body: Speech, request: Request) -> Response:
        _, outcome = await _unless_gone(request, Listener(engine, body.sounding(), Options()))
        return Response(outcome.sound, media_type="audio/wav")

    return app


def _create(engine: Engine, model_id: str) -> FastAPI:
    """What all have."""
    app = FastAPI(title="torch runner", openapi_url=None)

    @app.get("/health")
    async def health() -> Response:
        ready = engine.ready.is_set()
        status = "asleep" if engine.asleep else "ok" if ready else "loading"
        body = {"status": status, "progress": engine.progress(), "waiting": engine.waiting}
        return JSONResponse(body, 200 if ready else UNAVAILABLE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model_id, "object": "model", "owned_by": "modelyard"}]}

    @app.post("/sleep")
    def sleep() -> Response:
        engine.sleep()
        return JSONResponse({"status": "asleep"})

    @app.post("/wake")
    def wake() -> Response:
        engine.wake()
        return JSONResponse({"status": "ok"})

    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return problem(error.status, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        places = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return problem(400, "invalid_request_error", places)


def problem(status: int, code: str, message: str) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    headers = {"Retry-After": "1"} if status == UNAVAILABLE else None
    return JSONResponse(_error(code, message), status, headers)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "code": code}}


async def _answer(request: Request, body: Body, listener: Listener, reply: Reply) -> Response:
    if not body.stream:
        return JSONResponse(reply.whole(*await _unless_gone(request, listener)))
    # the first event decides between a stream and an error that has a status of its own
    first = await listener.next()
    return EventStream(_events(first, body, listener, reply), listener)


async def _events(first: str | Outcome, body: Body, listener: Listener, reply: Reply) -> AsyncIterator[str]:
    event, opening = first, True
    try:
        while isinstance(event, str):
            yield _sse(reply.chunk(event, first=opening))
            event, opening = await listener.next(), False
    except Exception as error:  # noqa: BLE001 - the status is sent already: the stream itself must say it
        refused = error if isinstance(error, Refused) else Refused(500, "internal_error", "The generation failed.")
        yield _sse(_error(refused.code, str(refused)))
        return
    yield _sse(reply.chunk(None, event.finish_reason, first=opening))
    if body.stream_options.include_usage:
        yield _sse(reply.usage_chunk(event))
    yield "data: [DONE]\n\n"


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, listener: Listener) -> tuple[str, Outcome]:
    """The whole answer; given up as soon as the client hangs up."""
    work = asyncio.ensure_future(listener.collect())
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Refused(499, "client_closed_request", "The client hung up.")
        return work.result()
    finally:
        listener.cancel()
        for task in (work, gone):
            task.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
