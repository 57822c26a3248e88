"""The way of a request to a model: find who serves, take a lease, pass the answer on, give the lease back.

A request that meets a swap waits for it rather than fails. It is sent again only while nothing of an answer has
reached the client.

While Redis is away requests are served without a lease: the database says who serves. Each takes its lease as soon as
Redis is back, and a drain that could not see Redis waits for that, or for its whole time (`Manager._drain`). Only where
the API alone has lost Redis can a runner be stopped under such a request; it is then sent again to the new one, unless
a part of its answer has gone out.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from typing import Any, NamedTuple

import httpx
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from api.leases import HeldLeases
from api.metrics.counters import ANSWERED, FAILED, GONE, REFUSED, Counters
from shared.asks import ASKS
from shared.db.usage import Use
from shared.errors import Failed, ModelyardError, Unavailable
from shared.keys import installation_secret
from shared.routing import ANSWER_SECONDS, CONNECT_SECONDS, Route, Router, trusted
from shared.settings import Settings
from shared.states import Output

log = structlog.get_logger()

AGAIN_SECONDS = 0.05
"""Between two looks for a model that is on its way."""
TIMEOUT = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
RESENDS = 1
"""How often a request is sent again that a runner had received when it ended: it may be the reason."""
GONE_SECONDS = 0.5
"""Between two looks whether the client is still there."""
CLIENT_GONE = 499
_CUT = (
    b'\n\ndata: {"error": {"message": "The runner ended while it answered. Ask again.", "type": "server_error", '
    b'"code": "runner_died"}}\n\n'
)
"""In the middle of a stream, as OpenAI's clients understand it."""

_WORDS = {"gpuLayers": "Gpu-Layers", "device": "Device", "precision": "Precision"}
"""What an answer's model has less of, in the names of headers."""

Gone = Callable[[], Awaitable[bool]]


class Away(Enum):
    """Why a runner gave no answer."""

    BEFORE = auto()
    """It had not received the request, or asked to come again."""
    CUT = auto()
    """It had received it, and ended."""


class Waiting(NamedTuple):
    """A request that waits for its model."""

    since: float
    place: int
    """Among those that waited for the same name when it came, counted from 1."""


