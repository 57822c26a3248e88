"""Who leaves memory, unused or to make room, and what is waited for then; with real children."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from sqlmodel import col, select

from shared import fit, queues
from shared.contracts import Unload
from shared.db.placement import Plan
from shared.db.tables import Job, Model, Residency
from shared.errors import Snooze
from shared.jobs import Ledger
from shared.progress import Leases, Workers, connect
from shared.settings import Settings
from shared.states import ResidencyState
from tests.conftest import RealRedis, until
from tests.fakes.runtimes import FakeRuntime
from workers.devices import inventory
from workers.devices.base import Device
from workers.job import Services, Work
from workers.jobs.unload import unload
from workers.residency import leaving
from workers.residency.manager import Manager
from workers.residency.watch import Watch
from workers.runtimes.base import Request
from workers.store.layout import Layout

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

IDLE_SECONDS = 100.0
NEED = fit.Need(90, 0, 0, 90, 0, fit.Basis.MEASURED)
PLAN = Plan("new", "1", "cpu", fit.Setting("fake", "cpu", 1), NEED, 90, free=10)


@pytest.fixture
def manager(settings: Settings, ledger: Ledger, tmp_path: Path) -> Iterator[Manager]:
    """Two models are in memory, loaded long ago: `one` serves its type, `two` serves none."""
    settings.runners.idle_seconds = IDLE_SECONDS
    with connect(settings.redis) as client:
        services = Services(
            settings, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger,
            Layout(tmp_path / "store"), "worker@test",
        )  # fmt: skip
        device = Device(id="cpu", kind="cpu", name="test", memory_total=1, memory_free=1)
        with closing(Manager(services, device)) as manager:
            services.manager = manager
            for name in ("one", "two"):
                row = Residency(
                    id=name, model_id=name, model_type="llm", revision="1", device="cpu", runtime="fake",
                    state=ResidencyState.READY, active=name == "one", started_at=0.0,
                )  # fmt: skip
                with ledger.database.session() as session:
                    session.add(row)
                runner = manager._pool.start(name, FakeRuntime(), Request(tmp_path, name, "127.0.0.1", 0, "k", "cpu"))
                runner.wait_ready(lambda: None)
            yield manager


def used(server: RealRedis, name: str, seconds_ago: float) -> None:
    """As the gateway notes it for every request."""
    with redis.Redis(port=server.port) as client:
        client.set(queues.used_key(name), client.time()[0] - seconds_ago)  # type: ignore[index] # two numbers


def states(ledger: Ledger) -> dict[str, tuple[str, bool]]:
    with ledger.database.reading() as session:
        return {row.id: (row.state, row.active) for row in session.exec(select(Residency)).all()}


def rested(manager: Manager, ledger: Ledger, name: str) -> int:
    """How many runners the job ends that the watch asks for."""
    contract = Unload(model_id=name, if_unused=True)
    job = ledger.submit(contract, origin="test").job
    claimed = ledger.claim(job.id, job.ticket, "worker@test")
    assert claimed is not None
    result = unload(contract, Work(manager._services, claimed))
    ledger.succeed(claimed.id, claimed.attempt, result)
    return int(result["unloaded"])


def test_who_serves_is_idle_and_who_serves_nothing_is_gone(
    manager: Manager, ledger: Ledger, redis_server: RealRedis
) -> None:
    for name in ("one", "two"):
        used(redis_server, name, IDLE_SECONDS + 1)
    assert [rested(manager, ledger, name) for name in ("one", "two")] == [1, 1]
    assert states(ledger) == {"one": ("idle", True), "two": ("stopped", False)}
    assert manager._pool.running() == []


def test_who_was_used_since_the_job_was_asked_for_stays(
    manager: Manager, ledger: Ledger, redis_server: RealRedis
) -> None:
    used(redis_server, "one", IDLE_SECONDS - 50)
    assert rested(manager, ledger, "one") == 0
    used(redis_server, "one", IDLE_SECONDS + 50)
    assert rested(manager, ledger, "one") == 1


def test_who_is_pinned_stays(manager: Manager, ledger: Ledger, redis_server: RealRedis) -> None:
    used(redis_server, "one", IDLE_SECONDS + 1)
    with ledger.database.session() as session:
        model = session.get(Model, "one")
        assert model is not None
        model.pinned = True
        session.add(model)
    assert rested(manager, ledger, "one") == 0
    assert states(ledger)["one"] == ("ready", True)


def test_of_whom_redis_knows_nothing_stays(manager: Manager, ledger: Ledger) -> None:
    """It may have been emptied a moment ago, while requests were under way."""
    assert rested(manager, ledger, "one") == 0


def test_who_has_a_long_request_is_not_cut(manager: Manager, ledger: Ledger, redis_server: RealRedis) -> None:
    manager._settings.drain_seconds = 0.3
    used(redis_server, "one", IDLE_SECONDS + 1)
    with redis.Redis(port=redis_server.port) as client:
        client.zadd(queues.leases_key("one"), {"a long answer": client.time()[0] + 60})  # type: ignore[index] # as above
        assert rested(manager, ledger, "one") == 0
        assert not client.exists(queues.closed_key("one")), "and it takes new ones"
    assert states(ledger)["one"] == ("ready", True)
    assert manager._pool.lives("one")


def test_who_cannot_be_opened_again_goes(
    manager: Manager, ledger: Ledger, redis_server: RealRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis went away in the drain: left closed, it would be out of reach for good."""
    manager._settings.drain_seconds = 0.3
    used(redis_server, "one", IDLE_SECONDS + 1)

    def away(_: str) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(manager._services.leases, "reopen", away)
    with redis.Redis(port=redis_server.port) as client:
        client.zadd(queues.leases_key("one"), {"a long answer": client.time()[0] + 60})  # type: ignore[index] # as above
    assert rested(manager, ledger, "one") == 1
    assert states(ledger)["one"] == ("idle", True)


