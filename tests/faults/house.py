"""A running instance whose parts can be taken away at a named point, and shorthands for what the cells do with it."""

import contextlib
import os
import shutil
import signal
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
from sqlalchemy import text

from deploy.demo.hub import Hub
from deploy.demo.models import make_transformers_llm
from deploy.local import READY_SECONDS, Instance
from shared.db import catalog, jobs
from shared.db.session import Database
from shared.db.tables import Job
from shared.errors import ModelyardError
from shared.settings import Settings
from shared.states import ENDED
from tests.conftest import RealRedis, until
from tests.factories.quick import make_quick_llm
from tests.faults.databases import Losable, Postgresql, Sqlite
from workers.store.layout import Layout

MIB = 1024 * 1024
REDIS_AWAY_SECONDS = 1.5
STILL_SECONDS = 60.0
"""A live job in which nothing changes for so long is stuck: what we promise."""
LONGEST_SECONDS = 300.0
POINT_SECONDS = 60.0

CLOCKS = {
    "MODELYARD_JOBS__LEASE_SECONDS": "4",
    "MODELYARD_JOBS__HEARTBEAT_SECONDS": "0.5",
    "MODELYARD_JOBS__RESCUE_SECONDS": "1",
    "MODELYARD_JOBS__BACKOFF_SECONDS": "0.5",
    "MODELYARD_JOBS__BACKOFF_CAP_SECONDS": "4",
    "MODELYARD_RUNNERS__DRAIN_SECONDS": "5",
}
"""Everything that waits waits shorter, so that a cell is over in seconds."""


Plot = Literal["wide", "narrow", "sleepy"]
"""A device with memory for all models, or for one at a time, or models that sleep when they are put out."""


def stock(root: Path) -> str:
    """Put the models on the hub that the cells fetch; answers the runtime that the loadable ones have."""
    make_transformers_llm(root / "tiny" / "oak", 4, 20 * MIB, "oak")
    make_transformers_llm(root / "tiny" / "elm", 5, MIB, "elm")
    for seed, name in enumerate(("larch", "maple"), 6):  # the runner of torch is the one that can sleep
        make_transformers_llm(root / "tiny" / name, seed, MIB, name)
    (runtime,) = {make_quick_llm(root / "tiny" / name, seed, MIB) for seed, name in enumerate(("acorn", "birch"), 1)}
    return runtime


