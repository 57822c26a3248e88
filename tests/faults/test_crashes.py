"""Faults that are more than one process lost at one point: frozen, poisoned, doubled, told to stop twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from sqlmodel import col, select

from shared.broker import Broker, make_app
from shared.db.tables import Job, ScheduleRun
from shared.queues import worker_queues
from shared.states import ENDED, JobState
from tests.conftest import until
from tests.faults import invariants
from tests.faults.conftest import Street
from tests.faults.house import House
from tests.faults.invariants import Expected
from tests.faults.scenarios import Download, Switch, Verify

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

IN_THE_MIDDLE = ("download.written", 10)


@pytest.fixture
def house(street: Street) -> Iterator[House]:
    house = street.house("sqlite")
    try:
        yield house
    except BaseException:
        street.drop("sqlite")
        raise
    house.disarm()


def held(house: House, point: str, nth: int, ask: Callable[[], str]) -> tuple[str, int]:
    """Ask for work that then stands still at the point; the job's id and the process's."""
    house.arm(point, "hold", nth)
    job_id = ask()
    return job_id, house.await_held()


@pytest.mark.fault("F-13")
def test_a_job_that_kills_its_workers_is_put_away(house: House) -> None:
    """Three workers are lost; then it fails with the reason, and what waited behind it is done."""
    poison, other = Download(house), Verify(house)
    for scenario in (poison, other):
        scenario.prepare()
    house.settle()
    house.arm("download.resolved", "kill", 1)
    job_id = poison.ask()
    for lost in range(1, house.settings.jobs.max_lost + 1):
        until(house.order.with_suffix(".fired").exists, 60, f"death number {lost}")
        if lost < house.settings.jobs.max_lost:
            house.arm("download.resolved", "kill", 1)
    behind = other.ask()
    job = house.ended(job_id)
    assert (job.state, job.error and job.error["code"]) == (JobState.FAILED, "worker_lost"), job.error
    assert house.ended(behind).state == JobState.SUCCEEDED
    house.http.post(f"/api/v1/jobs/{job_id}/retry").raise_for_status()
    assert house.ended(job_id).state == JobState.SUCCEEDED, "once its cause is gone"
    expected = poison.expected(job_id)
    expected.jobs = []  # it ended twice, because somebody retried it
    invariants.check(house, expected)


@pytest.mark.fault("F-24")
@pytest.mark.parametrize("point", [IN_THE_MIDDLE, ("download.confirmed", 1), ("job.carried_out", 1)], ids=str)
def test_a_frozen_worker_comes_back_to_a_job_that_is_not_its_own(house: House, point: tuple[str, int]) -> None:
    """Its lease runs out and the ledger gives its job to another attempt; what it does then counts for nothing."""
    download = Download(house)
    download.prepare()
    job_id, pid = held(house, *point, download.ask)
    house.freeze(pid)
    try:
        house.release()
        until(lambda: house.job(job_id).lost, 60, "the lease's end")
    finally:
        os.kill(pid, signal.SIGCONT)
    job = house.ended(job_id)
    assert job.state == JobState.SUCCEEDED
    assert job.attempt > 1, "the first attempt's word did not count"
    assert psutil.pid_exists(pid), "it goes on with other work"
    house.settle()
    invariants.check(house, download.expected(job_id))


@pytest.mark.fault("F-23", "F-25")
def test_a_message_delivered_again_while_its_job_runs(house: House) -> None:
    """Nothing of a running job waits to be acknowledged, so no visibility timeout brings it again; and if anything
    does, on every queue of the lane at once, nobody takes it."""
    download = Download(house)
    download.prepare()
    job_id, _ = held(house, *IN_THE_MIDDLE, download.ask)
    app = make_app(house.settings, publisher=True)
    with redis.Redis(port=house.redis.port) as client:
        # what a worker of another test had in hand when it was killed may still lie there
        until(lambda: not any(job_id.encode() in body for body in client.hvals("unacked")), what="an acknowledgement")
        job = house.job(job_id)
        for priority in range(4):
            again = Job(**{**job.model_dump(), "priority": priority, "urgency": priority})
            assert Broker(app).send(again)
        until(lambda: not any(client.llen(queue) for queue in worker_queues("io")), what="empty queues")
    app.close()
    house.release()
    assert house.ended(job_id).attempt == 1
    house.settle()
    invariants.check(house, download.expected(job_id))


@pytest.mark.fault("F-26")
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGQUIT)],
    ids=lambda signals: "-".join(each.name for each in signals),
)
def test_every_way_to_be_told_to_stop(house: House, signals: tuple[signal.Signals, ...]) -> None:
    download = Download(house)
    download.prepare()
    job_id, pid = held(house, *IN_THE_MIDDLE, download.ask)
    for each in signals:
        os.kill(pid, each)
    house.release()
    until(lambda: house.pid("io") != pid, 60, "another worker")
    assert house.ended(job_id).state == JobState.SUCCEEDED
    house.settle()
    invariants.check(house, download.expected(job_id))


@pytest.mark.fault("F-27")
@pytest.mark.parametrize(
    "point",
    [("job.claimed", 1), IN_THE_MIDDLE, ("download.fetched", 1), ("publish.moved", 1), ("job.carried_out", 1)],
    ids=str,
)
def test_a_download_cancelled_at_every_stage(house: House, point: tuple[str, int]) -> None:
    """Twice, and against its own end: it ends once, and is either not there or whole."""
    download = Download(house)
    download.prepare()
    job_id, _ = held(house, *point, download.ask)
    for _ in range(2):
        house.http.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
    house.release()
    job = house.ended(job_id)
    assert job.state in (JobState.CANCELLED, JobState.SUCCEEDED)
    assert house.http.post(f"/api/v1/jobs/{job_id}/cancel").status_code in (200, 409)
    assert house.job(job_id).state == job.state, "what has ended stays as it ended"
    if job.state == JobState.CANCELLED:
        house.settle()
        job_id = house.done("/api/v1/models/download", {"model_id": download.model}).id
    invariants.check(house, download.expected(job_id))


@pytest.mark.fault("F-27")
@pytest.mark.parametrize("point", ["runner.started", "runner.probed", "switch.confirmed", "switch.flipped"])
def test_a_switch_cancelled_at_every_stage(house: House, point: str) -> None:
    """What was loaded for it leaves memory again, or serves; never both, never neither."""
    switch = Switch(house)
    switch.prepare()
    before = switch.active()
    job_id, _ = held(house, point, 1, switch.ask)
    for _ in range(2):
        house.http.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
    house.release()
    job = house.ended(job_id)
    assert job.state in (JobState.CANCELLED, JobState.SUCCEEDED)
    house.settle()
    invariants.check(house, Expected(active=before if job.state == JobState.CANCELLED else switch.target))


@pytest.mark.fault("F-22")
def test_two_beats_are_one(house: House) -> None:
    """A second beat, killed and started again: the rescue still runs once in each slot, and takes a job once."""
    environment = psutil.Process(house.pid("beat")).environ()
    command = (sys.executable, "-m", "workers", "beat")

    def start() -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=environment, stdout=quiet, stderr=quiet, cwd=Path(__file__).parents[2]
        )  # fmt: skip

    verify = Verify(house)
    verify.prepare()
    first = start()
    job_id, pid = held(house, "verify.finished", 1, verify.ask)
    first.kill()
    first.wait()
    second = start()
    try:
        os.kill(pid, signal.SIGKILL)
        ended = house.ended(job_id)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1 + ended.lost)
        newest = max(_slots(house))  # of those long past only some are kept
        until(lambda: len([slot for slot in _slots(house) if slot > newest]) >= 3, 60, "three slots more")
        assert house.job(job_id).attempt == ended.attempt, "nobody took it a second time"
        house.settle()
        invariants.check(house, verify.expected(job_id))
    finally:
        second.terminate()
        second.wait()


def _slots(house: House) -> list[int]:
    with house.ledger.reading() as session:
        found = list(session.exec(select(ScheduleRun.slot).where(col(ScheduleRun.name) == "rescue")).all())
    assert len(found) == len(set(found))
    return found


@pytest.mark.fault("F-6")
def test_who_comes_back_hears_the_end_that_nobody_was_told(house: House) -> None:
    """The worker dies between the commit of the outcome and its event; the stream's snapshot has it."""
    verify = Verify(house)
    verify.prepare()
    house.arm("ledger.succeeded", "kill", 1)
    job_id = verify.ask()
    assert house.ended(job_id).state in ENDED
    with house.http.stream("GET", f"/api/v1/jobs/{job_id}/events") as stream:
        told = next(line for line in stream.iter_lines() if line.startswith("data:"))
    assert '"status":"succeeded"' in told.replace(" ", "")
