"""From message to outcome: the one way of every kind, with a real ledger and bodies made for the occasion."""

import contextlib
import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.contracts import Download, Switch, Verify
from shared.db import jobs, limits, nodes
from shared.db.reports import Node
from shared.db.tables import Installation, Job
from shared.errors import Corrupt, Failed, LeaseLost, Snooze, Unavailable
from shared.jobs import Ledger
from shared.limits import Limit
from shared.progress import Leases, Workers
from shared.queues import store_lane
from shared.settings import JobSettings, Settings
from shared.states import JobState, Priority
from tests.conftest import until
from workers.job import BODIES, Heart, Message, Services, Work, receive
from workers.rescue import rescue
from workers.store.layout import Layout

Body = Callable[[Any, Work], dict[str, Any]]


@pytest.fixture
def services(ledger: Ledger, settings: Settings, tmp_path: Path) -> Services:
    fast = settings.model_copy(
        update={"jobs": JobSettings(heartbeat_seconds=0.05, lease_seconds=30, rescue_seconds=0.001)}
    )
    ledger.settings = fast.jobs
    client = ledger.events.client
    return Services(
        fast, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger,
        Layout(tmp_path / "store"), "worker@test",
    )  # fmt: skip


@pytest.fixture
def heart(services: Services) -> Iterator[Heart]:
    heart = Heart(services, ("io",), slots=4)
    heart.start()
    yield heart
    heart.close()
    heart.join()


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    """Gives `model.download` another body for one test; the registry is what a process fills at its start."""
    return lambda replacement: monkeypatch.setitem(BODIES, "model.download", replacement)


def deliver(services: Services, heart: Heart, job: Job, **changes: Any) -> Job:
    message = Message(job.id, job.kind, (), job.args, f"modelyard.p{job.priority}.{job.lane}", job.ticket)
    receive(services, heart, message._replace(**changes))
    return read(services, job.id)


def read(services: Services, job_id: str) -> Job:
    with services.database.reading() as session:
        return jobs.get(session, job_id)


def submit(services: Services) -> Job:
    return services.ledger.submit(Download(model_id="one"), origin="test").job


def test_what_a_body_returns_is_the_result(services: Services, heart: Heart, body: Callable[[Body], None]) -> None:
    def run(args: Download, work: Work) -> dict[str, Any]:
        work.report("downloading", done=3, total=10)
        work.report("downloading", done=10, total=10)
        return {"of": args.model_id}

    body(run)
    job = deliver(services, heart, submit(services))
    assert (job.state, job.result, job.bytes_done, job.bytes_total) == (JobState.SUCCEEDED, {"of": "one"}, 10, 10)


def test_a_job_on_files_of_another_store_is_handed_on(
    services: Services, heart: Heart, body: Callable[[Body], None]
) -> None:
    """It was asked for before there was another store, and carries a ticket of the lane of all."""
    begun: list[int] = []
    body(lambda *_: begun.append(1) or {})
    job = submit(services)
    with services.database.session() as session:
        for name, store in (("hut", "a" * 32), ("barn", "b" * 32)):
            nodes.report(session, Node(name=name, machine=name, store=store, seen_at=0.0), io=True)
        session.add(
            Installation(
                model_id="one", model_type="llm", revision="r1", state="published", store="b" * 32, path="/", size=1,
                files=1, integrity=1.0, published_at=1.0, verified_at=1.0,
            )
        )  # fmt: skip
    services.ledger._one_store_until = 0.0  # as of another process, which joined since
    moved = deliver(services, heart, job)
    assert (moved.state, moved.lane, moved.ticket) == (JobState.QUEUED, store_lane("b" * 32), job.ticket + 1)
    assert begun == []


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (Corrupt("checksum_mismatch", "Wrong bytes.", "Try another mirror."), JobState.FAILED, "checksum_mismatch"),
        (Failed("runner_exited", "It exited.", "See its log."), JobState.FAILED, "runner_exited"),
        (Unavailable("source_busy", "Later.", "", None, 60), JobState.QUEUED, "source_busy"),
        (Snooze(60, "waits for the disk"), JobState.QUEUED, "waiting"),
        (ZeroDivisionError("inner words"), JobState.FAILED, "internal_error"),
    ],
)
def test_errors_decide_the_outcome(
    services: Services, heart: Heart, body: Callable[[Body], None], error: Exception, state: JobState, code: str
) -> None:
    def run(_: Download, __: Work) -> dict[str, Any]:
        raise error

    body(run)
    job = deliver(services, heart, submit(services))
    assert job.state == state
    assert job.error is not None
    assert job.error["code"] == code
    assert "inner words" not in str(job.error), "nothing internal leaks"
    assert job.retries == int(code == "source_busy"), "a snooze is not counted"
    assert (job.not_before > job.created_at + 50) == (state == JobState.QUEUED)


