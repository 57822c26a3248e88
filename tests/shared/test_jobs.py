"""The ledger on both databases, with a real Redis: every transition, its guard, and its fence."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from sqlalchemy import update
from sqlmodel import col

from shared.broker import Broker, make_app
from shared.contract import Contract
from shared.contracts import Deliver, Download, Remove, Switch, Verify
from shared.db import jobs
from shared.db.tables import Job
from shared.errors import Conflict, Failed, Invalid, NotFound, Unavailable
from shared.jobs import Ask, Ledger, Progress
from shared.queues import queue_name
from shared.settings import RedisSettings, Settings
from shared.states import Desired, JobState, Priority
from tests.conftest import free_port

ONE, TWO = Download(model_id="one"), Download(model_id="two")


def read(ledger: Ledger, job_id: str) -> Job:
    with ledger.database.reading() as session:
        return jobs.get(session, job_id)


def running(ledger: Ledger, contract: Download = ONE) -> Job:
    job = ledger.submit(contract, origin="test").job
    claimed = ledger.claim(job.id, job.ticket, "worker")
    assert claimed is not None
    return claimed


def expire(ledger: Ledger, job_id: str) -> None:
    with ledger.database.session() as session:
        session.exec(update(Job).where(col(Job.id) == job_id).values(lease_until=1.0))


def waiting(ledger: Ledger) -> set[tuple[str, int]]:
    return ledger.broker.waiting([f"modelyard.p{number}.io" for number in range(4)])


def test_submit_records_then_rings(ledger: Ledger) -> None:
    job, created = ledger.submit(ONE, origin="test", priority=Priority.LOW)
    assert created
    assert (job.id, 1) in waiting(ledger)
    stored = read(ledger, job.id)
    assert (stored.state, stored.lane, stored.priority) == (JobState.QUEUED, "io", Priority.LOW)
    assert stored.sent_at is not None
    assert stored.args == {"model_id": "one", "force_redownload": False}


def test_same_work_joins_and_lifts_the_priority(ledger: Ledger) -> None:
    first = ledger.submit(ONE, origin="test", priority=Priority.LOW).job
    second, created = ledger.submit(ONE, origin="test", priority=Priority.CRITICAL)
    assert (second.id, created) == (first.id, False)
    assert second.priority == Priority.CRITICAL
    assert ledger.claim(first.id, 1, "worker") is None, "the ticket at the old priority is void"
    assert ledger.claim(first.id, second.ticket, "worker") is not None


def test_fifty_at_once_are_one_job(ledger: Ledger) -> None:
    with ThreadPoolExecutor(10) as pool:
        submitted = list(pool.map(lambda _: ledger.submit(ONE, origin="test"), range(50)))
    assert len({entry.job.id for entry in submitted}) == 1
    assert sum(entry.created for entry in submitted) == 1


def test_one_ticket_is_claimed_once(ledger: Ledger) -> None:
    job = ledger.submit(ONE, origin="test").job
    with ThreadPoolExecutor(10) as pool:
        claims = list(pool.map(lambda n: ledger.claim(job.id, 1, f"worker {n}"), range(20)))
    assert sum(claim is not None for claim in claims) == 1


def test_a_waiting_job_changes_its_priority(ledger: Ledger) -> None:
    job = ledger.submit(ONE, origin="test", priority=Priority.LOW).job
    moved = ledger.reprioritise(job.id, Priority.CRITICAL)
    assert (job.id, moved.ticket) in ledger.broker.waiting(["modelyard.p0.io"])
    ledger.pause(job.id)
    assert ledger.reprioritise(job.id, Priority.HIGH).state == JobState.PAUSED
    ledger.cancel(job.id)
    with pytest.raises(Conflict):
        ledger.reprioritise(job.id, Priority.HIGH)


def test_a_device_job_goes_to_a_device(ledger: Ledger) -> None:
    assert ledger.submit(Switch(model_id="one"), origin="test").job.lane == "device.cpu"


def test_a_run_from_start_to_end(ledger: Ledger) -> None:
    job = running(ledger)
    assert (job.attempt, job.state) == (1, JobState.RUNNING)
    assert ledger.beat(job.id, 1, Progress("downloading", 0.5, 5, 10, 2.0)) is Desired.RUN
    assert ledger.beat(job.id, 1, Progress("downloading", 0.3, 3, 10, 2.0)) is Desired.RUN
    assert read(ledger, job.id).progress == pytest.approx(0.5), "progress never goes back"
    assert ledger.succeed(job.id, 1, {"size": 10})
    done = read(ledger, job.id)
    assert (done.state, done.result, done.progress, done.lease_until) == (JobState.SUCCEEDED, {"size": 10}, 1.0, None)
    assert done.finished_at is not None
    assert done.started_at is not None
    assert done.finished_at >= done.started_at >= done.created_at


def test_the_fence_holds_a_worker_that_was_away(ledger: Ledger) -> None:
    job = running(ledger)
    expire(ledger, job.id)
    (moved,) = ledger.recover_lost()
    again = ledger.claim(job.id, moved.ticket, "another")
    assert again is not None
    assert again.attempt == 2
    assert ledger.beat(job.id, 1, None) is None
    assert not ledger.succeed(job.id, 1, {"stale": True})
    assert not ledger.fail(job.id, 1, Failed("late", "too late"))
    assert not ledger.stop(job.id, 1)
    assert ledger.succeed(job.id, 2, None)


def test_a_job_that_kills_its_workers_ends(ledger: Ledger) -> None:
    job = running(ledger)
    for _ in range(2):
        expire(ledger, job.id)
        (moved,) = ledger.recover_lost()
        assert moved.state == JobState.QUEUED
        assert ledger.claim(job.id, moved.ticket, "worker") is not None
    expire(ledger, job.id)
    (ended,) = ledger.recover_lost()
    assert ended.state == JobState.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "worker_lost"


@pytest.mark.parametrize(("wish", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_wish_reaches_waiting_and_running_jobs(ledger: Ledger, wish: str, state: JobState) -> None:
    waits = ledger.submit(TWO, origin="test").job
    assert getattr(ledger, wish)(waits.id).state == state
    assert getattr(ledger, wish)(waits.id).state == state, "twice is once"
    assert ledger.claim(waits.id, 1, "worker") is None
    runs = running(ledger)
    assert getattr(ledger, wish)(runs.id).state == JobState.RUNNING
    assert ledger.beat(runs.id, 1, None) == Desired(wish)
    assert ledger.stop(runs.id, 1)
    assert read(ledger, runs.id).state == state


@pytest.mark.parametrize(("wish", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_wish_wins_over_a_retry(ledger: Ledger, wish: str, state: JobState) -> None:
    """The body met a passing fault, or its worker was shut down, before it heard."""
    job = running(ledger)
    getattr(ledger, wish)(job.id)
    assert ledger.again(job.id, 1, 0)
    ended = read(ledger, job.id)
    assert (ended.state, ended.finished_at is not None) == (state, state == JobState.CANCELLED)
    if wish == "pause":
        assert ledger.claim(job.id, ledger.resume(job.id).ticket, "worker") is not None


def test_cancel_wins_over_pause(ledger: Ledger) -> None:
    job = running(ledger)
    ledger.pause(job.id)
    ledger.cancel(job.id)
    with pytest.raises(Conflict):
        ledger.pause(job.id)
    assert ledger.stop(job.id, 1)
    assert read(ledger, job.id).state == JobState.CANCELLED


def test_a_wish_outlives_its_worker(ledger: Ledger) -> None:
    job = running(ledger)
    ledger.cancel(job.id)
    expire(ledger, job.id)
    (ended,) = ledger.recover_lost()
    assert ended.state == JobState.CANCELLED


def test_what_has_ended_cannot_be_cancelled(ledger: Ledger) -> None:
    job = running(ledger)
    ledger.succeed(job.id, 1, None)
    with pytest.raises(Conflict, match="succeeded"):
        ledger.cancel(job.id)


def test_resume_and_retry(ledger: Ledger) -> None:
    job = ledger.submit(ONE, origin="test").job
    ledger.pause(job.id)
    resumed = ledger.resume(job.id)
    assert (resumed.state, resumed.ticket) == (JobState.QUEUED, 2)
    claimed = ledger.claim(job.id, 2, "worker")
    assert claimed is not None
    ledger.fail(job.id, claimed.attempt, Failed("broken", "It broke.", "Mend it."))
    with pytest.raises(Conflict):
        ledger.resume(job.id)
    retried = ledger.retry(job.id)
    assert (retried.state, retried.error, retried.finished_at) == (JobState.QUEUED, None, None)
    assert (job.id, retried.ticket) in waiting(ledger)


def test_retry_gives_way_to_a_job_that_does_the_same(ledger: Ledger) -> None:
    job = ledger.submit(ONE, origin="test").job
    ledger.cancel(job.id)
    ledger.submit(ONE, origin="test")
    with pytest.raises(Conflict, match="same work"):
        ledger.retry(job.id)


def test_later_means_later(ledger: Ledger) -> None:
    job = running(ledger)
    assert ledger.again(job.id, 1, 60, {"code": "busy"}, counted=True)
    stored = read(ledger, job.id)
    assert (stored.state, stored.retries, stored.ticket, stored.sent_at) == (JobState.QUEUED, 1, 2, None)
    assert ledger.claim(job.id, 2, "worker") is None, "not before its time"
    with ledger.database.reading() as session:
        assert jobs.unsent(session) == []


def test_a_foreign_message_on_its_lane_runs_there(ledger: Ledger) -> None:
    job, created = ledger.adopt(ONE, origin="foreign", priority=None, job_id="their-id", here="io")
    assert created
    assert (job.id, job.priority) == ("their-id", Priority.MEDIUM)
    assert waiting(ledger) == set(), "the message itself is the ticket"
    assert ledger.claim("their-id", 1, "worker") is not None


def test_a_foreign_message_elsewhere_is_filed(ledger: Ledger) -> None:
    ledger.adopt(ONE, origin="foreign", priority=Priority.HIGH, job_id="their-id", here=None)
    assert waiting(ledger) == {("their-id", 1)}


def test_a_bad_message_is_kept_with_its_reason(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.reject("bad-id", "model.fly", {"x": 1}, Invalid("unknown_kind", "no such kind", "see the docs"))
    row = read(ledger, "bad-id")
    assert row.state == JobState.REJECTED
    assert row.error is not None
    assert row.error["hint"] == "see the docs"


def test_redis_away_keeps_the_ticket_in_the_outbox(ledger: Ledger, settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis": RedisSettings(url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"))})
    alone = Ledger(ledger.database, settings.jobs, Broker(make_app(nowhere)), ledger.events)
    job = alone.submit(Verify(model_id="one"), origin="test").job
    assert read(ledger, job.id).sent_at is None
    with ledger.database.reading() as session:
        assert [entry.id for entry in jobs.unsent(session)] == [job.id]
    assert ledger.ring(job)
    assert (job.id, 1) in waiting(ledger)


def test_pages_and_positions(ledger: Ledger) -> None:
    names = [
        ledger.submit(kind(model_id=model), origin="test").job
        for kind in (Download, Verify)
        for model in ("one", "two")
    ]
    with ledger.database.reading() as session:
        page = jobs.find(session, limit=3)
        rest = jobs.find(session, before=(page[-1].created_at, page[-1].id))
        assert [job.id for job in (*page, *rest)] == [
            job.id for job in sorted(names, key=lambda job: (job.created_at, job.id), reverse=True)
        ]
        assert [jobs.position(session, job) for job in names] == [1, 2, 3, 4]
        with pytest.raises(NotFound):
            jobs.get(session, "none")


def test_one_process_per_slot(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda _: ledger.first_in_slot("chore", 3600), range(16)))
    assert sum(won) == 1


def test_no_device_worker_yet(ledger: Ledger) -> None:
    with ledger.database.session() as session:
        session.connection().exec_driver_sql("DELETE FROM devices")
    with pytest.raises(Unavailable, match="device worker"):
        ledger.submit(Switch(model_id="one"), origin="test")


# -- the same ask twice -------------------------------------------------------------------------------------


def test_the_same_ask_finds_its_job(ledger: Ledger) -> None:
    ask = Ask.of("key", "model.download", "one")
    assert ledger.asked(ask) is None
    job = ledger.submit(ONE, origin="test", ask=ask).job
    end(ledger, job)
    assert ledger.asked(ask) == (read(ledger, job.id), True), "also after its end"
    with pytest.raises(Conflict, match="another request"):
        ledger.asked(Ask.of("key", "model.download", "two"))


@pytest.mark.fault("F-11")
def test_an_ask_that_was_faster_is_joined(ledger: Ledger) -> None:
    ask = Ask.of("key", "model.download", "one")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ledger.submit(ONE, origin="test", ask=ask), range(16)))
    assert len({job.id for job, _ in answers}) == 1
    assert all(created for _, created in answers), "each is told that it made the job"


# -- who goes first -----------------------------------------------------------------------------------------


def aged(ledger: Ledger, job: Job, seconds: float, column: str = "created_at") -> None:
    with ledger.database.session() as session:
        values = {column: col(getattr(Job, column)) - seconds}
        session.exec(update(Job).where(col(Job.id) == job.id).values(values))


def end(ledger: Ledger, job: Job) -> None:
    claimed = ledger.claim(job.id, read(ledger, job.id).ticket, "worker")
    assert claimed is not None
    assert ledger.succeed(job.id, claimed.attempt, {})


def busy(ledger: Ledger, contract: Contract, priority: Priority, owner: str = "worker") -> Job:
    job = ledger.submit(contract, origin="test", priority=priority).job
    claimed = ledger.claim(job.id, job.ticket, owner)
    assert claimed is not None
    return claimed


def kept_waiting(ledger: Ledger, contract: Contract, priority: Priority) -> Job:
    job = ledger.submit(contract, origin="test", priority=priority).job
    aged(ledger, job, 1, "sent_at")
    return job


@pytest.mark.parametrize(
    ("waits", "runs", "makes_way"),
    [
        (Priority.CRITICAL, Priority.HIGH, True),
        (Priority.CRITICAL, Priority.CRITICAL, False),
        (Priority.HIGH, Priority.LOW, True),
        (Priority.HIGH, Priority.MEDIUM, True),
        (Priority.HIGH, Priority.HIGH, False),
        (Priority.MEDIUM, Priority.LOW, False),
    ],
)
def test_only_urgent_jobs_displace_and_only_less_urgent_ones(
    ledger: Ledger, waits: Priority, runs: Priority, makes_way: bool
) -> None:
    victim = busy(ledger, ONE, runs)
    kept_waiting(ledger, TWO, waits)
    assert (ledger.make_way(["io"], "worker") == (victim.id, victim.attempt)) is makes_way


def test_the_lowest_job_makes_way_wherever_it_runs(ledger: Ledger) -> None:
    busy(ledger, ONE, Priority.MEDIUM, "worker")
    low = busy(ledger, Verify(model_id="one"), Priority.LOW, "other")
    kept_waiting(ledger, TWO, Priority.CRITICAL)
    assert ledger.make_way(["io"], "worker") is None, "the other worker has a lower one"
    assert ledger.make_way(["io"], "other") == (low.id, low.attempt)


def test_way_is_made_once_for_each_waiting_job(ledger: Ledger) -> None:
    busy(ledger, ONE, Priority.LOW)
    busy(ledger, Verify(model_id="one"), Priority.LOW)
    kept_waiting(ledger, TWO, Priority.CRITICAL)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ledger.make_way(["io"], "worker"), range(16)))
    assert len([victim for victim in found if victim]) == 1


def test_two_waiting_jobs_get_two_slots(ledger: Ledger) -> None:
    busy(ledger, ONE, Priority.LOW)
    busy(ledger, Verify(model_id="one"), Priority.LOW)
    kept_waiting(ledger, TWO, Priority.CRITICAL)
    kept_waiting(ledger, Verify(model_id="two"), Priority.CRITICAL)
    first = ledger.make_way(["io"], "worker")
    assert first is not None
    second = ledger.make_way(["io"], "worker", [first[0]])
    assert second is not None, "at once, while the first one is still on its way out"
    assert second[0] != first[0]


def test_an_urgent_ask_lifts_the_running_job_that_it_joins(ledger: Ledger) -> None:
    job = busy(ledger, ONE, Priority.LOW)
    joined, created = ledger.submit(ONE, origin="test", priority=Priority.CRITICAL)
    assert (joined.id, created, joined.priority) == (job.id, False, Priority.CRITICAL)


def test_a_ticket_that_strayed_to_another_lane_finds_nothing(ledger: Ledger) -> None:
    job = ledger.submit(ONE, origin="test").job
    assert ledger.claim(job.id, job.ticket, "worker", "device.cpu") is None
    assert ledger.claim(job.id, job.ticket, "worker", "io") is not None


def test_what_cannot_go_on_later_is_not_displaced(ledger: Ledger) -> None:
    busy(ledger, Remove(model_id="one"), Priority.LOW)
    kept_waiting(ledger, TWO, Priority.CRITICAL)
    assert ledger.make_way(["io"], "worker") is None


def test_telling_of_what_happened_waits_for_a_slot_and_never_stops_a_download(ledger: Ledger) -> None:
    victim = busy(ledger, ONE, Priority.LOW)
    kept_waiting(ledger, Deliver(webhook_id="wh_0123456789abcdef"), Priority.CRITICAL)
    assert ledger.make_way(["io"], "worker") is None
    kept_waiting(ledger, TWO, Priority.HIGH)
    assert ledger.make_way(["io"], "worker") == (victim.id, victim.attempt), "others are not held up by it"


def test_a_job_that_made_way_goes_before_its_class(ledger: Ledger) -> None:
    low = busy(ledger, ONE, Priority.LOW)
    assert ledger.give_way(low.id, low.attempt)
    job = read(ledger, low.id)
    assert (job.state, job.priority, job.urgency) == (JobState.QUEUED, Priority.LOW, Priority.MEDIUM)
    assert (job.id, job.ticket) in ledger.broker.waiting([queue_name(Priority.MEDIUM, "io")])
    assert ledger.claim(job.id, job.ticket, "worker") is not None


def test_a_paused_job_does_not_come_back_when_it_makes_way(ledger: Ledger) -> None:
    low = busy(ledger, ONE, Priority.LOW)
    ledger.pause(low.id)
    ledger.give_way(low.id, low.attempt)
    assert read(ledger, low.id).state == JobState.PAUSED


@pytest.mark.fault("F-28")
def test_what_waited_too_long_goes_with_the_high_ones_one_at_a_time(ledger: Ledger) -> None:
    older = ledger.submit(ONE, origin="test", priority=Priority.LOW).job
    old = ledger.submit(TWO, origin="test", priority=Priority.LOW).job
    young = ledger.submit(Verify(model_id="one"), origin="test", priority=Priority.LOW).job
    aged(ledger, older, 1000)
    aged(ledger, old, 900)
    assert [job.id for job in ledger.lift_overdue()] == [older.id]
    lifted = read(ledger, older.id)
    assert (lifted.urgency, lifted.priority) == (Priority.HIGH, Priority.LOW)
    assert (lifted.id, lifted.ticket) in ledger.broker.waiting([queue_name(Priority.HIGH, "io")])
    assert ledger.lift_overdue() == [], "one live lifted job in a lane"
    kept_waiting(ledger, Verify(model_id="two"), Priority.HIGH)
    claimed = ledger.claim(lifted.id, lifted.ticket, "worker")
    assert claimed is not None
    assert ledger.make_way(["io"], "worker") is None, "HIGH does not displace it"
    assert ledger.lift_overdue() == []
    ledger.succeed(claimed.id, claimed.attempt, {})
    assert [job.id for job in ledger.lift_overdue()] == [old.id]
    assert read(ledger, young.id).urgency == Priority.LOW


def test_a_running_job_takes_another_priority(ledger: Ledger) -> None:
    job = running(ledger)
    changed = ledger.reprioritise(job.id, Priority.LOW)
    assert (changed.state, changed.priority, changed.urgency) == (JobState.RUNNING, Priority.LOW, Priority.LOW)
    assert changed.ticket == job.ticket
    assert ledger.succeed(job.id, job.attempt, {}), "its fence is the same"


def test_a_pause_on_its_way_is_taken_back(ledger: Ledger) -> None:
    job = running(ledger)
    ledger.pause(job.id)
    assert ledger.resume(job.id).desired == Desired.RUN
    assert ledger.stop(job.id, job.attempt), "the body had seen the pause and has ended"
    again = read(ledger, job.id)
    assert again.state == JobState.QUEUED
    assert (again.id, again.ticket) in waiting(ledger), "it goes on at once"


# -- what ended long ago ------------------------------------------------------------------------------------


def test_old_ends_are_forgotten_and_live_jobs_stay(ledger: Ledger) -> None:
    ask = Ask.of("key", "x")
    done = ledger.submit(ONE, origin="test", ask=ask).job
    end(ledger, done)
    failed = running(ledger, TWO)
    ledger.fail(failed.id, failed.attempt, Failed("broken", "It broke.", "Mend it."))
    live = ledger.submit(Verify(model_id="one"), origin="test").job
    aged(ledger, live, 1e7)
    aged(ledger, done, 8 * 86_400, "finished_at")
    aged(ledger, failed, 8 * 86_400, "finished_at")
    assert ledger.prune() == 1
    with pytest.raises(NotFound):
        read(ledger, done.id)
    assert ledger.asked(ask) is None, "its key goes with it"
    aged(ledger, failed, 30 * 86_400, "finished_at")
    assert ledger.prune() == 1
    assert read(ledger, live.id).state == JobState.QUEUED


def test_no_more_ends_than_wanted_are_kept(ledger: Ledger) -> None:
    ledger.settings = ledger.settings.model_copy(update={"keep_ended": 3})
    for number in range(7):
        ledger.reject(f"odd-{number}", "kind", {}, Invalid("odd", "Odd."))
        aged_by(ledger, f"odd-{number}", 100 - number)
    assert ledger.prune() == 4
    with ledger.database.reading() as session:
        assert {job.id for job in jobs.find(session)} == {"odd-4", "odd-5", "odd-6"}


def aged_by(ledger: Ledger, job_id: str, seconds: float) -> None:
    aged(ledger, read(ledger, job_id), seconds, "finished_at")
