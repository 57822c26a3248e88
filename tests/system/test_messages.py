"""Messages of others, odd and hostile, against a real worker process: it lives, and what follows them is done."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from shared.contracts import KINDS
from shared.db import jobs
from shared.db.tables import Job
from shared.errors import NotFound
from shared.jobs import Ledger
from shared.settings import Settings
from shared.states import ENDED, JobState
from tests.conftest import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

QUEUE = "modelyard.p2.io"
CANARY = "canary-of-the-pickle"


class Canary:
    def __reduce__(self) -> Any:
        return (os.system, (f"touch {CANARY}",))


@pytest.fixture
def worker(ledger: Ledger, settings: Settings, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    environment = {**os.environ, "MODELYARD_JOBS__IO_SLOTS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    with (tmp_path / "worker.log").open("wb") as log:
        command = (sys.executable, "-m", "workers", "io")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    with process:
        until(lambda: b"ready." in (tmp_path / "worker.log").read_bytes(), 60, "the worker")
        yield process
        process.terminate()
    assert process.returncode == 0


@pytest.fixture
def theirs(settings: Settings) -> Iterator[Celery]:
    """A plain client, as another team would write it."""
    with Celery(broker=settings.redis.url.get_secret_value()) as app:
        yield app


def ended(ledger: Ledger, job_id: str) -> Job:
    def look() -> Job | None:
        with ledger.database.reading() as session:
            try:
                job = jobs.get(session, job_id)
            except NotFound:
                return None
        return job if job.state in ENDED else None

    job: Job = until(look, 30, f"the end of {job_id}")
    return job


def envelope(body: bytes, **changes: Any) -> str:
    message: dict[str, Any] = {
        "body": body.decode("latin1"), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"task": "model.verify", "id": "odd", "lang": "py", "argsrepr": "", "kwargsrepr": ""},
        "properties": {"delivery_tag": "tag", "delivery_info": {"exchange": "", "routing_key": QUEUE}},
    }  # fmt: skip
    headers = changes.pop("headers", {})
    return json.dumps({**message, **changes, "headers": {**message["headers"], **headers}})


ODD = {
    "a list that is too short": envelope(b"[1]"),
    "a number": envelope(b"5"),
    "null": envelope(b"null"),
    "an object": envelope(b'{"a": 1}'),
    "an empty list": envelope(b"[]"),
    "no JSON": envelope(b"{"),
    "deep": envelope(b"[" * 5000),
    "arguments of the wrong kind": envelope(b"[{}, [], {}]"),
    "a time limit that is a number": envelope(b"[[], {}, {}]", headers={"timelimit": 5}),
    "a header of ours that is none of theirs": envelope(b"[[], {}, {}]", headers={"modelyard_not_before": "soon"}),
    "an ETA that is no time": envelope(b"[[], {}, {}]", headers={"eta": "soon"}),
    "no id": envelope(b"[[], {}, {}]", headers={"id": None}),
    "an id that is too long": envelope(b"[[], {}, {}]", headers={"id": "x" * 5000}),
    "pickle": envelope(pickle.dumps(Canary(), protocol=0), **{"content-type": "application/x-python-serialize"}),
    "yaml": envelope(b"a: 1", **{"content-type": "application/x-yaml"}),
    "too large": envelope(json.dumps([[], {"model_id": "x" * 20_000_000}, {}]).encode()),
    "no envelope": "{}",
    "an envelope that is a list": "[]",
    "garbage": "\x00\x01 garbage",
}  # fmt: skip


HARMLESS = ("a time limit that is a number", "a header of ours that is none of theirs")


def test_odd_messages_do_not_stop_a_worker(
    ledger: Ledger, settings: Settings, worker: "subprocess.Popen[bytes]", theirs: Celery, tmp_path: Path
) -> None:
    with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:
        for what, raw in ODD.items():
            client.lpush(QUEUE, raw)
            sent = theirs.send_task("model.download", kwargs={"model": "x"}, queue=QUEUE)
            assert ended(ledger, sent.id).state == JobState.REJECTED, f"after {what}"
            assert worker.poll() is None, f"{what} ended the worker"
        assert client.hlen("unacked") == 0, "nothing comes again"
    assert not (Path(__file__).parents[2] / CANARY).exists()
    log = (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert log.count("message.put_aside") == len(ODD) - len(HARMLESS), "these lose a header and are jobs"


def test_callbacks_of_a_message_do_not_run(ledger: Ledger, worker: "subprocess.Popen[bytes]", theirs: Celery) -> None:
    forged = theirs.signature("model.remove", kwargs={"model_id": "two"}, queue=QUEUE, immutable=True)
    sent = theirs.send_task("model.verify", kwargs={"model_id": "one"}, queue=QUEUE, link=forged, link_error=forged)
    assert ended(ledger, sent.id).state == JobState.FAILED, "nothing is installed"
    after = theirs.send_task("model.verify", kwargs={"model_id": "two"}, queue=QUEUE)
    ended(ledger, after.id)
    with ledger.database.reading() as session:
        assert jobs.find(session, kind="model.remove") == []


def test_one_id_twice_is_one_job(ledger: Ledger, worker: "subprocess.Popen[bytes]", theirs: Celery) -> None:
    for _ in range(3):
        theirs.send_task("model.verify", kwargs={"model_id": "one"}, queue=QUEUE, task_id="theirs-1")
    job = ended(ledger, "theirs-1")
    after = theirs.send_task("model.verify", kwargs={"model_id": "two"}, queue=QUEUE)
    ended(ledger, after.id)
    assert (ended(ledger, "theirs-1").attempt, job.attempt) == (1, 1)


def test_an_eta_waits_in_the_ledger(ledger: Ledger, worker: "subprocess.Popen[bytes]", theirs: Celery) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    sent = theirs.send_task("model.verify", kwargs={"model_id": "one"}, queue=QUEUE, eta=later)
    after = theirs.send_task("model.verify", kwargs={"model_id": "two"}, queue=QUEUE)
    ended(ledger, after.id)
    with ledger.database.reading() as session:
        job = jobs.get(session, sent.id)
    assert (job.state, job.not_before) == (JobState.QUEUED, pytest.approx(later.timestamp(), abs=1))


def test_every_documented_example_is_a_job(ledger: Ledger, worker: "subprocess.Popen[bytes]", theirs: Celery) -> None:
    """What docs/contracts.md shows, sent as it stands."""
    import re

    page = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
    examples = re.findall(r'send_task\(\s*"([\w.]+)",\s+kwargs=(\{.*?\}),\s+queue="([\w.]+)"', page)
    assert {kind for kind, _, _ in examples} == KINDS.keys()
    for kind, kwargs, queue in examples:
        sent = theirs.send_task(kind, kwargs=json.loads(kwargs), queue=queue, ignore_result=True)

        def filed(job_id: str = sent.id) -> bool:
            with ledger.database.reading() as session:
                try:
                    return jobs.get(session, job_id).state != JobState.REJECTED
                except NotFound:
                    return False

        until(filed, 30, kind)