def test_passing_faults_are_retried_so_often_and_no_more(
    services: Services, heart: Heart, body: Callable[[Body], None]
) -> None:
    def run(_: Download, __: Work) -> dict[str, Any]:
        raise Unavailable("source_busy", "Later.")

    body(run)
    services.settings.jobs.max_retries = 2
    services.settings.jobs.backoff_seconds = 1e-6
    job = submit(services)
    for _ in range(2):
        assert deliver(services, heart, job).state == JobState.QUEUED
        job = read(services, job.id)
    assert deliver(services, heart, job).state == JobState.FAILED


@pytest.mark.parametrize(("wish", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_running_body_hears_what_people_want(
    services: Services, heart: Heart, body: Callable[[Body], None], wish: str, state: JobState
) -> None:
    running = threading.Event()

    def run(_: Download, work: Work) -> dict[str, Any]:
        running.set()
        return until(work.checkpoint)  # type: ignore[func-returns-value, no-any-return] # it raises

    body(run)
    job = submit(services)
    thread = threading.Thread(target=deliver, args=(services, heart, job))
    thread.start()
    assert running.wait(10)
    getattr(services.ledger, wish)(job.id)
    thread.join(10)
    assert read(services, job.id).state == state


def test_a_closing_worker_gives_its_jobs_back(services: Services, heart: Heart, body: Callable[[Body], None]) -> None:
    def run(_: Download, work: Work) -> dict[str, Any]:
        heart.close()
        work.checkpoint()
        return {}

    body(run)
    job = deliver(services, heart, submit(services))
    assert (job.state, job.ticket, job.lost, job.retries) == (JobState.QUEUED, 2, 0, 0)
    assert job.sent_at is not None, "its next ticket is out at once"


def test_an_attempt_that_lost_its_lease_writes_nothing(
    services: Services, heart: Heart, body: Callable[[Body], None]
) -> None:
    def run(_: Download, work: Work) -> dict[str, Any]:
        services.ledger.again(work.job_id, work.attempt, 60)  # as the rescue of another process would
        work.confirm()
        return {"stale": True}

    body(run)
    job = deliver(services, heart, submit(services))
    assert (job.state, job.result) == (JobState.QUEUED, None)


def test_a_second_delivery_finds_nothing_to_do(services: Services, heart: Heart, body: Callable[[Body], None]) -> None:
    runs: list[int] = []

    def run(_: Download, work: Work) -> dict[str, Any]:
        runs.append(work.attempt)
        return {}

    body(run)
    job = submit(services)
    for _ in range(3):
        deliver(services, heart, job)
    assert runs == [1]


def test_progress_of_the_whole_job(services: Services, heart: Heart, body: Callable[[Body], None]) -> None:
    seen = []

    def run(_: Download, work: Work) -> dict[str, Any]:
        work.span = (0.0, 0.4)
        work.report("verifying", done=5, total=10)
        seen.append(work.progress)
        work.span = (0.4, 1.0)
        work.report("downloading", done=0, total=10)
        seen.append(work.progress)
        work.report("publishing")
        seen.append(work.progress)
        return {}

    body(run)
    deliver(services, heart, submit(services))
    assert [step and step.fraction for step in seen] == [pytest.approx(0.2), pytest.approx(0.4), None]
    assert seen[-1] is not None
    assert (seen[-1].bytes_done, seen[-1].bytes_total) == (0, 10), "bytes stay known"


def test_a_speed_is_told_once_it_was_measured(services: Services) -> None:
    job = submit(services)
    claimed = services.ledger.claim(job.id, 1, "worker")
    assert claimed is not None
    work = Work(services, claimed)
    told = []
    found = 500_000_000  # by a resume, on disk
    for moment, done in ((0.0, found), (0.3, found + 464), (1.0, found + 40_000_000), (2.0, found + 80_000_000)):
        work._measure(moment, done)
        told.append(work._speed)
    assert told == [None, None, 40_000_000, 40_000_000]


class TestForeignMessages:
    def message(self, **changes: Any) -> Message:
        return Message("their-id", "model.download", (), {"model_id": "one"}, "modelyard.p1.io", None)._replace(
            **changes
        )

    def test_on_its_lane_it_runs_at_once(self, services: Services, heart: Heart, body: Callable[[Body], None]) -> None:
        body(lambda _, __: {})
        receive(services, heart, self.message())
        job = read(services, "their-id")
        assert (job.state, job.origin, job.priority) == (JobState.SUCCEEDED, "foreign", Priority.HIGH)

    def test_on_the_intake_it_is_filed(self, services: Services, heart: Heart) -> None:
        receive(services, heart, self.message(queue="celery", kwargs={"modelId": "one", "priority": "critical"}))
        job = read(services, "their-id")
        assert (job.state, job.priority) == (JobState.QUEUED, Priority.CRITICAL)
        assert services.broker.waiting(["modelyard.p0.io"]) == {("their-id", 1)}

    def test_a_device_job_never_runs_on_an_io_worker(self, services: Services, heart: Heart) -> None:
        for _ in range(2):  # delivered twice, too
            receive(services, heart, self.message(kind=Switch.kind))
        job = read(services, "their-id")
        assert (job.state, job.lane) == (JobState.QUEUED, "device.cpu")

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"kwargs": {}}, "invalid_arguments"),
            ({"kwargs": {"model_id": "../etc"}}, "invalid_arguments"),
            ({"kwargs": {"model_id": "one", "path": "/"}}, "invalid_arguments"),
            ({"kwargs": {"model_id": 7}}, "invalid_arguments"),
            ({"args": ("one",)}, "invalid_arguments"),
            ({"kwargs": {"model_id": "one", "priority": "urgent"}}, "invalid_priority"),
        ],
    )
    def test_what_does_not_fit_is_rejected_with_the_reason(
        self, services: Services, heart: Heart, changes: dict[str, Any], code: str
    ) -> None:
        receive(services, heart, self.message(**changes))
        job = read(services, "their-id")
        assert job.state == JobState.REJECTED
        assert job.error is not None
        assert (job.error["code"], bool(job.error["hint"])) == (code, True)

    def test_the_same_work_joins(self, services: Services, heart: Heart) -> None:
        live = submit(services)
        receive(services, heart, self.message())
        job = read(services, "their-id")
        assert job.error is not None
        assert (job.error["code"], job.error["details"]) == ("joined", {"jobId": live.id})


