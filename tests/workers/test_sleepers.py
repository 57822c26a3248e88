"""Who sleeps when it is put out, who wakes, and who ends for whom; with real children."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from sqlmodel import select, update

from shared import fit, queues
from shared.contracts import Load, Unload
from shared.db import catalog, sleep
from shared.db.placement import Plan
from shared.db.reports import Device as DeviceRow
from shared.db.tables import Installation, Residency
from shared.db.upkeep import refuse_if_used
from shared.errors import Failed, Snooze
from shared.fallback import Rung
from shared.jobs import Ledger
from shared.keys import runner_key
from shared.progress import Leases, Workers, connect
from shared.settings import Settings
from shared.states import Holder, InstallationState, ResidencyState
from tests.conftest import RealRedis, until
from tests.fakes import runtimes
from tests.fakes.runtimes import FakeRuntime
from workers.devices import cpu, inventory
from workers.devices.base import Device
from workers.job import Services, Work
from workers.jobs.unload import unload
from workers.residency import ahead
from workers.residency.manager import Manager, Ready
from workers.residency.planning import plan_for
from workers.residency.sleepers import budget
from workers.residency.watch import Watch
from workers.runtimes.base import Request
from workers.store.layout import Layout

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

PLENTY = 10**12
CONTEXT = 256
NEED = fit.Need(90, 0, 0, 90, 0, fit.Basis.MEASURED)
PLAN = Plan("new", "1", "cpu", fit.Setting("fake", "cpu", CONTEXT), NEED, 90, free=10)
Managed = Callable[..., Manager]


@pytest.fixture
def managed(settings: Settings, ledger: Ledger, tmp_path: Path) -> Iterator[Managed]:
    """A manager with so much for sleepers; `one` serves its type and `two` does not, both in memory."""
    with connect(settings.redis) as client:
        services = Services(
            settings, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger,
            Layout(tmp_path / "store"), "worker@test",
        )  # fmt: skip
        device = Device(id="cpu", kind="cpu", name="test", memory_total=1, memory_free=1)
        managers = []

        def make(sleep_bytes: int = PLENTY, fault: str = runtimes.WELL) -> Manager:
            settings.runners.sleep_bytes = sleep_bytes  # type: ignore[assignment] # a ByteSize is an int
            manager = Manager(services, device)
            managers.append(manager)
            services.manager = manager
            manager.runtimes = (FakeRuntime(fault),)
            for name in ("one", "two"):
                _bring(manager, ledger, name, tmp_path)
            return manager

        yield make
        for manager in managers:
            with closing(manager):
                pass


def _bring(manager: Manager, ledger: Ledger, name: str, folder: Path) -> None:
    row = Residency(
        id=name, model_id=name, model_type="llm", revision="1", device="cpu", runtime="fake",
        state=ResidencyState.READY, active=name == "one", started_at=0.0, context_length=CONTEXT,
    )  # fmt: skip
    installation = Installation(
        model_id=name, model_type="llm", revision="1", state=InstallationState.PUBLISHED, path=str(folder), size=1,
        files=0, integrity=1.0, holder=Holder.FOLDER, seen={"files": {}}, published_at=0.0, verified_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add_all([row, installation])
    request = Request(folder, name, "127.0.0.1", 0, runner_key(manager._secret, name), "cpu")
    manager._pool.start(name, manager.runtimes[0], request).wait_ready(lambda: None)


def row(ledger: Ledger, name: str) -> Residency:
    with ledger.database.reading() as session:
        found = session.get(Residency, name)
    assert found is not None
    return found


def states(ledger: Ledger, model_id: str) -> set[tuple[str, bool]]:
    """State and route of each row of a model."""
    with ledger.database.reading() as session:
        rows = session.exec(select(Residency).where(Residency.model_id == model_id)).all()
        return {(one.state, one.active) for one in rows}


def work(manager: Manager, ledger: Ledger, contract: Any) -> Work:
    job = ledger.submit(contract, origin="test").job
    claimed = ledger.claim(job.id, job.ticket, "worker@test")
    assert claimed is not None
    return Work(manager._services, claimed)


def loaded(manager: Manager, ledger: Ledger, name: str, *, fresh: bool = False) -> Ready:
    with ledger.database.reading() as session:
        model, installation = catalog.get_model(session, name), catalog.installed(session, name)
    job = work(manager, ledger, Load(model_id=name))
    ready = manager.ensure_ready(
        model, installation, job, way=Rung(name, CONTEXT), fresh=fresh, set_aside=ResidencyState.IDLE
    )
    ledger.succeed(job.job_id, job.attempt, {})
    return ready


@pytest.mark.parametrize("into", [ResidencyState.IDLE, ResidencyState.LOST])
def test_who_serves_sleeps_and_its_type_waits_without_it(
    managed: Managed, ledger: Ledger, into: ResidencyState
) -> None:
    manager = managed()
    manager.leaving.evict(row(ledger, "one"), PLAN, into)
    assert states(ledger, "one") == {("asleep", False), (into, True)}
    assert manager._pool.lives("one")
    assert (row(ledger, "one").memory_bytes or 0) > 1_000_000
    lost = [each for each in manager._pool.set_aside if each != "one"]
    assert len(lost) == (into is ResidencyState.LOST), "a job has put it out: no crash"


def test_it_wakes_for_a_load_and_takes_leases_again(managed: Managed, ledger: Ledger, redis_server: RealRedis) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))
    assert states(ledger, "two") == {("asleep", False)}
    pid = manager._pool.server("two")
    ready = loaded(manager, ledger, "two")
    assert (ready.row.id, ready.started, ready.woken) == ("two", True, True)
    assert manager._pool.server("two") is pid
    assert states(ledger, "two") == {("ready", False)}
    with redis.Redis(port=redis_server.port) as client:
        assert not client.exists(queues.closed_key("two"))
    assert not loaded(manager, ledger, "two").started


def test_one_that_does_not_wake_is_started_anew(managed: Managed, ledger: Ledger) -> None:
    manager = managed(fault=runtimes.NEVER_WAKES)
    assert manager.leaving.rest(row(ledger, "two"))
    ready = loaded(manager, ledger, "two")
    assert (ready.started, ready.woken) == (True, False)
    assert ready.row.id != "two"
    assert states(ledger, "two") == {("stopped", False), ("ready", False)}
    assert not manager._pool.lives("two")


def test_a_reload_starts_anew_and_no_sleeper_stays_beside_it(managed: Managed, ledger: Ledger) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))
    assert not loaded(manager, ledger, "two", fresh=True).woken
    assert states(ledger, "two") == {("stopped", False), ("ready", False)}


@pytest.mark.parametrize(
    ("sleep_bytes", "fault"), [(0, runtimes.WELL), (1000, runtimes.WELL), (PLENTY, runtimes.NEVER_SLEEPS)]
)
def test_who_cannot_sleep_ends(managed: Managed, ledger: Ledger, sleep_bytes: int, fault: str) -> None:
    manager = managed(sleep_bytes, fault)
    assert manager.leaving.rest(row(ledger, "one"))
    assert states(ledger, "one") == {("idle", True)}
    assert not manager._pool.lives("one")


def test_who_slept_longest_ends_where_the_room_is_short(managed: Managed, ledger: Ledger) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "one"))
    sleepers = manager.leaving.sleepers
    sleepers.budget = (row(ledger, "one").memory_bytes or 0) * 3 // 2
    assert manager.leaving.rest(row(ledger, "two"))
    assert states(ledger, "one") == {("stopped", False), ("idle", True)}
    assert states(ledger, "two") == {("asleep", False)}
    assert [name for name, _ in manager._pool.running()] == ["two"]


def test_who_was_woken_meanwhile_is_left_alone(managed: Managed, ledger: Ledger) -> None:
    """Those who sleep are read once, and it takes seconds until the first of them has ended."""
    manager = managed()
    assert manager.leaving.rest(row(ledger, "one"))
    assert manager.leaving.rest(row(ledger, "two"))
    sleepers, woken = manager.leaving.sleepers, row(ledger, "two")
    first, still = manager._pool.server("one"), sleepers._all()
    assert first is not None
    with ledger.database.session() as session:
        assert sleep.wake_up(session, woken)
    for each in still:
        sleepers._end(each)
    assert states(ledger, "two") == {("starting", False)}
    assert manager._pool.lives("two")
    assert not first.alive()


def test_nobody_ends_where_a_plan_is_content_with_what_is_free(
    managed: Managed, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))
    monkeypatch.setattr(inventory, "memory_free", lambda _: 85)
    manager.leaving.sleepers.give_way(replace(PLAN, need=replace(NEED, spread=5)), None)
    assert states(ledger, "two") == {("asleep", False)}


def test_nobody_ends_where_others_have_the_room(managed: Managed, ledger: Ledger) -> None:
    """What sleeps of another device of this machine counts, and is not this one's to end."""
    manager = managed()
    assert manager.leaving.rest(row(ledger, "one"))
    size = row(ledger, "one").memory_bytes or 0
    other = Residency(
        id="other", model_id="other", model_type="llm", revision="1", device="gpu", runtime="fake",
        state=ResidencyState.ASLEEP, memory_bytes=2 * size, started_at=0.0,
    )  # fmt: skip
    with ledger.database.session() as session:
        session.add_all([other, DeviceRow(id="gpu", kind="gpu", name="", node="local", memory_total=1, seen_at=0.0)])
    manager.leaving.sleepers.budget = size * 5 // 2
    assert manager.leaving.rest(row(ledger, "two"))
    assert states(ledger, "two") == {("stopped", False)}
    assert states(ledger, "one") == {("asleep", False), ("idle", True)}
    assert manager._pool.lives("one")


