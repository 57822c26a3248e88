"""What a model falls back to, step by step, with real children that end where their context is too long."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from sqlmodel import select, update

from deploy.demo.models import make_transformers_llm
from shared.contracts import Load, Run, Switch
from shared.db import catalog, residency
from shared.db.reports import Device as DeviceRow
from shared.db.tables import Installation, Residency
from shared.errors import Conflict, Failed
from shared.fallback import Rung
from shared.routing import ORIGIN
from shared.settings import RunnerSettings
from shared.states import ResidencyState
from tests.factories.repository import make_repository
from tests.fakes.runtimes import OUT_OF_MEMORY, FakeRuntime
from tests.workers.jobs.conftest import Place
from workers.devices import cpu, inventory
from workers.devices.base import Device
from workers.residency.manager import Manager
from workers.residency.planning import plan_for
from workers.residency.recovery import RECOVERY, Return
from workers.runtimes.base import Launch, Request
from workers.runtimes.torch_runner import TorchRunner

FITS = 512
"""Tokens of context up to which a runner of this device starts."""


@dataclass
class Narrow(FakeRuntime):
    def launch(self, request: Request) -> Launch:
        return (super() if request.context_length <= FITS else FakeRuntime(OUT_OF_MEMORY)).launch(request)


@pytest.fixture
def oak(place: Place) -> Iterator[Place]:
    """`oak` and `ash` are on disk; who runs on the device with more than some tokens runs out of memory."""
    for name in ("oak", "ash"):
        make_repository(place.repositories / "tiny" / name, weights=1000)
        place.pull(name, f"tiny/{name}")
    device = Device(id="cpu", kind="cpu", name="test", memory_total=10**9, memory_free=10**9)
    with closing(Manager(place.services, device)) as manager:
        manager.runtimes = (Narrow(),)
        place.services.manager = manager
        yield place


def steps(place: Place, model_id: str, *steps: dict[str, Any]) -> None:
    with place.services.database.session() as session:
        catalog.change_model(session, model_id, fallback=list(steps))


def answering(place: Place) -> dict[str, list[str]]:
    """Who is in memory, and for whom it answers."""
    with place.services.database.reading() as session:
        rows = session.exec(select(Residency)).all()
        return {row.model_id: row.fallback_for for row in rows if row.state == "ready"}


def tried(result: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(way["modelId"], way["contextLength"], way["code"]) for way in result["tried"]]


def test_a_strict_one_does_not_run_at_all(oak: Place) -> None:
    with pytest.raises(Failed) as caught:
        oak.run(Load(model_id="oak"))
    assert caught.value.code == "runner_exited"
    assert answering(oak) == {}


def test_fewer_tokens_are_tried_in_order_and_told(oak: Place) -> None:
    steps(oak, "oak", {"contextLength": 2048}, {"contextLength": 256}, {"model": "ash"})
    result = oak.run(Switch(model_id="oak"))
    assert tried(result) == [("oak", 4096, "runner_exited"), ("oak", 2048, "runner_exited")]
    assert (result["servedBy"], result["fallback"]) == ({"modelId": "oak", "contextLength": 256}, True)
    assert answering(oak) == {"oak": ["oak"]}
    again = oak.run(Load(model_id="oak"))
    assert (again["servedBy"]["contextLength"], again["fallback"]) == (256, True), "it is there, and it is still less"


def test_another_model_stands_in_until_the_model_itself_is_there(oak: Place) -> None:
    steps(oak, "ash", {"contextLength": 128})
    oak.run(Load(model_id="ash"))
    steps(oak, "oak", {"model": "gone"}, {"model": "ash"})
    result = oak.run(Switch(model_id="oak"))
    assert tried(result) == [("oak", 4096, "runner_exited"), ("gone", 4096, "model_not_found")]
    assert (result["modelId"], result["servedBy"]["modelId"]) == ("oak", "ash")
    assert answering(oak) == {"ash": ["ash", "oak"]}
    with oak.services.database.reading() as session:
        serving = catalog.active(session, "llm")
    assert serving is not None
    assert serving.model_id == "ash"
    steps(oak, "oak", {"contextLength": 256})
    assert oak.run(Load(model_id="oak"))["servedBy"]["modelId"] == "oak"
    assert answering(oak) == {"ash": ["ash"], "oak": ["oak"]}


def test_a_request_does_not_try_again_at_once_what_failed_and_a_person_does(oak: Place) -> None:
    steps(oak, "oak", {"contextLength": 256})
    assert tried(oak.run(Load(model_id="oak"))) == [("oak", 4096, "runner_exited")]
    assert tried(oak.run(Load(model_id="oak", fresh=True), origin=ORIGIN)) == [("oak", 4096, "failed_lately")]
    assert tried(oak.run(Load(model_id="oak", fresh=True))) == [("oak", 4096, "runner_exited")]


@pytest.fixture
def pine(oak: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRuntime]:
    """The device is a GPU with 1 GB free, and `oak` a GGUF file of 4 GB in 32 layers."""
    facts = {"format": "gguf", "weightBytes": 4 * 10**9, "layers": 32, "quantization": "Q4_K_M"}
    with oak.services.database.session() as session:
        session.exec(update(Installation).where(Installation.model_id == "oak").values(facts=facts))
        session.exec(update(DeviceRow).values(id="gpu-1", kind="gpu"))
    monkeypatch.setattr(inventory, "memory_free", lambda _: 10**9)
    monkeypatch.setattr(cpu, "read", lambda: Device("cpu", "cpu", "test", 64 * 10**9, 32 * 10**9))
    device = Device(id="gpu-1", kind="gpu", name="test", memory_total=10**9, memory_free=10**9)
    with closing(Manager(oak.services, device)) as manager:
        runtime = FakeRuntime(name="llamacpp")
        manager.runtimes = (runtime,)
        oak.services.manager = manager
        yield runtime


def test_layers_that_the_gpu_has_no_room_for_stay_on_the_cpu(oak: Place, pine: FakeRuntime) -> None:
    with pytest.raises(Conflict) as caught:
        oak.run(Load(model_id="oak"))
    assert (caught.value.code, "gpu-layers=4" in caught.value.hint) == ("will_not_fit", True)
    steps(oak, "oak", {"gpuLayers": 30}, {"gpuLayers": 2, "contextLength": 1024})
    result = oak.run(Load(model_id="oak"))
    assert [(way["code"], way.get("gpuLayers")) for way in result["tried"]] == [
        ("will_not_fit", None), ("will_not_fit", 30),
    ]  # fmt: skip
    assert all(way["needBytes"] > way["freeBytes"] == 10**9 for way in result["tried"])
    assert result["servedBy"] == {"modelId": "oak", "contextLength": 1024, "gpuLayers": 2}
    assert (result["fallback"], result["offloadedBytes"] > 10**6) == (True, True)
    (request,) = pine.launched
    assert (request.device, request.gpu_layers, request.context_length) == ("gpu-1", 2, 1024)


def test_all_of_it_runs_on_the_cpu_where_a_person_wrote_that_it_may(oak: Place, pine: FakeRuntime) -> None:
    steps(oak, "oak", {"precision": "bfloat16"}, {"device": "cpu"})
    result = oak.run(Switch(model_id="oak"))
    assert [way["code"] for way in result["tried"]] == ["will_not_fit", "nothing_lower"]
    assert "model=ID" in result["tried"][1]["message"]
    assert result["servedBy"] == {"modelId": "oak", "contextLength": 4096, "device": "cpu"}
    assert (result["memoryBytes"], result["offloadedBytes"] > 10**6) == (0, True)
    assert [request.device for request in pine.launched] == ["cpu"]
    again = oak.run(Load(model_id="oak"))
    assert (again["servedBy"]["device"], again["fallback"]) == ("cpu", True), "it is there, and it is still less"


@dataclass
class Wide(TorchRunner):
    """The real one, which has no room for numbers of 32 bits."""

    _settings = RunnerSettings()

    def launch(self, request: Request) -> Launch:
        return super().launch(request) if request.precision else FakeRuntime(OUT_OF_MEMORY).launch(request)


def test_a_real_model_answers_in_16_bits(place: Place) -> None:
    make_transformers_llm(place.repositories / "tiny" / "fir", 7, 800_000, "fir")
    place.pull("fir", "tiny/fir")
    place.services.settings.jobs.lease_seconds = 600  # nobody renews it here
    steps(place, "fir", {"precision": "bfloat16"})
    device = Device(id="cpu", kind="cpu", name="test", memory_total=10**12, memory_free=10**12)
    with closing(Manager(place.services, device)) as manager:
        manager.runtimes = (Wide(),)
        place.services.manager = manager
        result = place.run(Switch(model_id="fir"))
        assert tried(result) == [("fir", 4096, "runner_exited")]
        assert result["servedBy"] == {"modelId": "fir", "contextLength": 4096, "precision": "bfloat16"}
        asked = Run(model_id="fir", path="completions", request={"prompt": "Hello", "max_tokens": 2})
        answer = place.run(asked)
        assert (answer["servedBy"]["precision"], answer["fallback"]) == ("bfloat16", True)


def test_a_step_that_means_nothing_here_is_passed_over_and_says_so(oak: Place) -> None:
    steps(oak, "oak", {"device": "cpu"}, {"gpuLayers": 3}, {"contextLength": 256})
    assert tried(oak.run(Load(model_id="oak"))) == [
        ("oak", 4096, "runner_exited"), ("oak", 4096, "nothing_lower"), ("oak", 4096, "nothing_lower"),
    ]  # fmt: skip


def test_a_plan_that_was_begun_falls_back_like_any_other_load(oak: Place) -> None:
    steps(oak, "oak", {"contextLength": 256})
    services = oak.services
    assert services.manager is not None
    with services.database.reading() as session:
        installation = catalog.installed(session, "oak")
    plan = plan_for(services, services.manager.device, installation, "fake", Rung("oak", 4096), 0, 0.0)
    assert oak.run(Switch(model_id="oak", plan=plan.id))["servedBy"]["contextLength"] == 256
    with pytest.raises(Conflict, match="changed since"):
        oak.run(Switch(model_id="ash", plan="0" * 32))


def test_who_stands_in_does_so_after_it_was_started_anew(oak: Place) -> None:
    steps(oak, "ash", {"contextLength": 128})
    steps(oak, "oak", {"model": "ash"}, {"contextLength": 128})
    oak.run(Load(model_id="ash"))
    oak.run(Load(model_id="oak"))
    oak.run(Load(model_id="ash", fresh=True))
    assert answering(oak) == {"ash": ["oak", "ash"]}
    assert _answers_for(oak, "oak") == "ash"
    steps(oak, "oak")
    assert _answers_for(oak, "oak") is None, "nobody wrote that it may"


def _answers_for(place: Place, model_id: str) -> str | None:
    with place.services.database.reading() as session:
        _, row = residency.answering(session, model_id, "llm", is_model=True)
    return row.model_id if row else None


def test_a_pinned_one_that_nobody_waits_for_any_more_is_not_brought_back(oak: Place) -> None:
    """Its recovery was asked for, and then a person had the last word."""
    assert oak.run(Return(model_id="ash"), origin=RECOVERY) == {
        "modelId": "ash", "modelType": "llm", "dropped": True,
    }  # fmt: skip
    assert answering(oak) == {}
    steps(oak, "ash", {"contextLength": 256})
    oak.run(Load(model_id="ash"))
    with oak.services.database.session() as session:
        session.exec(update(Residency).values(state=ResidencyState.LOST))
    assert oak.run(Return(model_id="ash"), origin=RECOVERY)["servedBy"]["modelId"] == "ash"
    assert answering(oak) == {"ash": ["ash"]}


def test_where_no_way_works_the_first_reason_is_told_with_all_others(oak: Place) -> None:
    steps(oak, "oak", {"contextLength": 1024}, {"model": "ash"})
    with pytest.raises(Failed) as caught:
        oak.run(Load(model_id="oak"))
    assert caught.value.code == "runner_exited"
    assert [way["modelId"] for way in caught.value.details["tried"]] == ["oak", "oak", "ash"]
    assert answering(oak) == {}
