"""What a model falls back to, step by step, with real children that end where their context is too long."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from sqlmodel import select, update

from shared.contracts import Load, Switch
from shared.db import catalog, residency
from shared.db.tables import Residency
from shared.errors import Conflict, Failed
from shared.routing import ORIGIN
from shared.states import ResidencyState
from tests.factories.repository import make_repository
from tests.fakes.runtimes import OUT_OF_MEMORY, FakeRuntime
from tests.workers.jobs.conftest import Place
from workers.devices.base import Device
from workers.residency.manager import Manager
from workers.residency.planning import plan_for
from workers.residency.recovery import RECOVERY, Return
from workers.runtimes.base import Launch, Request

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


def test_a_plan_that_was_begun_falls_back_like_any_other_load(oak: Place) -> None:
    steps(oak, "oak", {"contextLength": 256})
    services = oak.services
    assert services.manager is not None
    with services.database.reading() as session:
        installation = catalog.installed(session, "oak")
    plan = plan_for(services, services.manager.device, installation, "fake", 4096, 0.0)
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
