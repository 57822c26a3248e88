"""The way of a request to a model: find who serves, take a lease, pass the answer on, give the lease back.

A request that meets a swap waits for it rather than fails. It is sent again only while nothing of an answer has
reached the client.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import redis.asyncio as redis
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from shared import queues
from shared.db import catalog, jobs
from shared.db.session import Database
from shared.db.tables import Model
from shared.errors import Conflict, NotFound, Unavailable
from shared.keys import installation_secret, runner_key
from shared.progress import LEASE_SCRIPT, LEASE_SECONDS
from shared.settings import Settings
from shared.states import ResidencyState

log = structlog.get_logger()

AGAIN_SECONDS = 0.05
"""Between two looks for a model that is on its way."""
TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""An answer may take minutes; a connection to a child on this machine may not."""


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
            settings.redis.url.get_secret_value(), socket_connect_timeout=1, socket_timeout=2, socket_keepalive=True
        )
        self._take_lease = self._redis.register_script(LEASE_SCRIPT)
        self._held: dict[str, str] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew(), name="leases")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        await self._http.aclose()
        await self._redis.aclose()

    async def forward(self, path: str, body: dict[str, Any]) -> Response:
        """Send a request to the model that it names, and pass the answer on as it comes.

        Raises:
            NotFound: no such model or type.
            Conflict: the model is not in memory, and nobody is loading it.
            Unavailable: the wait for a swap, a restart or Redis took too long.
        """
        name = str(body["model"])
        deadline = time.monotonic() + self._settings.api.hold_seconds
        while True:
            route = await run_in_threadpool(self._route, name)
            if route is not None and await self._lease(route, lease := str(uuid.uuid4())):
                answer = await self._send(route, path, body, lease)
                if answer is not None:
                    return self._pass_on(answer, route, lease)
            if time.monotonic() > deadline:
                raise Unavailable(
                    "model_not_ready",
                    f"{name!r} did not become ready in time.",
                    "Try again; see GET /api/v1/jobs.",
                    None,
                    5,
                )
            await asyncio.sleep(AGAIN_SECONDS)

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
        """Hold the residency; False: it drains, or Redis is away."""
        keys = [queues.leases_key(route.residency_id), queues.closed_key(route.residency_id)]
        try:
            taken = await self._take_lease(keys=keys, args=[lease, LEASE_SECONDS])
        except redis.RedisError as error:
            log.warning("lease.failed", error=type(error).__name__)
            return False
        if taken:
            self._held[lease] = route.residency_id
        return bool(taken)

    async def _give_back(self, lease: str) -> None:
        residency_id = self._held.pop(lease, None)
        if residency_id is not None:
            with contextlib.suppress(redis.RedisError):  # it runs out by itself
                await self._redis.zrem(queues.leases_key(residency_id), lease)

    async def _send(self, route: Route, path: str, body: dict[str, Any], lease: str) -> httpx.Response | None:
        """The runner's answer, its body still to come; None: it went away before it answered, ask again."""
        key = runner_key(self._secret, route.residency_id)
        request = self._http.build_request(
            "POST", route.url + path, json={**body, "model": route.model_id}, headers={"Authorization": f"Bearer {key}"}
        )
        try:
            answer = await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            log.info("runner.away", residency_id=route.residency_id, error=type(error).__name__)
        except BaseException:
            await self._give_back(lease)
            raise
        else:
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            await answer.aclose()
        await self._give_back(lease)
        return None

    def _pass_on(self, answer: httpx.Response, route: Route, lease: str) -> Response:
        async def content() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                with contextlib.suppress(httpx.HTTPError):
                    await answer.aclose()
                await self._give_back(lease)

        headers = {"X-Modelyard-Model": route.model_id}
        kind = answer.headers.get("content-type", "application/json")
        return StreamingResponse(content(), answer.status_code, headers, media_type=kind)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(redis.RedisError):
                until = time.time() + LEASE_SECONDS
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for lease, residency_id in self._held.items():
                        pipeline.zadd(queues.leases_key(residency_id), {lease: until}, xx=True)
                        pipeline.expire(queues.leases_key(residency_id), LEASE_SECONDS * 2)
                    await pipeline.execute()
