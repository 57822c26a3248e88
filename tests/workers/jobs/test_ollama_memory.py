"""Models of Ollama in memory, as jobs of a device worker: loaded, switched, planned, lost and brought back."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlmodel import col, select

from api.plan import PlanBody, planned
from shared.contracts import Download, Load, Switch, Unload
from shared.db import devices, residency
from shared.db.reports import Device as DeviceRow
from shared.db.reports import Footprint
from shared.db.tables import Job, Residency
from shared.errors import Conflict, Unavailable
from shared.states import Availability, ResidencyState
from tests.conftest import until
from tests.fakes.ollama import FakeOllama, published
from tests.fakes.ollama_memory import CONTEXT_LENGTH
from tests.workers.jobs.conftest import Place
from workers.devices.base import Device
from workers.residency.manager import Manager
from workers.residency.recovery import RECOVERY, Recovery
from workers.runtimes import ollama as runtime

NAME, OTHER = "llama3:8b", "qwen3:4b"
DEVICE = Device(id="cpu", kind="cpu", name="test", memory_total=10**10, memory_free=10**10)


@pytest.fixture
def fake(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOllama]:
    """Two models that were pulled from here. Whether they are in memory is looked at all the time."""
    monkeypatch.setattr(runtime, "LOOK_SECONDS", 0.0)
    with FakeOllama() as fake:
        place.services.settings.sources.ollama_host = fake.url
        for model_id, name in (("llama", NAME), ("qwen", OTHER)):
            fake.library[name] = published(name)
            place.add(model_id, name, source="ollama")
            place.run(Download(model_id=model_id))
        yield fake


@pytest.fixture
def manager(place: Place, fake: FakeOllama) -> Iterator[Manager]:
    """A device worker's, with its watch."""
    with closing(Manager(place.services, DEVICE)) as manager:
        place.services.manager = manager
        manager.recover()
        yield manager


def row(place: Place, model_id: str = "llama") -> Residency:
    """The newest of the model."""
    with place.services.database.reading() as session:
        newest = select(Residency).where(col(Residency.model_id) == model_id).order_by(col(Residency.started_at).desc())
        found = session.exec(newest).first()
    assert found is not None
    return found


def lost(place: Place) -> None:
    """Waits until a job is to bring it back."""
    query = select(Job).where(col(Job.origin) == RECOVERY, col(Job.state) == "queued")

    def asked() -> bool:
        with place.services.database.reading() as session:
            return session.exec(query).first() is not None

    until(asked, what="a recovery")
    assert (row(place).state, row(place).active, row(place).known_as) == (ResidencyState.LOST, True, None)


def test_it_is_loaded_beside_another_switched_to_and_unloaded(place: Place, manager: Manager, fake: FakeOllama) -> None:
    told = place.run(Switch(model_id="llama"))
    size = fake.models[NAME].size + 1_000_000
    assert (told["runtime"], told["memoryBytes"], told["offloadedBytes"]) == ("ollama", size, None)
    there = row(place)
    assert (there.state, there.url, there.known_as, there.pid) == ("ready", fake.url, NAME, None)
    assert there.context_length == CONTEXT_LENGTH, "Ollama's, and not ours"
    with place.services.database.reading() as session:
        measured = session.exec(select(Footprint)).one()
    assert (measured.runtime, measured.memory_bytes) == ("ollama", size)
    place.run(Load(model_id="qwen"))
    assert set(fake.memory.models) == {NAME, OTHER}
    assert place.run(Switch(model_id="qwen"))["replaced"] == ["llama"]
    assert set(fake.memory.models) == {OTHER}
    place.run(Load(model_id="qwen", fresh=True))
    assert fake.memory.loads == [NAME, OTHER, OTHER]
    assert row(place, "qwen").active
    place.run(Unload(model_id="qwen"))
    assert fake.memory.models == {}


def test_what_does_not_fit_beside_it_takes_its_place_as_the_plan_says(
    place: Place, manager: Manager, fake: FakeOllama
) -> None:
    services = place.services
    place.run(Switch(model_id="llama"))
    services.settings.runners.memory_limit = row(place).memory_bytes
    with services.database.session() as session:
        devices.report(session, DeviceRow(
            id="cpu", kind="cpu", name="test", node="local", memory_total=10**10, seen_at=0.0,
            details={"memoryLimit": row(place).memory_bytes},
        ))  # fmt: skip
    body, context = PlanBody(action="switch", model_id="qwen"), services.settings.runners.context_length
    plan = planned(services.database, services.leases, body, context)
    steps = [(step.do, step.model_id) for step in plan.steps]
    assert steps == [("stop", "llama"), ("start", "qwen"), ("route", "qwen")]
    place.run(Switch(model_id="qwen", plan=plan.id))
    assert set(fake.memory.models) == {OTHER}


@pytest.mark.fault("F-49")
@pytest.mark.parametrize("ends", [lambda fake: fake.memory.evict(NAME), lambda fake: fake.kill()])
def test_one_that_ollama_lets_go_of_comes_back(
    place: Place, manager: Manager, fake: FakeOllama, ends: Callable[[FakeOllama], Any]
) -> None:
    place.run(Switch(model_id="llama"))
    ends(fake)
    lost(place)
    if not fake.running:
        with pytest.raises(Unavailable):  # the job waits, and is tried again
            place.run(Recovery(model_id="llama"))
        fake.start_again()
    place.run(Recovery(model_id="llama"))
    assert row(place).state == ResidencyState.READY
    assert fake.memory.models[NAME].keep_alive == -1
    place.run(Unload(model_id="llama"))
    assert fake.memory.models == {}


@pytest.mark.fault("F-49")
def test_one_that_was_removed_behind_our_back_is_told(place: Place, manager: Manager, fake: FakeOllama) -> None:
    del fake.models[NAME]
    with pytest.raises(Conflict) as caught:
        place.run(Switch(model_id="llama"))
    assert (caught.value.code, caught.value.hint) == ("model_gone", "Bring it again: modelyard pull llama.")
    assert place.status("llama") == Availability.MISSING
    with place.services.database.reading() as session:
        assert residency.residents(session, "cpu") == []
    place.run(Download(model_id="llama"))
    place.run(Switch(model_id="llama"))


def test_another_version_of_it_is_taken_only_when_somebody_pulls_it(
    place: Place, manager: Manager, fake: FakeOllama
) -> None:
    fake.models[NAME] = fake.library[NAME] = published("a newer one")
    with pytest.raises(Conflict) as caught:
        place.run(Switch(model_id="llama"))
    assert caught.value.code == "model_changed"
    place.run(Download(model_id="llama"))
    assert place.run(Switch(model_id="llama"))["modelId"] == "llama"


def test_a_worker_that_was_killed_leaves_nothing_in_ollamas_memory(
    place: Place, manager: Manager, fake: FakeOllama
) -> None:
    place.run(Switch(model_id="llama"))
    place.run(Load(model_id="qwen"))
    manager.stop_waiting()  # its watch ends; all else stays as a kill leaves it
    with closing(Manager(place.services, DEVICE)) as anew:
        place.services.manager = anew
        anew.recover()
        assert fake.memory.models == {}
        lost(place)
        place.run(Recovery(model_id="llama"))
        assert set(fake.memory.models) == {NAME}, "what served is back, and only that"


def test_a_device_worker_that_ends_takes_it_along(place: Place, manager: Manager, fake: FakeOllama) -> None:
    place.run(Switch(model_id="llama"))
    manager.close()
    assert fake.memory.models == {}
    assert row(place).state == ResidencyState.LOST
