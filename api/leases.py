"""The leases that the requests of one API process hold.

While Redis is away requests are served without one. Each takes its lease as soon as Redis is back, and a drain that
could not see Redis waits for that; see `api/gateway.py`.
"""

import asyncio
import contextlib
import time

import httpx
import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared import queues
from shared.progress import (
    AWAY_SECONDS,
    LEASE_RENEWAL_SECONDS,
    LEASE_SCRIPT,
    LEASE_SECONDS,
    PATIENCE_SECONDS,
    RENEW_SCRIPT,
    USED_SECONDS,
)
from shared.settings import Settings

log = structlog.get_logger()


class HeldLeases:
    """Taken, renewed and given back; `start` and `stop` belong to the process."""

    def __init__(self, settings: Settings) -> None:
        self._redis = redis.Redis.from_url(
            settings.redis.url.get_secret_value(), socket_connect_timeout=PATIENCE_SECONDS,
            socket_timeout=PATIENCE_SECONDS, socket_keepalive=True, retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self._take_lease = self._redis.register_script(LEASE_SCRIPT)
        self._renew_lease = self._redis.register_script(RENEW_SCRIPT)
        self._closing: set[asyncio.Task[None]] = set()
        self._held: dict[str, str] = {}
        self._away_until = 0.0
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew(), name="leases")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        await asyncio.gather(*self._closing)
        await self._redis.aclose()

    async def take(self, residency_id: str, lease: str) -> bool:
        """Hold the residency; False: it drains. While Redis is away a request is served all the same."""
        taken = True
        if time.monotonic() >= self._away_until:
            of = (queues.leases_key, queues.closed_key, queues.used_key)
            keys = [key(residency_id) for key in of]
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    taken = bool(await self._take_lease(keys=keys, args=[lease, LEASE_SECONDS, USED_SECONDS]))
            except (redis.RedisError, TimeoutError) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                log.warning("lease.unknown", error=type(error).__name__)
        if taken:
            self._held[lease] = residency_id
        return taken

    def give_back(self, lease: str, answer: httpx.Response | None = None) -> None:
        """Let go of it and of its answer, in a task of our own: the request's may be cancelled at this moment."""
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

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE_RENEWAL_SECONDS if await self._renew_all() else AWAY_SECONDS)

    async def _renew_all(self) -> bool:
        """False: Redis is away; to be tried again soon, because a drain may begin."""
        for lease, residency_id in list(self._held.items()):
            keys = [queues.leases_key(residency_id), queues.used_key(residency_id)]
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._renew_lease(keys=keys, args=[lease, LEASE_SECONDS, USED_SECONDS])
            except (redis.RedisError, TimeoutError):
                return False
            if lease not in self._held:  # given back meanwhile
                await self._let_go(residency_id, lease, None)
        return True
