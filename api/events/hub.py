"""Events to clients: one reader of Redis per process feeds every stream, each event judged and encoded once.

The stream is read rather than the channel: Redis keeps it, so that nothing is lost while a connection comes back, and
its ids are in order. What was told last is kept here, too, for clients that come back.
"""

import asyncio
import bisect
import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.concurrency import run_in_threadpool

from api.events.judge import Judge, Order, Told, parse_order
from api.events.subscriber import NOWHERE, Client, Places, Snapshot, Topic
from api.views import view_job
from shared import queues
from shared.db import jobs
from shared.db.session import Database
from shared.db.tables import Job
from shared.errors import ModelyardError, NotFound
from shared.progress import PATIENCE_SECONDS
from shared.settings import Settings
from shared.states import ENDED, LIVE

log = structlog.get_logger()

KEPT = 10_000
"""Events that are kept for clients that come back."""
BATCH = 250
LIVE_SHOWN = 100
"""Jobs of each live state in a snapshot of everything, at most."""
PACE_SECONDS = 0.1
"""From the first event to the read: what happens meanwhile is judged together and goes out in one piece."""
AGAIN_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""So often silent clients hear a sign of life, and the ledger is asked whether their job has ended."""
STALLED_SECONDS = 30.0
"""A client that has taken nothing for so long is dropped."""


class _Asking(NamedTuple):
    topics: set[str | None]
    answer: "asyncio.Task[dict[str | None, Snapshot]]"


class EventHub:
    """Reads once, tells many; keeps trying while Redis is away."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._redis = redis.Redis.from_url(
            settings.redis.url.get_secret_value(), socket_connect_timeout=PATIENCE_SECONDS, socket_keepalive=True,
            socket_timeout=SILENCE_SECONDS + PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0), protocol=2,
        )  # fmt: skip
        self.places = Places(settings.api.max_streams, settings.api.streams_per_key)
        self._database = database
        self._judge = Judge(self._look)
        self._everything: set[Client] = set()
        self._by_job: dict[str, set[Client]] = {}
        self.heard = 0
        """Events that clients were told since this process began."""
        self._kept: list[Told] = []
        self._since: Order | None = None
        """From here on `_kept` is complete."""
        self._last: Order = NOWHERE
        self._in_doubt = False
        """An event was left out because the ledger did not answer."""
        self._behind = False
        """The last read did not get all there was."""
        self._listening = asyncio.Event()
        self._looking = asyncio.Lock()
        self._next: _Asking | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns once Redis is read, or after a second."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._attend())]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening.wait(), PATIENCE_SECONDS)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    # -- clients --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def client(self, topic: Topic) -> Iterator[Client]:
        """A client that hears of everything from now on.

        Raises:
            Unavailable, TooMany: see `Places.take`.
        """
        job_id = topic.job_id
        with self.places.take(topic.key):
            client = Client(job_id, topic.prefixes)
            group = self._everything if job_id is None else self._by_job.setdefault(job_id, set())
            group.add(client)
            try:
                yield client
            finally:
                group.discard(client)
                if job_id is not None and not group and self._by_job.get(job_id) is group:
                    del self._by_job[job_id]

    def replay(self, client: Client, last_id: str) -> list[Told] | None:
        """What a client missed since that id; None where that cannot be known."""
        try:
            order = parse_order(last_id)
        except ValueError:
            return None
        if self._since is None or not self._since <= order <= self._last:
            return None
        first = bisect.bisect_right(self._kept, order, key=lambda told: told.order)
        return [told for told in self._kept[first:] if client.wants(told)]

    async def snapshot(self, job_id: str | None) -> Snapshot:
        """The job, or all live ones, as the ledger has them from now on. All who ask at a time share one look.

        Raises:
            NotFound: no such job.
            Unavailable: the ledger does not answer.
        """
        if self._next is None:
            self._next = _Asking(set(), asyncio.create_task(self._answer()))
        asking = self._next
        asking.topics.add(job_id)
        found = (await asyncio.shield(asking.answer)).get(job_id)
        if found is None:
            raise NotFound(
                "job_not_found", "There is no job with this id.", "`modelyard jobs` (GET /api/v1/jobs) lists them."
            )
        return found

    async def _answer(self) -> dict[str | None, Snapshot]:
        async with self._looking:
            asking, self._next = self._next, None
            topics = asking.topics if asking else set()
            begun = self._last
            ids = [topic for topic in topics if topic is not None]
            watched = await run_in_threadpool(self._look, ids) if ids else []
            live = await run_in_threadpool(self._live) if None in topics else []
            self._judge.learn([*watched, *live])
            answers: dict[str | None, Snapshot] = {
                job.id: Snapshot(begun, self._last, job.state in ENDED, {"job": self._view(job)}) for job in watched
            }
            answers[None] = Snapshot(begun, self._last, False, {"jobs": [self._view(job) for job in live]})
            return answers

    def _look(self, ids: list[str]) -> list[Job]:
        with self._database.reading() as session:
            return jobs.these(session, ids)

    def _live(self) -> list[Job]:
        with self._database.reading() as session:
            return [job for state in LIVE for job in jobs.find(session, state=state, limit=LIVE_SHOWN)]

    def _view(self, job: Job) -> dict[str, Any]:
        view = view_job(job)
        if view.progress is not None:
            view.progress = max(view.progress, self._judge.progress(job.id))
        return view.model_dump(mode="json", by_alias=True)

    # -- reading --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                # One connection, held: the pool would mend a broken one silently, and nobody would know of the gap.
                async with self._redis.client() as connection:
                    await self._catch_up(connection)
                    self._listening.set()
                    while True:
                        await self._take(await self._read(connection))
            except (redis.RedisError, OSError, TimeoutError) as error:
                log.warning("events.away", error=type(error).__name__)
            except Exception:
                log.exception("events.crashed")
            await asyncio.sleep(AGAIN_SECONDS)

    async def _catch_up(self, connection: "redis.Redis") -> None:
        """Begin with what Redis kept. After a lost connection nothing older is vouched for: it may have lost some."""
        first = self._since is None
        newest: Any = await connection.xrevrange(queues.EVENTS_STREAM, count=KEPT if first else 1)
        self._kept, self._since, self._last = [], None, NOWHERE
        if first:
            for start in range(len(newest), 0, -BATCH):
                await self._keep(newest[max(start - BATCH, 0) : start][::-1])
        elif newest:
            self._last = _order(newest[0])
            self._since = (self._last[0], self._last[1] + 1)
        self._resync()

    async def _read(self, connection: "redis.Redis") -> list[Any]:
        """What came since; in silence, nothing, once it is sure that the stream is still the same.

        Raises:
            TimeoutError: it is another one.
        """
        position = f"{self._last[0]}-{self._last[1]}"
        stream: Any = {queues.EVENTS_STREAM: position}
        wait = AGAIN_SECONDS if self._in_doubt else SILENCE_SECONDS
        if self._behind or await connection.xread(stream, count=1, block=int(wait * 1000)):
            await asyncio.sleep(0 if self._behind else PACE_SECONDS)
            answer: Any = await connection.xread(stream, count=BATCH)
            entries: list[Any] = answer[0][1] if answer else []
            self._behind = len(entries) == BATCH
            return entries
        newest: Any = await connection.xrevrange(queues.EVENTS_STREAM, count=1)
        if newest and _order(newest[0]) < self._last:
            raise TimeoutError
        return []

    async def _take(self, entries: list[Any]) -> None:
        for told in await self._keep(entries):
            self.heard += 1
            for client in self._by_job.get(told.job_id or "", ()):
                client.offer(told)
            for client in self._everything:
                if client.wants(told):
                    client.offer(told)
        if self._in_doubt and await self._ledger_answers():
            self._in_doubt = False
            self._resync()

    async def _keep(self, entries: list[Any]) -> list[Told]:
        if not entries:
            return []
        batch = [(_order(entry), entry[1].get(b"event")) for entry in entries]
        told, sure = await self._judge.believe(batch)
        self._in_doubt = self._in_doubt or not sure
        self._last = batch[-1][0]
        self._since = self._since or batch[0][0]
        self._kept += told
        if len(self._kept) > KEPT + KEPT // 4:
            del self._kept[:-KEPT]
            self._since = self._kept[0].order
        return told

    async def _ledger_answers(self) -> bool:
        try:
            await run_in_threadpool(self._look, ["-"])
        except ModelyardError:
            return False
        return True

    def _resync(self) -> None:
        for client in self._clients():
            client.lose()

    # -- silence --------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_SECONDS)
            try:
                await self._attend_once()
            except ModelyardError as error:
                log.warning("events.unattended", code=error.code)
            except Exception:
                log.exception("events.crashed")

    async def _attend_once(self) -> None:
        """Ends that were missed, signs of life, and those who have not read for too long."""
        clients, moment = self._clients(), asyncio.get_running_loop().time()
        sign = Told(self._last, "ping", None, False, b": ping\n\n")
        for client in clients:
            if client.writing_since is not None and moment - client.writing_since > STALLED_SECONDS:
                client.drop()
            elif client.silent:
                client.offer(sign)
            client.silent = True
        watched = list(self._by_job)
        if not watched:
            return
        begun = self._last
        found = await run_in_threadpool(self._look, watched)
        self._judge.learn(found)
        for job in (job for job in found if job.state in ENDED):
            told = Snapshot(begun, self._last, True, {"job": self._view(job)}).told("snapshot")
            for client in self._by_job.get(job.id, ()):
                client.offer(told)

    def _clients(self) -> list[Client]:
        return [*self._everything, *(client for group in self._by_job.values() for client in group)]


def _order(entry: Any) -> Order:
    return parse_order(entry[0].decode())
