"""A CRITICAL job starts next, however many LOW ones wait: real Redis, a real worker process, real downloads."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
from sqlmodel import col, select

from deploy.demo.hub import Hub
from deploy.demo.models import make_gguf_llm
from shared.contracts import Download
from shared.db import jobs
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from shared.states import JobState, Priority
from tests.conftest import until
from tests.system.conftest import MIB

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

LOW = int(os.environ.get("MODELYARD_TEST_QUEUE", "1000"))
LOWS = [f"low-{number}" for number in range(LOW)]
HOUR_LONG = 4096.0
"""Bytes a second and connection; the engine opens a few."""


def test_critical_starts_next(ledger: Ledger, hub_root: Path, tmp_path: Path) -> None:
    with Hub(hub_root) as hub:
        url = f"{hub.url}/files/tiny/cedar/cedar.gguf"
        _register(ledger, url)
        _submit(ledger, LOWS, dict.fromkeys(LOWS, Priority.LOW))
        with _worker(hub, tmp_path):
            until(lambda: len(_started(ledger)) >= 5, 60, "the first five starts")
            critical = ledger.submit(Download(model_id="last"), origin="test", priority=Priority.CRITICAL).job
            done_before = len(_started(ledger))
            until(lambda: len(_started(ledger)) >= done_before + 5, 60, "five more starts")
    starts = _started(ledger)
    place = [job.id for job in starts].index(critical.id)
    print(f"{LOW} LOW queued; CRITICAL submitted after {done_before} starts, started as number {place + 1}")
    print("starts in order:", [f"{Priority(job.priority).name}:{job.model_id}" for job in starts])
    overtaken = [job for job in starts[:place] if (job.started_at or 0) > critical.created_at]
    assert len(overtaken) <= 1, "at most the job that was being claimed at that moment"


@pytest.mark.fault("F-28")
def test_critical_takes_the_slot_of_the_lowest(
    ledger: Ledger, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("slow")
    (root / "tiny" / "slow").mkdir(parents=True)
    for name in ("a", "b", "c", "last"):
        make_gguf_llm(root / "tiny" / "slow" / f"{name}.gguf", 3, 1 * MIB if name == "last" else 24 * MIB, name)
    with Hub(root, rate=HOUR_LONG) as hub:
        url = f"{hub.url}/files/tiny/slow"
        _register(ledger, f"{url}/last.gguf", **{name: f"{url}/{name}.gguf" for name in "abc"})
        slow = {"a": Priority.LOW, "b": Priority.MEDIUM, "c": Priority.HIGH}
        with _worker(hub, tmp_path, "--urgent"):
            _submit(ledger, "c", slow)
            until(lambda: _moving(ledger, "c"), 60, "a slow download in the reserved slot")
            _submit(ledger, "ab", slow)
            with _worker(hub, tmp_path, slots=2):
                until(lambda: all(_moving(ledger, name) for name in "abc"), 60, "a slow download in every slot")
                _submit(ledger, LOWS, dict.fromkeys(LOWS, Priority.LOW))
                hub.throttle(None)
                critical = ledger.submit(Download(model_id="last"), origin="test", priority=Priority.CRITICAL).job
                began = until(lambda: _of(ledger, "last").started_at, 30, "the start of the CRITICAL one")
                until(lambda: _of(ledger, "a").state == JobState.SUCCEEDED, 60, "the end of the one that made way")
    low = _of(ledger, "a")
    assert low.result is not None
    extra = hub.sent("a.gguf") - low.result["size"]
    print(f"every slot busy, {LOW} LOW waiting: CRITICAL started after {began - critical.created_at:.2f} s")
    print(f"the LOW download that made way: {low.attempt} attempts, {low.result['refetchedBytes']} bytes fetched again")
    print(f"bytes that the server had sent and the client had not read when it made way: {extra}")
    assert [job.attempt for job in (low, _of(ledger, "b"), _of(ledger, "c"))] == [2, 1, 1], "the lowest one alone"
    assert low.result["refetchedBytes"] == 0
    assert extra <= MIB, "what was on the wire, no more"
    starts = [job.model_id for job in _started(ledger)]
    assert set(starts[:3]) == {"a", "b", "c"}
    assert starts[3] == "last"


@pytest.mark.fault("F-28")
def test_low_moves_under_a_steady_stream_of_high(ledger: Ledger, hub_root: Path, tmp_path: Path) -> None:
    highs = [f"high-{number}" for number in range(400)]
    with Hub(hub_root) as hub:
        url = f"{hub.url}/files/tiny/cedar/cedar.gguf"
        _register(ledger, url, **dict.fromkeys(highs, url))
        stream = iter(highs)
        _submit(ledger, LOWS[:1], dict.fromkeys(LOWS, Priority.LOW))

        def pressed() -> bool:
            """Always more HIGH ones wait than the worker can take before the next look."""
            with ledger.database.reading() as session:
                missing = 10 - len(jobs.find(session, state=JobState.QUEUED, kind="model.download"))
            _submit(ledger, list(islice(stream, max(missing, 0))), dict.fromkeys(highs, Priority.HIGH))
            return _of(ledger, LOWS[0]).started_at is not None

        assert not pressed()
        with _worker(hub, tmp_path, age=3):
            until(pressed, 60, "the start of the LOW one")
    starts = [job.model_id for job in _started(ledger)]
    print(f"the LOW one started as number {starts.index(LOWS[0]) + 1} of {len(starts)} under a stream of HIGH")
    assert starts.index(LOWS[0]) > 0, "not before it was old"
    assert next(stream, None) is not None, "the stream did not run dry"


def _register(ledger: Ledger, url: str, **others: str) -> None:
    urls = dict.fromkeys((*LOWS, "last"), url) | others
    with ledger.database.session() as session:
        for name, source in urls.items():
            row = Model(id=name, type="llm", name=name, source="url", source_url=source, created_at=1.0, updated_at=1.0)
            session.add(row)


def _submit(ledger: Ledger, names: Iterable[str], priorities: dict[str, Priority]) -> None:
    for name in names:
        ledger.submit(Download(model_id=name), origin="test", priority=priorities[name])


def _of(ledger: Ledger, model_id: str) -> Job:
    with ledger.database.reading() as session:
        return jobs.find(session, model_id=model_id)[0]


def _moving(ledger: Ledger, model_id: str) -> bool:
    return _of(ledger, model_id).phase == "downloading"


@contextmanager
def _worker(hub: Hub, folder: Path, *arguments: str, slots: int = 1, age: float = 300) -> Iterator[None]:
    environment = {
        **os.environ, "MODELYARD_JOBS__IO_SLOTS": str(slots), "MODELYARD_JOBS__AGE_SECONDS": str(age),
        "MODELYARD_JOBS__RESCUE_SECONDS": "1", "MODELYARD_STORE__RESERVE_BYTES": "0",
        "MODELYARD_SOURCES__ALLOWED_HOSTS": hub.url.removeprefix("http://"),
    }  # fmt: skip
    command = (sys.executable, "-m", "workers", "io", *arguments)
    with (folder / f"worker{len(arguments)}.log").open("wb") as log:
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(30)


def _started(ledger: Ledger) -> list[Job]:
    with ledger.database.reading() as session:
        query = select(Job).where(col(Job.started_at).is_not(None))
        return list(session.exec(query.order_by(col(Job.started_at))).all())
