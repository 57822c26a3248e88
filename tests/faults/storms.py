"""Kill storms: hundreds of short jobs while workers die at random moments, ours beside a plain Celery.

Both have the same Redis server, as many workers, slots and jobs, and lose workers at the same moments; the plain one
has Celery's own settings. A job is lost where it never ran, or never came to an end.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import redis
from celery import Celery
from sqlmodel import col, select

from shared.broker import Broker, make_app
from shared.db.schema import migrate
from shared.db.session import Database
from shared.db.tables import Job
from shared.jobs import Ledger
from shared.leash import leashed
from shared.progress import Events, connect
from shared.settings import Settings
from shared.states import ENDED, JobState
from tests.conftest import RealRedis, until
from tests.faults.databases import Postgresql, Sqlite
from tests.faults.house import CLOCKS
from tests.faults.short_jobs import EFFECTS, PLAIN_BROKER, PLAIN_TASK, Note

ROOT = Path(__file__).parents[2]
WORKERS, SLOTS = 2, 4
SECONDS = 8.0
"""Over which the jobs of a storm are sent and the workers killed."""
QUIET_SECONDS = 3.0
"""A plain Celery that did nothing for so long, and has nothing in its queue, is through."""


@dataclass
class Tally:
    """How the jobs of one side fared."""

    submitted: int
    lost: int
    """Never ran, or never ended."""
    twice: int
    """Ran more than once: at-least-once is what a kill in the middle leaves."""
    stuck: int = 0
    """Not lost for ever: redelivered when Celery's visibility timeout of an hour is over."""
    failed: int = 0
    """Ended as failed."""


class Side:
    """The workers of one side: killed by us, started again at once as a supervisor does."""

    def __init__(self, name: str, argv: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self._argv, self._environment = argv, environment
        self._logs = folder / name
        self._logs.mkdir()
        self._count = 0
        self._workers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self) -> None:
        """Call it from a thread that lives as long as the workers should: they are on its leash."""
        for _ in range(WORKERS):
            self._start()

    def ready(self) -> bool:
        return len(self._ready()) == WORKERS

    def _start(self) -> None:
        self._count += 1
        log = self._logs / f"{self._count}.log"
        with log.open("wb") as file:
            argv = leashed([*self._argv], os.getpid())
            worker = subprocess.Popen(argv, env=self._environment, stdout=file, stderr=file, cwd=ROOT)
        self._workers.append((worker, log))

    def _ready(self) -> list[tuple[subprocess.Popen[bytes], Path]]:
        """Those that consume, and one more only where one died by itself."""
        for dead in [entry for entry in self._workers if entry[0].poll() is not None]:
            self._workers.remove(dead)
            self._start()
        return [(worker, log) for worker, log in self._workers if b" ready." in log.read_bytes()]

    def kill_one(self) -> bool:
        """SIGKILL to one that consumes; False while there is none."""
        ready = self._ready()
        if not ready:
            return False
        worker, log = random.choice(ready)
        worker.kill()
        worker.wait()
        self._workers.remove((worker, log))
        self._start()
        return True

    def stop(self) -> None:
        for worker, _ in self._workers:
            worker.kill()
            worker.wait()


