"""What the watch of a device worker makes of runners that die or hang, with real children."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from sqlmodel import col, select, update

from shared.contracts import Switch, Unload
from shared.db import catalog
from shared.db.tables import Job, Residency
from shared.errors import Failed
from shared.jobs import Ledger
from shared.progress import Leases, Workers, connect
from shared.settings import Settings
from shared.states import ResidencyState
from tests.conftest import until
from tests.fakes.runtimes import FakeRuntime
from workers.devices.base import Device
from workers.job import Services
from workers.residency import watch
from workers.residency.manager import Manager
from workers.residency.pool import Pool
from workers.residency.watch import Watch
from workers.runtimes.base import Request
from workers.runtimes.runner import Runner
from workers.store.layout import Layout

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.fixture
def pool(settings: Settings, ledger: Ledger, tmp_path: Path) -> Iterator[Pool]:
    settings.runners.hang_seconds = 1.0
    with connect(settings.redis) as client:
        services = Services(
            settings, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger,
            Layout(tmp_path / "store"), "worker@test",
        )  # fmt: skip
        with closing(Pool(services, Device(id="cpu", kind="cpu", name="test", memory_total=1, memory_free=1))) as pool:
            yield pool


@pytest.fixture
def runner(pool: Pool, ledger: Ledger, tmp_path: Path) -> Runner:
    """Serves its type."""
    row = Residency(
        id="r", model_id="one", model_type="llm", revision="1", device="cpu", runtime="fake",
        state=ResidencyState.READY, active=True, started_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add(row)
    runner = pool.start("r", FakeRuntime(), Request(tmp_path, "one", "127.0.0.1", 0, "key", "cpu"))
    runner.wait_ready(lambda: None)
    return runner


def state(ledger: Ledger) -> ResidencyState:
    with ledger.database.reading() as session:
        return ResidencyState(session.exec(select(Residency.state)).one())


def recoveries(ledger: Ledger) -> int:
    with ledger.database.reading() as session:
        return len(session.exec(select(Job.id).where(col(Job.kind) == Switch.kind)).all())


@pytest.mark.fault("A-74")
def test_one_that_hangs_is_ended_and_loaded_again(pool: Pool, runner: Runner, ledger: Ledger) -> None:
    os.kill(runner.pid, signal.SIGSTOP)
    Watch(pool, list).start()
    until(lambda: not runner.alive(), what="the end of the runner")
    until(lambda: recoveries(ledger) == 1, what="a job that loads it again")
    assert state(ledger) is ResidencyState.LOST
    assert pool.running() == []


def test_one_that_dies_is_loaded_again(pool: Pool, runner: Runner, ledger: Ledger) -> None:
    os.kill(runner.pid, signal.SIGKILL)
    Watch(pool, list).start()
    until(lambda: recoveries(ledger) == 1, what="a job that loads it again")
    assert state(ledger) is ResidencyState.LOST


def pin(ledger: Ledger, *, pinned: bool = True) -> None:
    """It serves no type any more; a person wants it to stay."""
    with ledger.database.session() as session:
        catalog.change_model(session, "one", pinned=pinned)
        session.exec(update(Residency).values(active=False))


def asked_for(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.database.reading() as session:
        return [(job.kind, job.origin) for job in session.exec(select(Job)).all()]


def test_one_that_is_pinned_is_loaded_again_though_it_serves_no_type(
    pool: Pool, runner: Runner, ledger: Ledger
) -> None:
    pin(ledger)
    os.kill(runner.pid, signal.SIGKILL)
    Watch(pool, list).start()
    until(lambda: asked_for(ledger) == [("model.load", "recovery")], what="a job that loads it again")
    assert state(ledger) is ResidencyState.LOST


def test_one_that_is_to_leave_does_not_come_back(pool: Pool, runner: Runner, ledger: Ledger) -> None:
    pin(ledger)
    ledger.submit(Unload(model_id="one"), origin="test")
    os.kill(runner.pid, signal.SIGKILL)
    until(lambda: not runner.alive(), what="the end of the runner")
    pool.bury("r", runner)
    watching = Watch(pool, list)
    watching._replace_lost()
    assert asked_for(ledger) == [("model.unload", "test")]
    assert state(ledger) is ResidencyState.LOST
    pin(ledger, pinned=False)
    watching._replace_lost()
    assert state(ledger) is ResidencyState.STOPPED


def test_a_worker_that_starts_anew_has_pinned_ones_loaded_again(pool: Pool, runner: Runner, ledger: Ledger) -> None:
    """The one before it was killed, and its runner lives on for a moment."""
    pin(ledger)
    pool.mark("r", pid=runner.pid)
    with closing(Manager(pool.services, pool.device)) as manager:
        manager.recover()
        until(lambda: asked_for(ledger) == [("model.load", "recovery")], what="a job that loads it again")


def test_one_that_answers_is_left_alone(pool: Pool, runner: Runner) -> None:
    """It is asked once its last word is a while ago, and its answer counts from then."""
    assert not runner.hangs(0.0)
    os.kill(runner.pid, signal.SIGSTOP)
    until(lambda: runner.hangs(0.0), what="silence")
    os.kill(runner.pid, signal.SIGCONT)
    until(lambda: not runner.hangs(0.0), what="an answer")


@pytest.mark.fault("F-43", "F-45")
def test_one_that_is_lost_again_and_again_is_left_alone_for_a_while(
    pool: Pool, runner: Runner, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried with growing pauses, then not, and once more later: nobody has to restart anything."""
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(watch, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(watch, "HEAL_SECONDS", 4.0)
    os.kill(runner.pid, signal.SIGKILL)
    Watch(pool, list).start()
    asked_at = []
    for number in range(1, watch.ASKS + 1):
        until(lambda number=number: recoveries(ledger) == number, what=f"try {number}")
        asked_at.append(time.monotonic())
        fail_recovery(ledger)
    pauses = [after - before for before, after in pairwise(asked_at)]
    assert pauses[-1] > 0.7, "the pause before the fifth try is 0.8 s"
    until(lambda: state(ledger) is ResidencyState.CRASH_LOOP, what="the crash loop")
    until(lambda: recoveries(ledger) == watch.ASKS + 1, what="another try")
    assert time.monotonic() - asked_at[-1] > 3.5
    assert state(ledger) is ResidencyState.LOST
    with ledger.database.reading() as session:
        assert session.exec(select(Residency.active)).one(), "it serves its type all the while"


def fail_recovery(ledger: Ledger) -> None:
    with ledger.database.reading() as session:
        job = session.exec(select(Job).where(col(Job.kind) == Switch.kind, col(Job.state) == "queued")).one()
    claimed = ledger.claim(job.id, job.ticket, "worker@test")
    assert claimed is not None
    ledger.fail(claimed.id, claimed.attempt, Failed("runner_exited", "It ended.", "Look at its log."))


def test_one_that_made_room_is_in_no_crash_loop(pool: Pool, runner: Runner, ledger: Ledger) -> None:
    """However often a job puts it out, and then does not bring another one in its place."""
    for number in range(1, watch.ASKS + 2):
        pool.set_aside.add("r")
        with ledger.database.session() as session:
            session.exec(update(Residency).values(state=ResidencyState.LOST))
        if number == 1:
            Watch(pool, list).start()
        until(lambda number=number: recoveries(ledger) == number, what=f"recovery {number}")
        with ledger.database.session() as session:  # before there is no job any more: the watch would ask again
            session.exec(update(Residency).values(state=ResidencyState.READY))
        fail_recovery(ledger)
    assert state(ledger) is ResidencyState.READY