class Gateway:
    """Shared by all requests of one API process."""

    def __init__(self, settings: Settings, router: Router, note: Callable[[Use], None], counters: Counters) -> None:
        self._settings = settings
        self._note = note
        self._counters = counters
        self._router = router
        self._secret = installation_secret(settings)
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=limits, trust_env=False, verify=trusted(settings))
        self._leases = HeldLeases(settings)
        self._waiting: Counter[str] = Counter()
        self._looks: dict[tuple[str, Output], asyncio.Task[Route | None]] = {}

    async def start(self) -> None:
        self._leases.start()

    async def stop(self) -> None:
        await self._leases.stop()
        await self._http.aclose()

    @property
    def held(self) -> int:
        """Requests that wait for their model."""
        return self._waiting.total()

    async def forward(self, path: str, body: dict[str, Any], gone: Gone) -> Response:
        """Send a request to the model that it names, and pass the answer on as it comes.

        Args:
            gone: says whether the client has given up.

        Raises:
            NotFound, Conflict: see `Router.find`.
            Unavailable: also where the wait took too long, or too many wait already.
        """
        try:
            answer = await self._forward(path, body, gone)
        except ModelyardError as error:
            self._counters.request(FAILED if isinstance(error, Failed) else REFUSED)
            raise
        if answer.status_code == CLIENT_GONE:
            self._counters.request(GONE)
        return answer

    async def _forward(self, path: str, body: dict[str, Any], gone: Gone) -> Response:
        name, asked, waiting = str(body["model"]), ASKS[path].output, None
        began = time.monotonic()
        deadline = began + self._settings.api.hold_seconds
        cut = 0
        try:
            while not await gone():
                if waiting is None:
                    route = await run_in_threadpool(self._router.find, name, asked)
                else:
                    route = await self._look_together(name, asked)
                if route is not None and await self._leases.take(route.residency_id, lease := str(uuid.uuid4())):
                    answer = await self._send(route, path, body, lease, gone)
                    if isinstance(answer, httpx.Response):
                        return self._pass_on(answer, route, lease, began, waiting)
                    cut += answer is Away.CUT
                if cut > RESENDS:
                    self._note(Use(route.model_id if route else name, time.monotonic() - began, failed=True))
                    hint = "The request may be what ends it: look at the runner's log before you send it again."
                    raise Failed("runner_died", f"The runner of {name!r} ended while it worked on this request.", hint)
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "model_not_ready",
                        f"{name!r} did not become ready in time; {self._waiting[name]} requests wait for it.",
                        "Try again; see GET /api/v1/jobs.", {"waiting": self._waiting[name]}, 5,
                    )  # fmt: skip
                waiting = waiting or self._queue(name)
        finally:
            if waiting is not None:
                self._waiting[name] -= 1
                self._waiting += Counter()  # forgets the names for which nobody waits any more
        return Response(status_code=CLIENT_GONE)

    async def _look_together(self, name: str, asked: Output) -> Route | None:
        """As `Router.find`, a little later, and once for all who wait for the same: a thousand may."""
        if (look := self._looks.get((name, asked))) is None:
            look = self._looks[name, asked] = asyncio.create_task(self._look(name, asked))
        return await asyncio.shield(look)

    async def _look(self, name: str, asked: Output) -> Route | None:
        await asyncio.sleep(AGAIN_SECONDS)
        del self._looks[name, asked]  # who comes from now on has a look of its own, begun after it came
        return await run_in_threadpool(self._router.find, name, asked)

    def _queue(self, name: str) -> Waiting:
        """Raises: Unavailable, where as many wait already as may."""
        if (number := self._waiting.total()) >= self._settings.api.held_requests:
            raise Unavailable(
                "too_many_waiting", f"{number} requests wait for a model already.",
                "Try again a little later; MODELYARD_API__HELD_REQUESTS is how many may wait.", {"waiting": number}, 5,
            )  # fmt: skip
        self._waiting[name] += 1
        return Waiting(time.monotonic(), self._waiting[name])

    async def _send(
        self, route: Route, path: str, body: dict[str, Any], lease: str, gone: Gone
    ) -> "httpx.Response | Away":
        """The runner's answer, its body still to come; or why there is none."""
        asked = {**body, "model": route.name}
        request = self._http.build_request(
            "POST", f"{route.url}/v1/{path}", json=asked, headers=route.headers(self._secret)
        )
        sending = asyncio.create_task(self._http.send(request, stream=True))
        try:
            while not sending.done() and not await gone():
                await asyncio.wait({sending}, timeout=GONE_SECONDS)
            if sending.done():
                answer = sending.result()
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return answer
                self._leases.give_back(lease, answer)
                return Away.BEFORE
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._leases.give_back(lease)
            return Away.BEFORE
        except httpx.ReadTimeout:  # not asked again: it would take as long
            self._leases.give_back(lease)
            self._note(Use(route.model_id, TIMEOUT.read or 0.0, failed=True))
            raise Failed(
                "answer_timeout", f"{route.model_id!r} has not begun to answer within {TIMEOUT.read:.0f} s.",
                "Ask for less at a time, or stream the answer.",
            ) from None  # fmt: skip
        except httpx.TransportError as error:
            log.info("runner.away", residency_id=route.residency_id, error=type(error).__name__)
            self._leases.give_back(lease)
            return Away.CUT
        except BaseException:
            sending.cancel()
            self._leases.give_back(lease)
            raise
        sending.cancel()
        self._leases.give_back(lease)
        return Away.BEFORE

    def _pass_on(
        self, answer: httpx.Response, route: Route, lease: str, began: float, waited: Waiting | None
    ) -> Response:
        async def content() -> AsyncIterator[bytes]:
            failed = answer.is_server_error
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            except httpx.HTTPError:
                failed = True
                if not kind.startswith("text/event-stream"):
                    raise  # what is missing of its length tells the client
                yield _CUT
            finally:
                self._leases.give_back(lease, answer)
                took = time.monotonic() - began
                self._counters.request(REFUSED if answer.is_client_error else FAILED if failed else ANSWERED, took)
                if not answer.is_client_error:  # a request that was refused used nothing
                    self._note(Use(route.model_id, took, failed))

        kind = answer.headers.get("content-type", "application/json")
        headers = {"X-Modelyard-Model": route.model_id}
        if route.fallback_for is not None:
            headers["X-Modelyard-Fallback-For"] = route.fallback_for
            if route.context_length is not None:
                headers["X-Modelyard-Context-Length"] = str(route.context_length)
            headers |= {f"X-Modelyard-{_WORDS[name]}": str(value) for name, value in route.lowered.items()}
        if waited is not None:
            self._counters.held(held := time.monotonic() - waited.since)
            headers["X-Modelyard-Waited"] = f"{held:.3f}"
            headers["X-Modelyard-Place"] = str(waited.place)
        return StreamingResponse(content(), answer.status_code, headers, media_type=kind)