class House:
    """One instance on a database of one kind, with a Redis, a database and a hub that are the harness's own."""

    def __init__(self, kind: str, folder: Path, hub_root: Path, **settings: str) -> None:
        self.kind = kind
        self.hub_root = hub_root
        self.order = folder / "fault"
        data, redis_folder = folder / "data", folder / "redis"
        for part in (data, redis_folder):
            part.mkdir(parents=True)
        self.database: Losable = Sqlite(data) if kind == "sqlite" else Postgresql()
        self.redis = RealRedis(redis_folder)
        self.redis.start()
        self.hub = Hub(hub_root)
        self.hub.start()
        given = {
            **CLOCKS, "HF_ENDPOINT": self.hub.url, "MODELYARD_DATA_DIR": str(data), "MODELYARD_API__PORT": "0",
            "MODELYARD_SOURCES__ALLOWED_HOSTS": self.hub.url.removeprefix("http://"),
            "MODELYARD_STORE__RESERVE_BYTES": "0", "MODELYARD_STORE__SHARE_FILES": "false",
            "MODELYARD_REDIS__URL": self.redis.url,
            "MODELYARD_DATABASE_URL": self.database.url, "MODELYARD_FAULT_FILE": str(self.order),
            **settings,
        }  # fmt: skip
        before = dict(os.environ)
        os.environ.update(given)
        try:
            self.settings = Settings()
            self.instance = Instance(self.settings, flower=False)
            self.instance.start()
            self.instance.wait_ready(READY_SECONDS)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.http = httpx.Client(base_url=self.instance.url, timeout=120, trust_env=False)
        self.ledger = Database(self.database.url)
        self.layout = Layout(self.settings.store_root)

    def close(self) -> None:
        """End everything; a process of ours that is left is a failure."""
        family = [psutil.Process(each.pid) for each in self.instance.processes() if each.pid]
        for each in list(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                family += each.children(recursive=True)
        self.http.close()
        self.ledger.close()
        self.instance.stop()
        self.hub.stop()
        self.redis.stop()
        self.database.close()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"outlived the instance: {alive}"

    # -- faults ---------------------------------------------------------------------------------------------

    def arm(self, point: str, action: str, nth: int) -> None:
        """From now on the first process that reaches the point takes the order."""
        for leftover in (".fired", ".held"):
            self.order.with_suffix(leftover).unlink(missing_ok=True)
        draft = self.order.with_suffix(".draft")
        draft.write_text(f"{point} {action} {nth}", encoding="utf-8")
        draft.rename(self.order)

    def disarm(self) -> None:
        for leftover in ("", ".fired", ".held"):
            self.order.with_suffix(leftover).unlink(missing_ok=True)

    def await_point(self, asked: "Future[str]") -> None:
        """Until a process is at the point. Raises what the asking raised, if that comes first."""

        def at_the_point() -> bool:
            if asked.done():
                asked.result()
            return self.order.with_suffix(".fired").exists()

        until(at_the_point, POINT_SECONDS, "the point")

    def lose_redis(self, *, emptied: bool) -> None:
        """While a process waits at its point: Redis dies, the process goes on, Redis comes back."""
        self.redis.stop()
        self.release()
        time.sleep(REDIS_AWAY_SECONDS)
        if emptied:
            shutil.rmtree(self.redis.folder)
            self.redis.folder.mkdir()
        self.redis.start()

    def lose_database(self) -> None:
        """While a process waits at its point: the database goes, the process goes on, the database comes back."""
        self.database.lose()
        self.release()
        time.sleep(self.database.away_seconds)
        self.database.bring_back()

    def await_held(self) -> int:
        """Until a process stands still at its point; its pid."""
        held = self.order.with_suffix(".held")
        return int(until(lambda: held.exists() and held.read_text(encoding="utf-8"), POINT_SECONDS, "the hold"))

    def await_end(self) -> None:
        """Until the process that sent itself SIGTERM is gone: what it had in memory is lost then, and not before."""
        pid = self.await_held()
        until(lambda: not psutil.pid_exists(pid), LONGEST_SECONDS, "the end of the process")

    def release(self) -> None:
        """Let the process at the point go on."""
        self.await_held()
        self.order.with_suffix(".held").unlink()

    def freeze(self, pid: int) -> None:
        """SIGSTOP, and not while the process holds the one lock of SQLite: everybody would stand still with it."""

        def frozen() -> bool:
            os.kill(pid, signal.SIGSTOP)
            try:
                self._write()
            except ModelyardError:
                os.kill(pid, signal.SIGCONT)
                return False
            return True

        until(frozen, 60, "a moment to freeze the process")

    def _write(self) -> None:
        with self.ledger.session() as session:
            session.execute(text("UPDATE jobs SET phase = phase WHERE id = ''"))

    # -- what people do -------------------------------------------------------------------------------------

    def post(self, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> str:
        """Ask for work as a patient client does: again, under the same key, until there is an answer."""
        headers = {} if key is None else {"Idempotency-Key": key}
        method, path = ("DELETE", path.removeprefix("DELETE ")) if path.startswith("DELETE ") else ("POST", path)

        def answer() -> str | None:
            try:
                told = self.http.request(method, path, json=body, headers=headers, timeout=30)
            except httpx.HTTPError:
                return None
            if told.status_code in (502, 503, 504):
                return None
            assert told.status_code in (200, 202), f"{method} {path}: {told.status_code} {told.text}"
            job_id: str = told.json()["job"]["id"]
            return job_id

        return str(until(answer, 60, f"an answer to {method} {path}"))

    def add(self, model_id: str, repo: str) -> None:
        body = {
            "model_id": model_id, "model_type": "llm", "name": model_id, "source": "huggingface", "source_url": repo,
        }  # fmt: skip

        def added() -> httpx.Response | None:
            try:
                return self.http.post("/api/v1/models/add", json=body)
            except httpx.ConnectError:  # the cell before killed the API, maybe twice
                return None

        told: httpx.Response = until(added, 60, "an API to add a model")
        assert told.status_code in (201, 409), told.text

    def done(self, path: str, body: dict[str, Any] | None = None) -> Job:
        """Submit, wait, and insist on success."""
        job = self.ended(self.post(path, body))
        assert job.state == "succeeded", f"{path}: {job.state} {job.error}"
        return job

    def pull(self, model_id: str, repo: str) -> None:
        self.add(model_id, repo)
        self.done("/api/v1/models/download", {"model_id": model_id})

    def say(self, model: str = "llm") -> httpx.Response:
        body = {
            "model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "temperature": 0,
        }  # fmt: skip
        return self.http.post("/v1/chat/completions", json=body)

    def pid(self, name: str) -> int:
        """The process of that name, once the supervisor has it running."""

        def look() -> int | None:
            return next((each.pid for each in self.instance.processes() if each.name == name and each.pid), None)

        pid: int = until(look, 60, f"process {name}")
        return pid

    def carries_on(self) -> None:
        """New work is accepted and done."""
        with self.ledger.reading() as session:
            there = catalog.exists(session, "probe")
        if not there:
            self.pull("probe", "tiny/elm")
        self.done("/api/v1/models/probe/verify")

    def ready(self) -> None:
        until(self.instance.is_ready, 90, "readiness")

    # -- waiting --------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        with self.ledger.reading() as session:
            return jobs.get(session, job_id)

    def ended(self, job_id: str) -> Job:
        """The job once it has ended. Fails where nothing changes in it for the promised time."""
        self._settled(lambda: [job for job in [self.job(job_id)] if job.state not in ENDED])
        return self.job(job_id)

    def settle(self) -> None:
        """Until no job is live: the one of the cell, and those that others were asked for because of it."""
        self._settled(self._live)

    def _live(self) -> list[Job]:
        with self.ledger.reading() as session:
            return [job for state in ("queued", "running") for job in jobs.find(session, state=state)]

    def _settled(self, live: Any) -> None:
        began = moved = time.monotonic()
        before: Any = None
        while time.monotonic() - began < LONGEST_SECONDS:
            with contextlib.suppress(ModelyardError):
                found = live()
                if not found:
                    return
                state = [
                    (job.id, job.state, job.attempt, job.ticket, job.phase, job.progress, job.lease_until)
                    for job in found
                ]
                if state != before:
                    before, moved = state, time.monotonic()
            assert time.monotonic() - moved < STILL_SECONDS, f"stuck: {before}"
            time.sleep(0.05)
        raise AssertionError(f"no end in {LONGEST_SECONDS:.0f} s: {before}")