def test_nor_for_a_load_but_for_a_switch(manager: Manager, ledger: Ledger, redis_server: RealRedis) -> None:
    manager._settings.drain_seconds = 0.3
    with ledger.database.reading() as session:
        row = session.get(Residency, "one")
    assert row is not None
    with redis.Redis(port=redis_server.port) as client:
        client.zadd(queues.leases_key("one"), {"a long answer": client.time()[0] + 60})  # type: ignore[index] # as above
    with pytest.raises(Snooze):
        manager.leaving.evict(row, PLAN, ResidencyState.IDLE)
    assert states(ledger)["one"] == ("ready", True)
    manager.leaving.evict(row, PLAN, ResidencyState.LOST)
    assert states(ledger)["one"] == ("lost", True), "a person said so"


def test_without_a_time_nobody_leaves(manager: Manager, settings: Settings) -> None:
    settings.runners.idle_seconds = None
    assert manager.leaving.unused() == []


def test_the_watch_asks_once_for_each(manager: Manager, ledger: Ledger, redis_server: RealRedis) -> None:
    used(redis_server, "one", IDLE_SECONDS + 1)
    used(redis_server, "two", 0)
    Watch(manager._pool, manager.leaving.unused).start()

    def asked() -> list[tuple[str | None, dict[str, object]]]:
        with ledger.database.reading() as session:
            jobs = session.exec(select(Job).where(col(Job.kind) == Unload.kind)).all()
            return [(job.model_id, job.args) for job in jobs]

    until(asked, what="a job")
    looks = []
    unused = manager.leaving.unused
    Watch(manager._pool, lambda: looks.append(1) or unused()).start()  # type: ignore[func-returns-value] # counts
    until(lambda: len(looks) > 2, what="more looks")
    assert asked() == [("one", {"model_id": "one", "if_unused": True})]


@pytest.mark.fault("F-41")
@pytest.mark.parametrize("back", [True, False], ids=["memory comes back late", "memory does not come back"])
def test_who_makes_room_is_waited_for_until_its_memory_is_back(
    manager: Manager, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """A driver may hold a dead process' memory for a while; the wait has an end."""
    looks: list[float] = []

    def free(_: str) -> int:
        looks.append(time.monotonic())
        return 100 if back and len(looks) > 3 else 10

    monkeypatch.setattr(inventory, "memory_free", free)
    monkeypatch.setattr(leaving, "SETTLE_SECONDS", 1.0)
    with ledger.database.reading() as session:
        row = session.get(Residency, "one")
    assert row is not None
    row.memory_bytes = 90
    manager.leaving.evict(row, PLAN, ResidencyState.IDLE)
    assert states(ledger)["one"] == ("idle", True)
    assert (len(looks) == 4) is back
    assert looks[-1] - looks[0] < 3
