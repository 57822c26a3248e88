"""Events: published to those who listen now, kept in a capped stream for those who come back. Leases of requests."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared import queues
from shared.settings import RedisSettings

log = structlog.get_logger()

# One round trip, so that the stream and the channel carry the same id.
_PUBLISH = """
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[1])
redis.call('PUBLISH', KEYS[2], id .. ' ' .. ARGV[1])
return id
"""

LEASE_SCRIPT = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[3], now, 'EX', ARGV[3]) end
return 1
"""
"""KEYS leases, closed, used; ARGV lease id, seconds of the lease and of the
note of its use, 0 for none. Answers 1 if taken: a residency that drains takes no new lease."""

RENEW_SCRIPT = """
local until_ = redis.call('TIME')[1] + ARGV[2]
local added = redis.call('ZADD', KEYS[1], until_, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2] * 2)
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[2], until_ - ARGV[2], 'EX', ARGV[3]) end
return added
"""
"""KEYS leases, used; ARGV as above. Takes the lease where Redis was away or has forgotten it: whoever renews
is served already, so that a drain has to count it."""

_COUNT = """
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZCARD', KEYS[1])
"""

PATIENCE_SECONDS = 1.0
ALIVE_SECONDS = 30
BEAT_SECONDS = 86_400
LEASE_SECONDS = 30
"""A request's lease runs out by itself when the API process that took it dies; renewed while it streams."""
LEASE_RENEWAL_SECONDS = LEASE_SECONDS / 6
USED_SECONDS = 30 * 86_400
"""How long Redis remembers that a residency was used."""


def connect(settings: RedisSettings) -> "redis.Redis":
    """A client that gives up after a second, connected or not: what it carries can be lost, and a caller waits."""
    return redis.Redis.from_url(
        settings.url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=PATIENCE_SECONDS,
        socket_timeout=PATIENCE_SECONDS,
        socket_keepalive=True,
        health_check_interval=25,
        retry=Retry(NoBackoff(), 0),  # left alone, the client tries four times
    )


class Events:
    """Writes events. An event that cannot be published is lost: the ledger still knows the truth."""

    def __init__(self, client: "redis.Redis", settings: RedisSettings) -> None:
        self.client = client
        self._length = settings.stream_length
        self._publish = client.register_script(_PUBLISH)
        self._silent_until = 0.0

    def publish(self, type_: str, /, **fields: Any) -> None:
        """Send `{type, at, **fields}`; never raises and, while Redis is down, costs next to nothing."""
        if time.monotonic() < self._silent_until:
            return
        body = json.dumps({"type": type_, "at": time.time(), **fields}, separators=(",", ":"))
        try:
            self._publish(keys=[queues.EVENTS_STREAM, queues.EVENTS_CHANNEL], args=[body, self._length])
        except redis.RedisError as error:
            self._silent_until = time.monotonic() + 1
            log.warning("events.unpublished", error=type(error).__name__)


AWAY_SECONDS = 1.0
"""Between two tries to reach a Redis that is away."""


