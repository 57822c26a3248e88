"""What a model falls back to, step by step, with real children that end where their context is too long."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from sqlmodel import select

from shared.contracts import Load, Switch
from shared.db import catalog
from shared.db.tables import Residency
from shared.errors import Failed
from tests.factories.repository import make_repository
from tests.fakes.runtimes import OUT_OF_MEMORY, FakeRuntime
from tests.workers.jobs.conftest import Place
from workers.devices.base import Device
from workers.residency.manager import Manager
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


def test_where_no_way_works_the_first_reason_is_told_with_all_others(oak: Place) -> None:
    steps(oak, "oak", {"contextLength": 1024}, {"model": "ash"})
    with pytest.raises(Failed) as caught:
        oak.run(Load(model_id="oak"))
    assert caught.value.code == "runner_exited"
    assert [way["modelId"] for way in caught.value.details["tried"]] == ["oak", "oak", "ash"]
    assert answering(oak) == {}
