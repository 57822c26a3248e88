"""Three downloads of real workers under one limit: bytes are counted where they are sent.

What is taken, and how soon a share is felt, is read from the jobs' events: between the server and the worker lie some
megabytes of buffers, which say nothing about a quarter of a second, and are a tenth of what flows in five.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import redis

from deploy.demo.hub import Hub
from shared import queues
from shared.contracts import Download
from shared.db import jobs, limits
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from shared.limits import Limit
from shared.progress import connect
from shared.settings import Settings
from shared.states import JobState, Priority
from tests.conftest import until
from tests.fakes.origin import Origin

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

MB = 10**6
SIZE = 600 * MB
SECONDS = 5.0
WINDOW = 1.0
STEP = 0.25


@contextmanager
def _worker(urls: Iterable[str], folder: Path, name: str, rescue: int = 1) -> Iterator[None]:
    environment = {
        **os.environ, "MODELYARD_JOBS__IO_SLOTS": "2", "MODELYARD_JOBS__RESCUE_SECONDS": str(rescue),
        "MODELYARD_STORE__RESERVE_BYTES": "0", "MODELYARD_NODE": name,
        "MODELYARD_SOURCES__ALLOWED_HOSTS": ",".join(url.removeprefix("http://") for url in urls),
    }  # fmt: skip
    with (folder / f"{name}.log").open("wb") as log:
        worker = subprocess.Popen(
            (sys.executable, "-m", "workers", "io"), env=environment, stdout=log, stderr=log,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(30)


def test_real_downloads_share_a_limit(ledger: Ledger, settings: Settings, tmp_path: Path) -> None:
    content = bytes(SIZE)
    with ExitStack() as stack:
        origins = {name: stack.enter_context(Origin(content)) for name in ("a", "b", "c", "urgent")}
        _register(ledger, {name: f"{origin.url}/{name}.gguf" for name, origin in origins.items()})
        _limit(ledger, Limit("all", bytes_per_second=20 * MB))
        for name in ("left", "right"):
            stack.enter_context(_worker([origin.url for origin in origins.values()], tmp_path, name))
        for name in "abc":
            ledger.submit(Download(model_id=name), origin="test", priority=Priority.MEDIUM)
        until(lambda: all(origins[name].sent for name in "abc"), 60, "three downloads")
        print(f"three downloads under 20 MB/s: {_held_at(origins, 20 * MB) / MB:.2f} MB/s over {SECONDS:.0f} s")
        began = time.time()
        sent = _rate(origins, SECONDS)
        with connect(settings.redis) as client:
            taken = sum(of(began + SECONDS) - of(began) for of in _courses(client).values()) / SECONDS
        print(f"and in the next {SECONDS:.0f} s: {sent / MB:.2f} MB/s sent, {taken / MB:.2f} MB/s taken")
        assert taken <= 22 * MB, "what servers sent has filled buffers, too"

        ledger.submit(Download(model_id="urgent"), origin="test", priority=Priority.CRITICAL)
        until(lambda: origins["urgent"].sent, 60, "the CRITICAL one")
        due, began = 20 * MB * 8 / 14, time.time()
        share = _rate({"urgent": origins["urgent"]}, SECONDS)
        print(f"the CRITICAL one has {share / MB:.2f} MB/s of its {due / MB:.2f}")
        assert share >= 0.7 * due, "an equal part would be 5 MB/s"
        with connect(settings.redis) as client:
            courses = _courses(client)
        print("MB/s in the second that ends at …: the CRITICAL one, the others")
        for at in (began + WINDOW + STEP * number for number in range(12)):
            rates = {name: (course(at) - course(at - WINDOW)) / WINDOW / MB for name, course in courses.items()}
            print(f"  {at - began:.2f} s: {rates['urgent']:5.2f} {sum(rates[name] for name in 'abc'):6.2f}")

        _limit(ledger, Limit("all", bytes_per_second=5 * MB))
        print(f"under 5 MB/s, set while they run: {_held_at(origins, 5 * MB) / MB:.2f} MB/s")
        assert all(_of(ledger, name).attempt == 1 for name in origins)


def test_a_limit_on_jobs_runs_them_one_after_another(ledger: Ledger, hub_root: Path, tmp_path: Path) -> None:
    names = "abcd"  # of one priority: one that makes way for a CRITICAL one starts before it and ends after it
    with Hub(hub_root) as hub:
        _register(ledger, dict.fromkeys(names, f"{hub.url}/files/tiny/cedar/cedar.gguf"))
        _limit(ledger, Limit("all", jobs=1))
        for name in names:
            ledger.submit(Download(model_id=name), origin="test", priority=Priority.LOW)
        with _worker([hub.url], tmp_path, "left", rescue=600), _worker([hub.url], tmp_path, "right", rescue=600):
            until(lambda: all(_of(ledger, name).state == JobState.SUCCEEDED for name in names), 120, "all downloads")
    ran = sorted((_of(ledger, name) for name in names), key=lambda job: job.started_at or 0)
    gaps = [(after.started_at or 0) - (before.finished_at or 0) for before, after in pairwise(ran)]
    print("seconds from the end of one to the start of the next:", [round(gap, 3) for gap in gaps])
    assert all(job.attempt == 1 for job in ran)
    assert all(gap >= 0 for gap in gaps), "never two at a time"


def test_a_critical_one_takes_the_room_of_a_low_one(ledger: Ledger, hub_root: Path, tmp_path: Path) -> None:
    with Hub(hub_root) as hub, Origin(bytes(SIZE)) as origin:
        cedar = f"{hub.url}/files/tiny/cedar/cedar.gguf"
        _register(ledger, {"low": f"{origin.url}/low.gguf", "urgent": cedar})
        _limit(ledger, Limit("all", bytes_per_second=MB, jobs=1))
        with _worker([hub.url, origin.url], tmp_path, "left", rescue=600):
            ledger.submit(Download(model_id="low"), origin="test", priority=Priority.LOW)
            until(lambda: origin.sent, 60, "the LOW one")
            ledger.submit(Download(model_id="urgent"), origin="test", priority=Priority.CRITICAL)
            until(lambda: _of(ledger, "urgent").state == JobState.SUCCEEDED, 60, "the CRITICAL one")
            until(lambda: _of(ledger, "low").attempt == 2, 60, "the LOW one's way back")
    assert _of(ledger, "urgent").attempt == 1


def _courses(client: "redis.Redis") -> dict[str, Callable[[float], float]]:
    """Of every model its download's bytes at a moment of the wall clock, between two events on a straight line."""
    told: dict[str, list[tuple[float, int]]] = {}
    for _, fields in client.xrange(queues.EVENTS_STREAM):
        event = json.loads(next(iter(fields.values())))
        if event["type"] == "job.progress" and event["bytesDone"] is not None:
            told.setdefault(event["modelId"], []).append((event["at"], event["bytesDone"]))

    def course(points: list[tuple[float, int]]) -> Callable[[float], float]:
        return lambda at: float(np.interp(at, *zip(*points, strict=True)))

    return {name: course(points) for name, points in told.items()}


def _held_at(origins: dict[str, Origin], limit: int) -> float:
    """The rate of the first window in which the limit is kept, and used, within a tenth."""

    def look() -> float | None:
        rate = _rate(origins, SECONDS)
        return rate if abs(rate - limit) <= limit / 10 else None

    held: float = until(look, 90, f"{limit} bytes a second")
    return held


def _rate(origins: dict[str, Origin], seconds: float) -> float:
    began, before = time.monotonic(), _sent(origins)
    time.sleep(seconds)
    return (_sent(origins) - before) / (time.monotonic() - began)


def _sent(origins: dict[str, Origin]) -> int:
    return sum(origin.sent for origin in origins.values())


def _register(ledger: Ledger, urls: dict[str, str]) -> None:
    with ledger.database.session() as session:
        for name, url in urls.items():
            row = Model(id=name, type="llm", name=name, source="url", source_url=url, created_at=1.0, updated_at=1.0)
            session.add(row)


def _limit(ledger: Ledger, limit: Limit) -> None:
    with ledger.database.session() as session:
        limits.put(session, limit)


def _of(ledger: Ledger, model_id: str) -> Job:
    with ledger.database.reading() as session:
        return jobs.find(session, model_id=model_id)[0]