class TestRescue:
    def test_it_finds_a_lost_worker(self, services: Services) -> None:
        job = submit(services)
        services.ledger.settings.lease_seconds = -1
        services.ledger.claim(job.id, 1, "a worker that died")
        rescue(services)
        assert read(services, job.id).state == JobState.QUEUED
        assert (job.id, 2) in services.broker.waiting(["modelyard.p2.io"])

    def test_it_finds_a_lost_ticket_and_leaves_the_others(
        self, services: Services, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.rescue.LOST_TICKET_SECONDS", -1)
        job = submit(services)
        kept = services.ledger.submit(Verify(model_id="two"), origin="test").job
        services.events.client.delete("modelyard.p2.io")
        services.ledger.broker.send(kept)
        rescue(services)
        rescue(services)
        assert services.broker.waiting(["modelyard.p2.io"]) == {(job.id, 2), (kept.id, 1)}

    def test_it_sends_what_is_due(self, services: Services) -> None:
        job = submit(services)
        services.ledger.claim(job.id, 1, "worker")
        services.ledger.again(job.id, 1, 1e-6)
        until(lambda: rescue(services) or (job.id, 2) in services.broker.waiting(["modelyard.p2.io"]))  # type: ignore[func-returns-value] # then look


@pytest.mark.fault("F-30")
@pytest.mark.parametrize("taken", [False, True])
def test_a_body_waits_for_a_ledger_that_is_out_of_reach(services: Services, heart: Heart, taken: bool) -> None:
    """It goes on where its fence still holds, and stops where another attempt owns the job by then."""
    job = submit(services)
    claimed = services.ledger.claim(job.id, 1, "worker")
    assert claimed is not None
    work = Work(services, claimed)
    database, services.ledger.database = services.ledger.database, None  # type: ignore[assignment] # gone
    heart.hold(work)
    work.last_beat -= services.settings.jobs.lease_seconds
    with ThreadPoolExecutor(1) as body:
        waiting = body.submit(work.checkpoint)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        if taken:
            theirs = copy.copy(services.ledger)
            theirs.database = database
            theirs.again(job.id, 1, 0)
        services.ledger.database = database
        with pytest.raises(LeaseLost) if taken else contextlib.nullcontext():
            waiting.result(10)
    heart.release(work)


class Busy(Ledger):
    """Finds the database locked every other time that a worker needs it for what no heartbeat repeats."""

    def __init__(self, real: Ledger) -> None:
        self.__dict__.update(vars(real))
        self._tries: Counter[str] = Counter()

    def claim(self, *args: Any) -> Job | None:
        self._locked("claim")
        return super().claim(*args)

    def let_in(self) -> list[Job]:
        self._locked("let_in")
        return super().let_in()

    def _locked(self, what: str) -> None:
        self._tries[what] += 1
        if self._tries[what] % 2:
            raise Unavailable("database_busy", "Another program keeps the database locked.")


def test_a_database_that_is_locked_for_a_moment_leaves_nothing_to_the_rescue(
    services: Services, heart: Heart, body: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message is used up once it has arrived, and an end is heard once: who finds it locked looks again."""
    for pause in ("CLAIM_AGAIN_SECONDS", "OUTCOME_AGAIN_SECONDS"):
        monkeypatch.setattr(f"workers.job.{pause}", 0.01)
    with services.database.session() as session:
        limits.put(session, Limit("all", jobs=1))
    services.ledger = Busy(services.ledger)
    one, two = (services.ledger.submit(Download(model_id=name), origin="test").job for name in ("one", "two"))

    def run(args: Download, _: Work) -> dict[str, Any]:
        held = deliver(services, heart, two)
        assert (args.model_id, held.error and held.error["code"]) == ("one", limits.LIMIT_REACHED)
        return {}

    body(run)
    assert deliver(services, heart, one).state == JobState.SUCCEEDED
    sent = read(services, two.id)
    assert (sent.state, sent.not_before) == (JobState.QUEUED, 0.0), "let in by the end of the other"
    assert (two.id, sent.ticket) in services.broker.waiting(["modelyard.p2.io"])
