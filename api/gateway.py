"""The way of a request to a model: find who serves, take a lease, pass the answer on, give the lease back.

A request that meets a swap waits for it rather than fails. It is sent again only while nothing of an answer has
reached the client.

While Redis is away requests are served without a lease: the database says who serves. Each takes its lease as soon as
Redis is back, and a drain that could not see Redis waits for that, or for its whole time (`Manager._drain`). Only where
the API alone has lost Redis can a runner be stopped under such a request; it is then sent again to the new one, unless
a part of its answer has gone out.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from typing import Any, NamedTuple

import httpx
import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from shared import queues
from shared.db import catalog, jobs
from shared.db.session import Database
from shared.db.tables import Model
from shared.errors import Conflict, Failed, NotFound, Unavailable
from shared.keys import installation_secret, runner_key
from shared.progress import LEASE_RENEWAL_SECONDS, LEASE_SCRIPT, LEASE_SECONDS, PATIENCE_SECONDS, RENEW_SCRIPT
from shared.settings import Settings
from shared.states import ResidencyState

log = structlog.get_logger()

AWAY_SECONDS = 1.0
"""After a failure Redis is left alone for so long."""
AGAIN_SECONDS = 0.05
"""Between two looks for a model that is on its way."""
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""An answer may take minutes; a connection to a child on this machine may not."""


RESENDS = 1
"""How often a request is sent again that a runner had received when it ended: it may be the reason."""
GONE_SECONDS = 0.5
"""Between two looks whether the client is still there."""
CLIENT_GONE = 499

Gone = Callable[[], Awaitable[bool]]


class Away(Enum):
    """Why a runner gave no answer."""

    BEFORE = auto()
    """It had not received the request, or asked to come again."""
    CUT = auto()
    """It had received it, and ended."""


class Route(NamedTuple):
    """Who answers."""

    residency_id: str
    model_id: str
    url: str


