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
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.app import create_app
from api.fitness import ACL
from shared.contracts import KINDS
from shared.db import jobs
from shared.db.tables import Job
from shared.errors import NotFound
from shared.jobs import Ledger
from shared.settings import RedisSettings, Settings
from shared.states import ENDED, JobState
from tests.conftest import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

QUEUE = "modelyard.p2.io"
PASSWORD = "secret"
CANARY = "canary-of-the-pickle"


class Canary:
    def __reduce__(self) -> Any:
        return (os.system, (f"touch {CANARY}",))


@pytest.fixture
def least(settings: Settings) -> Iterator[str]:
    """The URL of the user of few rights that our documentation names."""
    url = settings.redis.url.get_secret_value()
    with redis.Redis.from_url(url) as client:
        client.execute_command(*ACL.replace("PASSWORD", PASSWORD).split(" "))
        yield url.replace("redis://", f"redis://modelyard:{PASSWORD}@")
        client.execute_command("ACL", "DELUSER", "modelyard")


@pytest.fixture
def worker(ledger: Ledger, least: str, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A real one, under the user of few rights."""
    more = {"MODELYARD_JOBS__IO_SLOTS": "1", "MODELYARD_JOBS__RESCUE_SECONDS": "1", "MODELYARD_REDIS__URL": least}
    environment = {**os.environ, **more, "HF_ENDPOINT": "http://127.0.0.1:9"}
    with (tmp_path / "worker.log").open("wb") as log:
        command = (sys.executable, "-m", "workers", "io")
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    with process:
        until(lambda: b"ready." in (tmp_path / "worker.log").read_bytes(), 60, "the worker")
        yield process
        process.terminate()
    assert process.returncode == 0
    assert b"no permissions" not in (tmp_path / "worker.log").read_bytes()


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
    "msgpack": envelope(b"\x93\x90\x80\x80", **{"content-type": "application/x-msgpack"}),
    "too large": envelope(json.dumps([[], {"model_id": "x" * 20_000_000}, {}]).encode()),
    "no envelope": "{}",
    "an envelope that is a list": "[]",
    "garbage": "\x00\x01 garbage",
}  # fmt: skip


HARMLESS = ("a time limit that is a number", "a header of ours that is none of theirs")


@pytest.mark.fault("A-81", "A-83", "A-84", "A-85")
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


NO_JOBS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("unknown_kind", "model.explode", {}),
    ("invalid_arguments", "model.verify", {}),
    ("invalid_arguments", "model.verify", {"model_id": 5}),
    ("invalid_arguments", "model.verify", {"model_id": ["one"]}),
    ("invalid_arguments", "model.verify", {"model_id": "one", "attempt": -1, "state": "succeeded"}),
    ("invalid_priority", "model.verify", {"model_id": "one", "priority": "SOON"}),
)


@pytest.mark.fault("A-82", "A-85")
def test_what_is_no_job_is_told_why(ledger: Ledger, worker: "subprocess.Popen[bytes]", theirs: Celery) -> None:
    for code, kind, kwargs in NO_JOBS:
        job = ended(ledger, theirs.send_task(kind, kwargs=kwargs, queue=QUEUE).id)
        assert job.error is not None
        assert (job.state, job.error["code"]) == (JobState.REJECTED, code), kwargs
    job = ended(ledger, theirs.send_task("model.verify", args=["one"], queue=QUEUE).id)
    assert job.state == JobState.REJECTED, "arguments must be named"


@pytest.mark.fault("A-86", "A-87")
def test_nothing_that_a_message_carries_along_runs(
    ledger: Ledger, settings: Settings, worker: "subprocess.Popen[bytes]", theirs: Celery
) -> None:
    """Callbacks, errbacks, chains, groups, and results that somebody forged."""
    forged = theirs.signature("model.remove", kwargs={"model_id": "two"}, queue=QUEUE, immutable=True)
    more = {"link": forged, "link_error": forged, "chain": [forged], "chord": forged, "group_id": "odd"}
    result = {"status": "FAILURE", "result": {"exc_module": "os", "exc_type": "system", "exc_message": [CANARY]}}
    with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:
        client.set("celery-task-meta-theirs", json.dumps({**result, "task_id": "theirs"}))
    sent = theirs.send_task("model.verify", kwargs={"model_id": "one"}, queue=QUEUE, task_id="theirs", **more)
    assert ended(ledger, sent.id).state == JobState.FAILED, "nothing is installed"
    after = theirs.send_task("model.verify", kwargs={"model_id": "two"}, queue=QUEUE)
    ended(ledger, after.id)
    with ledger.database.reading() as session:
        assert jobs.find(session, kind="model.remove") == []


def publisher(settings: Settings, **options: Any) -> Celery:
    """A client with other ideas about kombu's priorities."""
    app = Celery(broker=settings.redis.url.get_secret_value())
    app.conf.broker_transport_options = {"priority_steps": list(range(10)), **options}
    return app


@pytest.mark.fault("A-85")
def test_wherever_a_message_was_sent_it_is_found(
    ledger: Ledger, settings: Settings, worker: "subprocess.Popen[bytes]", theirs: Celery
) -> None:
    """Default queue, priority fields, misspelt queues, devices that never were; a device that is down keeps its own."""
    verify = {"kwargs": {"model_id": "one"}}
    with publisher(settings) as ten, publisher(settings, sep=":") as other:
        ways = {
            "the default queue": lambda: theirs.send_task("model.verify", **verify),
            "a priority that is read": lambda: theirs.send_task("model.verify", **verify, queue=QUEUE, priority=6),
            "another step": lambda: ten.send_task("model.verify", **verify, queue=QUEUE, priority=5),
            "another step of the default queue": lambda: ten.send_task("model.verify", **verify, priority=5),
            "another separator": lambda: other.send_task("model.verify", **verify, priority=5),
            "a typo": lambda: theirs.send_task("model.verify", **verify, queue="modelyard.p1-hihg"),
            "no such device": lambda: theirs.send_task("model.verify", **verify, queue="modelyard.p1.device.nosuch"),
        }
        down = theirs.send_task("model.switch", **verify, queue="modelyard.p1.device.cpu")
        for way, send in ways.items():
            assert ended(ledger, send().id).state == JobState.FAILED, f"{way}: nothing is installed"
    with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:
        (message,) = client.lrange("modelyard.p1.device.cpu", 0, -1)
    assert down.id in message.decode()


@pytest.mark.fault("A-88")
def test_beat_and_api_need_few_rights(ledger: Ledger, settings: Settings, least: str, tmp_path: Path) -> None:
    environment = {**os.environ, "MODELYARD_REDIS__URL": least, "MODELYARD_JOBS__RESCUE_SECONDS": "1"}
    with (tmp_path / "beat.log").open("wb") as log:
        command = (sys.executable, "-m", "workers", "beat")
        beat = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
    limited = settings.model_copy(update={"redis": RedisSettings(url=SecretStr(least))})
    with beat, TestClient(create_app(limited), base_url="http://127.0.0.1") as api:
        assert api.post("/api/v1/models/download", json={"model_id": "one"}).status_code == 202
        parts = api.get("/health/ready").json()["parts"]
        with redis.Redis.from_url(least) as client:
            until(lambda: client.llen("modelyard.p0.io"), what="beat's message")
            for forbidden in ("CONFIG SET dir /", "FLUSHALL", "KEYS *", "REPLICAOF NO ONE", "MODULE LIST", "ACL LIST"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*forbidden.split(" "))
            until(lambda: client.llen(QUEUE), what="the ticket")
        beat.terminate()
    assert parts["redis"] == {"ok": True, "detail": "answers"}
    assert b"no permissions" not in (tmp_path / "beat.log").read_bytes()


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
