"""A CRITICAL job starts next, however many LOW ones wait: real Redis, a real worker process, real downloads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import col, select

from deploy.demo.hub import Hub
from shared.contracts import Download
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from shared.settings import Settings
from shared.states import JobState, Priority
from tests.conftest import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

LOW = 1000


def test_critical_starts_next(ledger: Ledger, settings: Settings, hub_root: Path, tmp_path: Path) -> None:
    with Hub(hub_root) as hub:
        url = f"{hub.url}/files/tiny/cedar/cedar.gguf"
        _register(ledger, url)
        with _worker(settings, hub, tmp_path) as worker:
            try:
                until(lambda: len(_started(ledger)) >= 5, 60, "the first five starts")
                critical = ledger.submit(Download(model_id="last"), origin="test", priority=Priority.CRITICAL).job
                done_before = len(_started(ledger))
                until(lambda: len(_started(ledger)) >= done_before + 5, 60, "five more starts")
            finally:
                worker.terminate()
    starts = _started(ledger)
    place = [job.id for job in starts].index(critical.id)
    print(f"{LOW} LOW queued; CRITICAL submitted after {done_before} starts, started as number {place + 1}")
    print("starts in order:", [f"{Priority(job.priority).name}:{job.model_id}" for job in starts])
    overtaken = [job for job in starts[:place] if (job.started_at or 0) > critical.created_at]
    assert len(overtaken) <= 1, "at most the job that was being claimed at that moment"


def _register(ledger: Ledger, url: str) -> None:
    names = [f"low-{number}" for number in range(LOW)]
    with ledger.database.session() as session:
        for name in (*names, "last"):
            row = Model(id=name, type="llm", name=name, source="url", source_url=url, created_at=1.0, updated_at=1.0)
            session.add(row)
    for name in names:
        ledger.submit(Download(model_id=name), origin="test", priority=Priority.LOW)


def _worker(settings: Settings, hub: Hub, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ, "MODELYARD_JOBS__IO_SLOTS": "1", "MODELYARD_STORE__RESERVE_BYTES": "0",
        "MODELYARD_SOURCES__ALLOWED_HOSTS": hub.url.removeprefix("http://"),
    }  # fmt: skip
    command = (sys.executable, "-m", "workers", "io")
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])


def _started(ledger: Ledger) -> list[Job]:
    with ledger.database.reading() as session:
        query = select(Job).where(col(Job.state) != JobState.QUEUED, col(Job.started_at).is_not(None))
        return list(session.exec(query.order_by(col(Job.started_at))).all())
