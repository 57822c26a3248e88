"""What the watch of a device worker makes of runners that die or hang, with real children."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlmodel import col, select

from shared.contracts import Switch
from shared.db.tables import Job, Residency
from shared.jobs import Ledger
from shared.progress import Leases, Workers, connect
from shared.settings import Settings
from shared.states import ResidencyState
from tests.conftest import until
from tests.fakes.runtimes import FakeRuntime
from workers.devices.base import Device
from workers.job import Services
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


def test_one_that_answers_is_left_alone(pool: Pool, runner: Runner) -> None:
    """It is asked once its last word is a while ago, and its answer counts from then."""
    assert not runner.hangs(0.0)
    os.kill(runner.pid, signal.SIGSTOP)
    until(lambda: runner.hangs(0.0), what="silence")
    os.kill(runner.pid, signal.SIGCONT)
    until(lambda: not runner.hangs(0.0), what="an answer")
