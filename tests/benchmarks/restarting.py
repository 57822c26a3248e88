"""The peer of row 10: a proxy that ends one llama-server and then starts the next, as small swappers do.

Requests that come meanwhile wait; those that are being answered are cut.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.addresses import free_port
from shared.settings import RunnerSettings
from workers.runtimes.llamacpp import find_binary

MODELS = "BENCH_PEER_MODELS"
"""Paths of the two GGUF files, separated by a colon."""
LOOK_SECONDS = 0.02


class Swapper:
    """One llama-server at a time."""

    def __init__(self, models: list[str]) -> None:
        self._models = models
        self._binary = find_binary(RunnerSettings())
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._http = httpx.AsyncClient(timeout=600, trust_env=False)
        self._url = self._name = ""

    async def bring(self, number: int) -> None:
        self._ready.clear()
        await self.end()
        port = free_port()
        self._url, self._name = f"http://127.0.0.1:{port}", f"model-{number}"
        self._process = await asyncio.create_subprocess_exec(
            self._binary, "-m", self._models[number], "--host", "127.0.0.1", "--port", str(port), "-c", "1024",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        while not await self._healthy():
            await asyncio.sleep(LOOK_SECONDS)
        self._ready.set()

    async def end(self) -> None:
        """At once: with requests under way, llama-server does not end by SIGTERM for as long as one cares to wait."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _healthy(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await self._http.get(f"{self._url}/health")).status_code == httpx.codes.OK
        return False

    async def ask(self, body: bytes) -> Response:
        await self._ready.wait()
        request = self._http.build_request(
            "POST", f"{self._url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
        )
        try:
            answer = await self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            return PlainTextResponse(type(error).__name__, 502)

        async def content() -> AsyncIterator[bytes]:
            async for chunk in answer.aiter_raw():
                yield chunk

        headers = {"X-Modelyard-Model": self._name}
        return StreamingResponse(content(), answer.status_code, headers, answer.headers["content-type"])


def make() -> Starlette:
    swapper = Swapper(os.environ[MODELS].split(":"))

    async def ask(request: Request) -> Response:
        return await swapper.ask(await request.body())

    async def swap(request: Request) -> Response:
        await swapper.bring(int(request.path_params["number"]))
        return PlainTextResponse("swapped")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await swapper.bring(0)
        yield
        await swapper.end()

    routes = [
        Route("/v1/chat/completions", ask, methods=["POST"]),
        Route("/swap/{number:int}", swap, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
