"""Three downloads of real workers under one limit: bytes are counted where they are sent."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from deploy.demo.hub import Hub
from shared.contracts import Download
from shared.db import jobs, limits
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from shared.limits import Limit
from shared.states import JobState, Priority
from tests.conftest import until
from tests.fakes.origin import Origin

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

MB = 10**6
SIZE = 600 * MB
SECONDS = 5.0


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


def test_real_downloads_share_a_limit(ledger: Ledger, tmp_path: Path) -> None:
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
        print(f"and in the next {SECONDS:.0f} s: {(further := _rate(origins, SECONDS)) / MB:.2f} MB/s")
        assert further <= 22 * MB

        ledger.submit(Download(model_id="urgent"), origin="test", priority=Priority.CRITICAL)
        until(lambda: origins["urgent"].sent, 60, "the CRITICAL one")
        began = time.monotonic()
        others = {name: origins[name] for name in "abc"}
        until(lambda: _rate(others, 1) <= 1.1 * 20 * MB * 6 / 14, 30, "the others' way for the CRITICAL one")
        print(
            f"the others are down to their share {time.monotonic() - began:.2f} s after the CRITICAL one's first byte"
        )
        share = _rate({"urgent": origins["urgent"]}, SECONDS)
        print(f"the CRITICAL one has {share / MB:.2f} MB/s of its {20 * 8 / 14:.2f}")
        assert share >= 0.7 * 20 * MB * 8 / 14, "an equal part would be 5 MB/s"

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