class Leases:
    """How many requests hold a residency; what a drain waits for."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._count = client.register_script(_COUNT)
        self._take = client.register_script(LEASE_SCRIPT)
        self._renew = client.register_script(RENEW_SCRIPT)

    def close(self, residency_id: str) -> bool:
        """From now on the residency takes no new lease. False: it took none before, either."""
        return bool(self._client.set(queues.closed_key(residency_id), "1", ex=86_400, nx=True))

    def count(self, residency_id: str) -> int:
        """Leases that are held now."""
        return int(self._count(keys=[queues.leases_key(residency_id)]))

    def counts(self, residency_ids: Sequence[str]) -> dict[str, int]:
        """The same of several, in one round trip."""
        with self._client.pipeline(transaction=False) as pipeline:
            moment: Any = self._client.time()
            for each in residency_ids:
                pipeline.zcount(queues.leases_key(each), f"({moment[0]}", "+inf")
            return dict(zip(residency_ids, pipeline.execute(), strict=True))

    def reopen(self, residency_id: str) -> None:
        """It takes leases again."""
        self._client.delete(queues.closed_key(residency_id))

    @contextmanager
    def held(self, residency_id: str, *, is_use: bool = True) -> Iterator[bool]:
        """Hold a residency as a request does, for the length of the block; False: it drains, and is not held.

        While Redis is away it counts as held: the lease is taken as soon as Redis is back.

        Args:
            is_use: False for what must not keep an unused model in memory.
        """
        noted = USED_SECONDS if is_use else 0
        lease, over = str(uuid.uuid4()), threading.Event()
        keys = [queues.leases_key(residency_id), queues.closed_key(residency_id), queues.used_key(residency_id)]
        try:
            taken = bool(self._take(keys=keys, args=[lease, LEASE_SECONDS, noted]))
        except redis.RedisError:
            taken = True
        if not taken:
            yield False
            return
        renewing = threading.Thread(target=self._renew_until, args=(over, residency_id, lease, noted), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            over.set()
            renewing.join()
            with suppress(redis.RedisError):  # it runs out by itself
                self._client.zrem(queues.leases_key(residency_id), lease)

    def _renew_until(self, over: threading.Event, residency_id: str, lease: str, noted: int) -> None:
        keys = [queues.leases_key(residency_id), queues.used_key(residency_id)]
        pause = LEASE_RENEWAL_SECONDS
        while not over.wait(pause):
            pause = LEASE_RENEWAL_SECONDS
            try:
                self._renew(keys=keys, args=[lease, LEASE_SECONDS, noted])
            except redis.RedisError:
                pause = AWAY_SECONDS

    def note_use(self, residency_id: str) -> None:
        """As if a request had just held it; lost while Redis is away."""
        try:
            moment: Any = self._client.time()
            self._client.set(queues.used_key(residency_id), moment[0], ex=USED_SECONDS)
        except redis.RedisError as error:
            log.warning("leases.unknown", error=type(error).__name__)

    def unused(self, residency_ids: Sequence[str]) -> dict[str, float]:
        """Seconds since a request last held each of these; those that none ever did are missing, and all are while
        Redis is away."""
        if not residency_ids:
            return {}
        try:
            moment: Any = self._client.time()
            used: Any = self._client.mget([queues.used_key(each) for each in residency_ids])
        except redis.RedisError as error:
            log.warning("leases.unknown", error=type(error).__name__)
            return {}
        pairs = zip(residency_ids, used, strict=True)
        return {each: max(0.0, moment[0] - float(at)) for each, at in pairs if at is not None}


class Workers:
    """Signs of life of worker processes."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def report(self, lane: str, owner: str) -> None:
        """This worker consumes that lane, now."""
        moment = self._now()
        self._client.zadd(queues.WORKERS_KEY, {f"{lane} {owner}": moment})
        self._client.zremrangebyscore(queues.WORKERS_KEY, "-inf", moment - 3600)

    def lanes(self) -> set[str]:
        """Lanes with a worker that was alive within the last half minute."""
        return set(self.alive())

    def alive(self) -> Counter[str]:
        """How many workers of each lane were alive within the last half minute."""
        alive: Any = self._client.zrangebyscore(queues.WORKERS_KEY, self._now() - ALIVE_SECONDS, "+inf")
        return Counter(member.partition(" ")[0] for member in alive)

    def note_beat(self) -> None:
        """A message of beat has come, now."""
        with suppress(redis.RedisError):  # the next one comes soon
            self._client.set(queues.BEAT_KEY, self._now(), ex=BEAT_SECONDS)

    def beat_at(self) -> float:
        """When the last message of beat came, in seconds since 1970; 0 where none did for a day."""
        told: Any = self._client.get(queues.BEAT_KEY)
        return float(told or 0)

    def _now(self) -> int:
        """Redis' clock: those of several machines need not agree."""
        moment: Any = self._client.time()
        return int(moment[0])