class Gateway:
    """Shared by all requests of one API process."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._secret = installation_secret(settings)
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=limits, trust_env=False)
        self._redis = redis.Redis.from_url(
            settings.redis.url.get_secret_value(), socket_connect_timeout=PATIENCE_SECONDS,
            socket_timeout=PATIENCE_SECONDS, socket_keepalive=True, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._take_lease = self._redis.register_script(LEASE_SCRIPT)
        self._renew_lease = self._redis.register_script(RENEW_SCRIPT)
        self._closing: set[asyncio.Task[None]] = set()
        self._held: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._away_until = 0.0
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew(), name="leases")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        await asyncio.gather(*self._closing)
        await self._http.aclose()
        await self._redis.aclose()

    async def forward(self, path: str, body: dict[str, Any], gone: Gone) -> Response:
        """Send a request to the model that it names, and pass the answer on as it comes.

        Args:
            gone: says whether the client has given up.

        Raises:
            NotFound: no such model or type.
            Conflict: the model is not in memory, and nobody is loading it.
            Unavailable: the wait for a swap, a restart or Redis took too long, or too many wait already.
        """
        name, request_id = str(body["model"]), str(uuid.uuid4())
        deadline = time.monotonic() + self._settings.api.hold_seconds
        cut = 0
        try:
            while not await gone():
                route = await run_in_threadpool(self._route, name)
                if route is not None and await self._lease(route, lease := str(uuid.uuid4())):
                    answer = await self._send(route, path, body, lease, gone)
                    if isinstance(answer, httpx.Response):
                        return self._pass_on(answer, route, lease)
                    cut += answer is Away.CUT
                if cut > RESENDS:
                    hint = "The request may be what ends it: look at the runner's log before you send it again."
                    raise Failed("runner_died", f"The runner of {name!r} ended while it worked on this request.", hint)
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "model_not_ready", f"{name!r} did not become ready in time.",
                        "Try again; see GET /api/v1/jobs.", None, 5,
                    )  # fmt: skip
                self._queue(request_id)
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self._waiting.discard(request_id)
        return Response(status_code=CLIENT_GONE)

    def _queue(self, request_id: str) -> None:
        """Raises: Unavailable, where as many wait already as may."""
        if request_id not in self._waiting and len(self._waiting) >= self._settings.api.held_requests:
            raise Unavailable(
                "too_many_waiting", f"{len(self._waiting)} requests wait for a model already.",
                "Try again a little later; MODELYARD_API__HELD_REQUESTS is how many may wait.", None, 5,
            )  # fmt: skip
        self._waiting.add(request_id)

    def _route(self, name: str) -> Route | None:
        """Who answers for a model or a type now; None: it is on its way."""
        with self._database.reading() as session:
            model = session.get(Model, name)
            rows = catalog.residencies(session, [name]) if model else []
            if not model and (serving := catalog.active(session, name)):
                rows = [serving]
            ready = sorted((row for row in rows if row.state == ResidencyState.READY), key=lambda row: not row.active)
            if ready:
                return Route(ready[0].id, ready[0].model_id, str(ready[0].url))
            if any(row.active for row in rows) or jobs.switching(session, name):
                return None
            known = model is not None or name in catalog.types(session)
        if not known:
            raise NotFound("model_not_found", f"There is no model or type {name!r}.", "GET /v1/models lists them.")
        hint = (
            "Activate one: modelyard activate MODEL." if model is None else f"Activate it: modelyard activate {name}."
        )
        raise Conflict("model_not_active", f"{name!r} is not in memory.", hint)

    async def _lease(self, route: Route, lease: str) -> bool:
        """Hold the residency; False: it drains. While Redis is away a request is served all the same."""
        taken = True
        if time.monotonic() >= self._away_until:
            keys = [queues.leases_key(route.residency_id), queues.closed_key(route.residency_id)]
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    taken = bool(await self._take_lease(keys=keys, args=[lease, LEASE_SECONDS]))
            except (redis.RedisError, TimeoutError) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                log.warning("lease.unknown", error=type(error).__name__)
        if taken:
            self._held[lease] = route.residency_id
        return taken

    def _give_back(self, lease: str, answer: httpx.Response | None = None) -> None:
        """Let go, in a task of our own: the request's may be cancelled at this moment."""
        task = asyncio.create_task(self._let_go(self._held.pop(lease, None), lease, answer))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _let_go(self, residency_id: str | None, lease: str, answer: httpx.Response | None) -> None:
        if answer is not None:
            with contextlib.suppress(httpx.HTTPError):
                await answer.aclose()
        if residency_id is not None:
            with contextlib.suppress(redis.RedisError):  # it runs out by itself
                await self._redis.zrem(queues.leases_key(residency_id), lease)

    async def _send(
        self, route: Route, path: str, body: dict[str, Any], lease: str, gone: Gone
    ) -> "httpx.Response | Away":
        """The runner's answer, its body still to come; or why there is none."""
        key = runner_key(self._secret, route.residency_id)
        request = self._http.build_request(
            "POST", route.url + path, json={**body, "model": route.model_id}, headers={"Authorization": f"Bearer {key}"}
        )
        sending = asyncio.create_task(self._http.send(request, stream=True))
        try:
            while not sending.done() and not await gone():
                await asyncio.wait({sending}, timeout=GONE_SECONDS)
            if sending.done():
                answer = sending.result()
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return answer
                self._give_back(lease, answer)
                return Away.BEFORE
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._give_back(lease)
            return Away.BEFORE
        except httpx.TransportError as error:
            log.info("runner.away", residency_id=route.residency_id, error=type(error).__name__)
            self._give_back(lease)
            return Away.CUT
        except BaseException:
            sending.cancel()
            self._give_back(lease)
            raise
        sending.cancel()
        self._give_back(lease)
        return Away.BEFORE

    def _pass_on(self, answer: httpx.Response, route: Route, lease: str) -> Response:
        async def content() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                self._give_back(lease, answer)

        headers = {"X-Modelyard-Model": route.model_id}
        kind = answer.headers.get("content-type", "application/json")
        return StreamingResponse(content(), answer.status_code, headers, media_type=kind)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_RENEWAL_SECONDS if await self._renew_all() else AWAY_SECONDS)

    async def _renew_all(self) -> bool:
        """False: Redis is away; to be tried again soon, because a drain may begin."""
        for lease, residency_id in list(self._held.items()):
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._renew_lease(keys=[queues.leases_key(residency_id)], args=[lease, LEASE_SECONDS])
            except (redis.RedisError, TimeoutError):
                return False
            if lease not in self._held:  # given back meanwhile
                await self._let_go(residency_id, lease, None)
        return True