class Sky:
    """A Redis, a ledger, and workers of both kinds."""

    def __init__(self, kind: str, folder: Path) -> None:
        for part in ("redis", "database", "data"):
            (folder / part).mkdir(parents=True)
        self.kind = kind
        self._effects = folder / "effects"
        self._effects.touch()
        self._redis = RealRedis(folder / "redis")
        self._redis.start()
        self._source = Sqlite(folder / "database") if kind == "sqlite" else Postgresql()
        plain_url = f"redis://127.0.0.1:{self._redis.port}/1"
        environment = {
            **os.environ, **CLOCKS, EFFECTS: str(self._effects), PLAIN_BROKER: plain_url,
            "MODELYARD_DATA_DIR": str(folder / "data"), "MODELYARD_REDIS__URL": self._redis.url,
            "MODELYARD_DATABASE_URL": self._source.url, "MODELYARD_JOBS__IO_SLOTS": str(SLOTS),
        }  # fmt: skip
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            settings = Settings()
        finally:
            os.environ.clear()
            os.environ.update(before)
        migrate(settings)
        self._database = Database(settings.database)
        self._app = make_app(settings, publisher=True)
        events = Events(connect(settings.redis), settings.redis)
        self._ledger = Ledger(self._database, settings.jobs, Broker(self._app), events)
        self._plain_app = Celery("client", broker=plain_url)
        self._ours = Side("ours", (sys.executable, "-m", "tests.faults.short_jobs"), environment, folder)
        celery = (sys.executable, "-m", "celery", "-A", "tests.faults.short_jobs", "worker")
        options = ("--pool=threads", f"--concurrency={SLOTS}", "--loglevel=INFO")
        self._plain = Side("plain", (*celery, *options), environment, folder)
        for side in (self._ours, self._plain):
            side.start()
        until(lambda: self._ours.ready() and self._plain.ready(), 90, "workers of both")

    def close(self) -> None:
        self._ours.stop()
        self._plain.stop()
        self._plain_app.close()
        self._app.close()
        self._ledger.events.client.close()
        self._database.close()
        self._redis.stop()
        self._source.close()

    def storm(self, number: int, jobs: int, kills: int) -> tuple[Tally, Tally, int]:
        """Send the jobs over some seconds while workers die; answers ours, the plain ones', and kills of each."""
        names = [f"s{number}-{index}" for index in range(jobs)]
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(self._send, names)
            killed = self._kill(kills)
            ours, plain = sent.result()
        until(lambda: not self._live(ours), 180, "the end of every job of ours")
        self._await_quiet()
        return self._tally(names, ours), self._tally_plain(names, plain), killed

    def _send(self, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Ids by name, ours and the plain ones'."""
        ours, plain, began = {}, {}, time.monotonic()
        for index, name in enumerate(names):
            ours[name] = self._ledger.submit(Note(model_id=name), origin="test").job.id
            plain[name] = self._plain_app.send_task(PLAIN_TASK, (f"plain {name}",), ignore_result=True).id
            time.sleep(max(0.0, began + SECONDS * index / len(names) - time.monotonic()))
        return ours, plain

    def _kill(self, kills: int) -> int:
        for _ in range(kills):
            time.sleep(random.uniform(0, 2 * SECONDS / kills))
            for side in (self._ours, self._plain):
                until(side.kill_one, 90, "a worker to kill")
        return kills

    def _live(self, ids: dict[str, str]) -> bool:
        with self._database.reading() as session:
            query = select(Job.id).where(col(Job.id).in_(ids.values()), col(Job.state).not_in(ENDED))
            return session.exec(query.limit(1)).first() is not None

    def _await_quiet(self) -> None:
        with self._client() as client:
            seen, since = -1, time.monotonic()
            while client.llen("celery") or time.monotonic() - since < QUIET_SECONDS:
                count = sum(self._ran("plain ").values())
                if count != seen:
                    seen, since = count, time.monotonic()
                time.sleep(0.1)

    def _tally(self, names: list[str], ids: dict[str, str]) -> Tally:
        ran = self._ran("s")
        with self._database.reading() as session:
            rows = session.exec(select(Job).where(col(Job.id).in_(ids.values()))).all()
        states = Counter(row.state for row in rows)
        lost = sum(not ran[name] for name in names) + sum(states[state] for state in set(states) - set(ENDED))
        twice = sum(ran[name] > 1 for name in names)
        return Tally(len(names), lost, twice, failed=states[JobState.FAILED])

    def _tally_plain(self, names: list[str], ids: dict[str, str]) -> Tally:
        ran, unacknowledged = self._ran("plain "), set(self._unacknowledged())
        missing = [name for name in names if not ran[f"plain {name}"]]
        stuck = sum(ids[name] in unacknowledged for name in missing)
        twice = sum(ran[f"plain {name}"] > 1 for name in names)
        return Tally(len(names), len(missing) - stuck, twice, stuck=stuck)

    def _ran(self, prefix: str) -> Counter[str]:
        lines = self._effects.read_text(encoding="utf-8").splitlines()
        return Counter(line for line in lines if line.startswith(prefix))

    def _unacknowledged(self) -> Iterator[str]:
        with self._client() as client:
            for entry in client.hvals("unacked"):
                yield json.loads(entry)[0]["headers"]["id"]

    @contextlib.contextmanager
    def _client(self) -> "Iterator[redis.Redis]":
        with redis.Redis(port=self._redis.port, db=1) as client:
            yield client