def test_on_a_cpu_it_ends_where_its_memory_itself_is_needed(
    managed: Managed, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asleep it would give none of it back; and who sleeps already gives way."""
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))
    monkeypatch.setattr(inventory, "memory_free", lambda _: 10)
    monkeypatch.setattr("workers.residency.leaving.SETTLE_SECONDS", 0.2)
    manager.leaving.evict(row(ledger, "one"), PLAN, ResidencyState.IDLE)
    assert states(ledger, "one") == {("idle", True)}
    manager.leaving.sleepers.give_way(PLAN, row(ledger, "two"))
    assert states(ledger, "two") == {("asleep", False)}, "it is to be woken"
    manager.leaving.sleepers.give_way(PLAN, None)
    assert states(ledger, "two") == {("stopped", False)}


def test_one_of_a_gpu_ends_where_the_machine_s_memory_is_needed(
    managed: Managed, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))
    monkeypatch.setattr(inventory, "memory_free", lambda _: PLENTY)
    large = replace(PLAN, host=fit.HostNeed(2 * PLENTY, PLENTY), host_free=3 * PLENTY)
    manager.leaving.sleepers.give_way(replace(large, host=fit.HostNeed(1, 1)), None)
    assert states(ledger, "two") == {("asleep", False)}
    manager.leaving.sleepers.give_way(large, None)
    assert states(ledger, "two") == {("stopped", False)}


@dataclass
class Mapping(FakeRuntime):
    """Its servers map the files of a model."""

    def mapped(self, folder: Path) -> list[Path]:
        return [folder / "model.gguf"]


@pytest.mark.parametrize("stays", [0.0, 10.0**12], ids=["leaves", "has just come"])
def test_what_waits_for_room_is_read_meanwhile(
    managed: Managed, ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stays: float
) -> None:
    """Until its own start begins, where that is next; while it waits for its turn, where that comes later."""
    (tmp_path / "model.gguf").write_bytes(bytes(1000))
    settings.runners.min_residence_seconds = stays
    manager = managed()
    monkeypatch.setattr(inventory, "memory_free", lambda _: 10)
    monkeypatch.setattr(ahead, "bytes_to_spare", lambda: PLENTY)
    monkeypatch.setattr("workers.residency.leaving.SETTLE_SECONDS", 0.1)
    with ledger.database.session() as session:
        session.exec(update(Residency).values(memory_bytes=PLENTY))
        installation = catalog.installed(session, "one")
        installation.size = 1000
    job = work(manager, ledger, Load(model_id="one"))
    room = manager._room
    about = (installation, Mapping(), Rung("one", CONTEXT), None, ResidencyState.IDLE, job)
    with pytest.raises(Snooze) if stays else nullcontext():
        assert room.make(*about, folder=tmp_path).evictions
    assert room.ahead._thread is not None
    assert room.ahead._stop.is_set() is not bool(stays)


@pytest.fixture
def spared(managed: Managed, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Manager:
    """A runner without a model is there."""
    monkeypatch.setattr(cpu, "read", lambda: Device("cpu", "cpu", "test", PLENTY, PLENTY))
    settings.runners.spare = True
    manager = managed()
    manager.runtimes = (FakeRuntime(spares=True),)
    manager.spares.keep(manager.runtimes)
    return manager


def test_a_load_begins_in_a_runner_that_waits_and_the_next_one_gets_another(spared: Manager, ledger: Ledger) -> None:
    spare = spared.spares._spare
    assert spare is not None
    pid = spare.child.pid
    ready = loaded(spared, ledger, "one", fresh=True)
    assert (ready.row.id, ready.row.pid) == (spare.mark, pid)
    assert spared.spares.memory_bytes == 0
    spared.spares.keep(spared.runtimes)
    assert spared._pool.lives(ready.row.id)
    assert spared.spares.memory_bytes > 1_000_000
    spared._pool.end(ready.row.id, ResidencyState.STOPPED)
    assert not psutil.pid_exists(pid)


def test_it_is_free_for_any_load_and_ends_for_one_that_is_of_another_kind(
    spared: Manager, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = spared.spares._spare
    assert spare is not None
    with ledger.database.reading() as session:
        installation = catalog.installed(session, "one")
    monkeypatch.setattr(inventory, "memory_free", lambda _: 100)
    plan = plan_for(spared._services, spared.device, installation, "fake", Rung("one", CONTEXT), 10**9, 0.0)
    assert plan.free == 100 + 10**9
    spared.spares.give_way(replace(PLAN, need=replace(NEED, total=200)), FakeRuntime(spares=True))
    spared.spares.give_way(PLAN, FakeRuntime())
    assert spare.alive(), "it becomes one of them, and there is room for the other"
    spared.spares.give_way(replace(PLAN, need=replace(NEED, total=200)), FakeRuntime())
    assert not spare.alive()
    spared.spares.keep(spared.runtimes)
    assert spared.spares.memory_bytes == 0, "not again at once: it would end for the next load too"


def test_one_that_was_taken_and_not_used_ends(spared: Manager) -> None:
    spare = spared.spares.take(spared.runtimes[0])
    assert spare is not None
    spared.spares.keep(spared.runtimes)
    assert not spare.alive()
    assert spared.spares.memory_bytes > 0


def test_an_unload_that_a_person_asked_for_ends_it(managed: Managed, ledger: Ledger) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "one"))
    job = work(manager, ledger, Unload(model_id="one"))
    assert unload(Unload(model_id="one"), job)["unloaded"] == 2, "what serves its type, and the sleeper"
    assert states(ledger, "one") == {("stopped", False)}
    assert not manager._pool.lives("one")


@pytest.mark.parametrize("how", ["killed", "removed", "another revision"])
def test_the_watch_sees_that_one_is_over(managed: Managed, ledger: Ledger, how: str) -> None:
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))
    Watch(manager._pool, list).start()
    if how == "killed":
        server = manager._pool.server("two")
        assert server is not None
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
    with ledger.database.session() as session:
        if how == "removed":
            refuse_if_used(session, "two", "the job")
            catalog.uninstall(session, "two")
        if how == "another revision":
            session.exec(update(Installation).values(revision="2"))
    until(lambda: states(ledger, "two") == {("stopped", False)}, what="its end")
    until(lambda: not manager._pool.lives("two"), what="the end of its runner")
    assert manager.leaving.sleepers.find("1", Rung("two", CONTEXT)) is None


def test_a_worker_that_starts_anew_finds_none(managed: Managed, ledger: Ledger) -> None:
    """They died with the one before; what serves its type still waits for a request."""
    manager = managed()
    assert manager.leaving.rest(row(ledger, "one"))
    manager.recover()
    assert states(ledger, "one") == {("stopped", False), ("idle", True)}


def test_at_a_shutdown_one_that_does_not_stop_changes_nothing_for_the_others(managed: Managed, ledger: Ledger) -> None:
    """They would be asked at an address where nobody is."""
    manager = managed()
    assert manager.leaving.rest(row(ledger, "two"))

    class Kept:
        def stop(self, _: float) -> None:
            raise Failed("ollama_keeps_model", "Ollama does not let it go.")

    manager._pool._servers["kept"] = Kept()  # type: ignore[assignment] # all of a server that a shutdown needs
    manager.close()
    assert states(ledger, "one") == {("lost", True)}
    assert states(ledger, "two") == {("stopped", False)}


def test_what_is_set_where_nothing_is(settings: Settings) -> None:
    assert budget(settings.runners, Device(id="cpu", kind="cpu", name="", memory_total=1, memory_free=1)) == 0
    gpu = Device(id="gpu-1", kind="gpu", name="", memory_total=1, memory_free=1)
    assert budget(settings.runners, gpu) > 10**8
    settings.runners.sleep_bytes = 7  # type: ignore[assignment] # a ByteSize is an int
    assert budget(settings.runners, gpu) == 7


@pytest.mark.parametrize(
    ("device", "weights", "keeps"),
    [("gpu", 400, True), ("gpu", 401, False), ("gpu", 0, False), ("cpu", 1000, True), ("cpu", 1001, False)],
)
def test_a_model_keeps_its_weights_only_where_they_find_room_beside_those_of_who_is_awake(
    managed: Managed, ledger: Ledger, device: str, weights: int, keeps: bool
) -> None:
    """Those of a GPU are there twice; on a CPU awake models work with them."""
    manager = managed(1000)
    awake = row(ledger, "two").model_copy(update={"id": "awake", "device": device, "kept_bytes": 600})
    over = awake.model_copy(update={"id": "over", "state": ResidencyState.STOPPED})
    with ledger.database.session() as session:
        session.add(DeviceRow(id="gpu", kind="gpu", name="", node="local", memory_total=1, seen_at=0.0))
        session.add_all([Residency(**one.model_dump()) for one in (awake, over)])
        session.exec(update(Installation).values(size=weights))
    ready = loaded(manager, ledger, "two", fresh=True)
    assert row(ledger, ready.row.id).kept_bytes == (weights if keeps else None)
    (runtime,) = manager.runtimes
    assert isinstance(runtime, FakeRuntime)
    assert runtime.launched[-1].keep_weights is keeps
