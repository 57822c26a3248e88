"""What Prometheus is told, read by its own parser and, where it is installed, judged by its own tool."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from sqlmodel import Session, col, select, update

from api.events.subscriber import Places
from api.metrics.counters import FAILED, Counters
from api.metrics.names import METRICS
from api.metrics.page import Page
from api.metrics.tally import PAGE
from shared.contracts import Download, Switch, Verify
from shared.db.reports import Device, ModelHealth, StoreReport
from shared.db.session import Database, now
from shared.db.tables import Installation, Job, Residency
from shared.db.webhooks import Delivery
from shared.errors import Unavailable
from shared.jobs import Ledger
from shared.progress import Leases, Workers, connect
from shared.settings import Settings
from tests.api.conftest import Serve, Served
from tests.conftest import RealRedis

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(text: str) -> list[Family]:
    return list(text_string_to_metric_families(text))


def scraped(api: Served) -> Series:
    """Every sample by its name and labels, made anew."""
    api.front.metrics._made_at = -1e9
    answer = api.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    samples = [sample for each in families(answer.text) for sample in each.samples]
    found = {(sample.name, frozenset(sample.labels.items())): float(sample.value) for sample in samples}
    assert len(found) == len(samples), "a series is there twice"
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def absent(found: Series, name: str) -> bool:
    return all(known != name for known, _ in found)


def fill(ledger: Ledger) -> None:
    """Something of everything."""
    with ledger.database.session() as session:
        clock = session.exec(select(now())).one()
        details = {"memoryFree": 60, "memoryLimit": 80, "utilisation": 0.5, "temperature": 41, "power": 70.5}
        session.add(Device(id="gpu0", kind="gpu", name="G", node="a", memory_total=100, details=details, seen_at=clock))
        for number, (state, size) in enumerate((("ready", 30), ("ready", 5), ("asleep", 0), ("crash_loop", 0))):
            session.add(Residency(
                id=f"r{number}", model_id="one" if number < 2 else "two", model_type="llm", revision="1", device="gpu0",
                runtime="torch", state=state, memory_bytes=size, kept_bytes=9, started_at=clock,
            ))  # fmt: skip
        for model_id, state in (("one", "published"), ("two", "corrupt")):
            session.add(Installation(
                model_id=model_id, model_type="llm", revision="1", state=state, path="/", size=3, files=1,
                integrity=1.0, published_at=5.0, verified_at=5.0, latest_revision="2",
            ))  # fmt: skip
        session.add(ModelHealth(model_id="one", published_at=5.0, state="unhealthy", since=6.0, checked_at=6.0))
        report = {"diskTotal": 1000, "diskFree": 100, "modelsSize": 7, "sharedBytes": 1, "partialsSize": 2,
                  "trashSize": 4}  # fmt: skip
        session.add(StoreReport(store="s", node='a\n"b\\', report=report, measured_at=clock))
        session.add(Delivery(id="d", webhook_id="w", event="e", body="{}", state="dead", created_at=clock, since=clock))
        session.add(Delivery(id="p", webhook_id="w", event="e", body="{}", created_at=clock, since=clock - 50))


def test_levels_are_as_the_rows_and_redis_say(api: Served, ledger: Ledger) -> None:
    fill(ledger)
    one = ledger.submit(Download(model_id="one"), origin="rest").job
    ledger.submit(Verify(model_id="two"), origin="rest")
    with ledger.database.session() as session:
        session.exec(update(Job).where(col(Job.id) == one.id).values(sent_at=now() - 500))
    leases = Leases(api.front.redis)
    api.front.workers.report("io", "w1")
    api.front.workers.report("io", "w2")
    api.front.workers.note_beat()
    with leases.held("r0"), leases.held("r1"):
        found = scraped(api)
    assert value(found, "modelyard_database_up") == value(found, "modelyard_redis_up") == 1
    assert value(found, "modelyard_jobs", kind="model.download", state="queued") == 1
    priority = {0: "CRITICAL", 1: "HIGH", 2: "MEDIUM", 3: "LOW"}[one.priority]
    assert value(found, "modelyard_queue_jobs", lane="io", priority=priority) >= 1
    assert 500 <= value(found, "modelyard_queue_oldest_age_seconds", lane="io", priority=priority) < 1000
    assert value(found, "modelyard_queue_jobs", lane="device.gpu0", priority="LOW") == 0
    assert value(found, "modelyard_lane_workers", lane="io") == 2
    assert value(found, "modelyard_lane_workers", lane="device.cpu") == 0, "a lane without a worker is told"
    assert value(found, "modelyard_beat_last_seen_timestamp_seconds") > 1e9
    assert value(found, "modelyard_leases", device="gpu0") == 2
    assert value(found, "modelyard_device_up", device="gpu0", node="a", kind="gpu") == 1
    assert value(found, "modelyard_device_up", device="cpu", node="local", kind="cpu") == 0
    assert value(found, "modelyard_device_memory_free_bytes", device="gpu0") == 60
    assert value(found, "modelyard_device_power_watts", device="gpu0") == 70.5
    assert value(found, "modelyard_residencies", device="gpu0", state="crash_loop") == 1
    assert value(found, "modelyard_resident_bytes", device="gpu0", state="ready") == 35
    assert value(found, "modelyard_resident_model_bytes", device="gpu0", model="one", state="ready") == 35
    assert value(found, "modelyard_installed_models", health="unhealthy") == 1
    assert value(found, "modelyard_installed_models", health="corrupted") == 1
    assert value(found, "modelyard_models_outdated") == 2
    assert value(found, "modelyard_store_disk_free_bytes", store="s", node='a\n"b\\') == 100
    assert value(found, "modelyard_webhook_deliveries", state="dead") == 1
    assert value(found, "modelyard_webhook_oldest_pending_age_seconds") >= 50


def test_every_metric_is_there_as_it_is_described(api: Served, ledger: Ledger) -> None:
    fill(ledger)
    api.http.post("/v1/chat/completions", json={"model": "nobody", "messages": []})
    answer = api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    foreign = ("process_", "python_gc_")
    for each in families(answer.text):
        if not each.name.startswith(foreign):
            name = f"{each.name}_total" if each.type == "counter" else each.name
            described = METRICS[name]
            assert (each.type, each.documentation) == (described.kind, described.help)
            for sample in each.samples:
                assert sample.labels.keys() - {"le"} == set(described.labels), name
    told = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# HELP")}
    assert {name for name in told if not name.startswith(foreign)} == METRICS.keys()


def test_names_follow_the_conventions() -> None:
    for name, each in METRICS.items():
        assert name.startswith("modelyard_")
        assert name.endswith("_total") == (each.kind == "counter"), name
        assert not any(word in name for word in ("millisecond", "_ms", "_mb", "_kb", "percent")), name
        assert each.help.endswith("."), name
        assert len(set(each.labels)) == len(each.labels) <= 3


def test_prometheus_own_tool_finds_nothing(api: Served, ledger: Ledger) -> None:
    if (tool := shutil.which("promtool")) is None:
        pytest.skip("promtool is missing: `apt install prometheus`")
    fill(ledger)
    text = api.http.get("/metrics").text
    checked = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def end(ledger: Ledger, job_id: str, state: str, **values: Any) -> None:
    with ledger.database.session() as session:
        session.exec(update(Job).where(col(Job.id) == job_id).values(state=state, finished_at=now(), **values))


def test_jobs_are_counted_once_as_they_end(serve: Serve, ledger: Ledger) -> None:
    old = ledger.submit(Verify(model_id="one"), origin="rest").job
    end(ledger, old.id, "succeeded", started_at=1.0)
    api = serve()
    switch = ledger.submit(Switch(model_id="one"), origin="rest").job
    fetch = ledger.submit(Download(model_id="two"), origin="rest").job
    end(ledger, fetch.id, "failed", attempt=3, retries=2, lost=1, bytes_done=70)
    result = {"loadSeconds": 3.0, "runtime": "torch"}
    with ledger.database.session() as session:
        session.exec(update(Job).where(col(Job.id) == switch.id).values(started_at=now() - 20, attempt=1))
    end(ledger, switch.id, "succeeded", result=result)
    for _ in range(2):
        found = scraped(api)
        assert value(found, "modelyard_jobs_ended_total", kind="model.verify", outcome="succeeded") == 0
        assert value(found, "modelyard_jobs_ended_total", kind="model.download", outcome="failed") == 1
        assert value(found, "modelyard_job_attempts_total", kind="model.download") == 3
        assert value(found, "modelyard_job_retries_total", kind="model.download") == 2
        assert value(found, "modelyard_job_lost_workers_total", kind="model.download") == 1
        assert value(found, "modelyard_job_bytes_total", kind="model.download") == 70
        assert value(found, "modelyard_job_duration_seconds_bucket", kind="model.switch", le="10.0") == 0
        assert value(found, "modelyard_job_duration_seconds_bucket", kind="model.switch", le="30.0") == 1
        assert value(found, "modelyard_model_load_duration_seconds_sum", runtime="torch") == 3.0
    ledger.retry(fetch.id)
    shared = {"sharedBytes": 4, "refetchedBytes": 6}
    end(ledger, fetch.id, "succeeded", attempt=4, bytes_done=100, result=shared, started_at=1.0)
    found = scraped(api)
    assert value(found, "modelyard_jobs_ended_total", kind="model.download", outcome="failed") == 1, "never falls"
    assert value(found, "modelyard_jobs_ended_total", kind="model.download", outcome="succeeded") == 1
    assert value(found, "modelyard_job_attempts_total", kind="model.download") == 4
    assert value(found, "modelyard_shared_bytes_total") == 4
    assert value(found, "modelyard_refetched_bytes_total") == 6


def test_what_is_committed_late_is_counted_and_what_strangers_write_makes_no_series(
    api: Served, ledger: Ledger
) -> None:
    def rejected(found: Series) -> float:
        return value(found, "modelyard_jobs_ended_total", kind="unknown", outcome="rejected")

    for number in range(3):
        ledger.reject(f"job-{number}", f"kind-{number}", {}, Unavailable("x", "y", "z"))
    found = scraped(api)
    assert rejected(found) == 3
    ledger.reject("late", "kind-late", {}, Unavailable("x", "y", "z"))
    with ledger.database.session() as session:
        first = session.exec(select(Job.finished_at).where(col(Job.id) == "job-0")).one()
        session.exec(update(Job).where(col(Job.id) == "late").values(finished_at=first))
    found = scraped(api)
    assert rejected(found) == 4
    kinds = {dict(labels).get("kind", "") for _, labels in found}
    assert not any(kind.startswith("kind-") for kind in kinds)


def test_many_that_ended_at_one_moment_are_all_counted(api: Served, ledger: Ledger, database: Database) -> None:
    many = PAGE + 500
    rows = [
        {"id": f"j{number:05}", "kind": "model.verify", "lane": "io", "priority": 2, "urgency": 2, "origin": "rest",
         "state": "succeeded", "desired": "run", "attempt": 1, "args": {}, "parts": [], "not_before": 0.0}
        for number in range(many)
    ]  # fmt: skip
    with ledger.database.session() as session:
        clock = session.exec(select(now())).one()
        session.add_all(Job(**row, created_at=clock, started_at=clock, finished_at=clock) for row in rows)
    for _ in range(2):
        found = scraped(api)
        assert value(found, "modelyard_jobs_ended_total", kind="model.verify", outcome="succeeded") == many


def test_requests_and_streams_are_counted(api: Served, ledger: Ledger) -> None:
    with api.follow() as frames:
        next(frames)
        found = scraped(api)
        assert value(found, "modelyard_event_streams") == 1
    before = value(found, "modelyard_gateway_requests_total", outcome="refused")
    assert api.http.post("/v1/chat/completions", json={"model": "nobody", "messages": []}).status_code >= 400
    body = {"model": "nobody", "messages": [{"role": "user", "content": "Hello"}]}
    assert api.http.post("/v1/chat/completions", json=body).status_code == 404
    after = scraped(api)
    assert value(after, "modelyard_gateway_requests_total", outcome="refused") == before + 1
    assert value(after, "modelyard_gateway_requests_total", outcome="answered") == 0


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_what_is_away_is_told(api: Served, ledger: Ledger, redis_server: RealRedis) -> None:
    redis_server.stop()
    try:
        found = scraped(api)
        assert value(found, "modelyard_redis_up") == 0
        assert absent(found, "modelyard_lane_workers")
        assert value(found, "modelyard_database_up") == 1
    finally:
        redis_server.start()


class Away(Database):
    """The real one, until it is away."""

    away = False

    @contextmanager
    def reading(self) -> Iterator[Session]:
        if self.away:
            raise Unavailable("database_unavailable", "It does not answer.", "Try again.")
        with super().reading() as session:
            yield session


def test_without_a_database_the_rest_is_told(settings: Settings, ledger: Ledger) -> None:
    class Nobody:
        places, heard, held = Places(10, 10), 7, 3

    Nobody.places.taken = 2

    database, counters, client = Away(settings.database), Counters(), connect(settings.redis)
    page = Page(database, Workers(client), Leases(client), counters)
    done = ledger.submit(Verify(model_id="one"), origin="rest").job
    database.away = True
    counters.request(FAILED, 2.0)
    try:
        text = page.text(Nobody(), Nobody(), 10).decode()
        for line in (
            "modelyard_database_up 0.0", "modelyard_redis_up 1.0", "modelyard_event_streams 2.0",
            "modelyard_gateway_held_requests 3.0", "modelyard_events_total 7.0",
            'modelyard_gateway_requests_total{outcome="failed"} 1.0',
        ):  # fmt: skip
            assert line in text.splitlines()
        assert "modelyard_queue_jobs{" not in text
        end(ledger, done.id, "succeeded", started_at=1.0)
        database.away, page._made_at = False, -1e9
        text = page.text(Nobody(), Nobody(), 10).decode()
        told = 'modelyard_jobs_ended_total{kind="model.verify",outcome="succeeded"} 1.0'
        assert told in text.splitlines(), "what ended meanwhile is not lost"
    finally:
        client.close()
        database.close()
