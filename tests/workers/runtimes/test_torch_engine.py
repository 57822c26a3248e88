"""The torch runner's engine, as far as it goes without torch."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from workers.runtimes.torch_runner.generate import MAX_QUEUED, Engine
from workers.runtimes.torch_runner.request import Generation, Options, Refused


def generation() -> Generation:
    return Generation("hi", Options(), lambda _: None)


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "cpu", 128)
    for _ in range(MAX_QUEUED):
        engine.submit(generation())
    assert engine.waiting == MAX_QUEUED
    with pytest.raises(Refused) as caught:
        engine.submit(generation())
    assert (caught.value.status, caught.value.code) == (503, "busy")


def test_a_closed_engine_takes_nothing(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "cpu", 128)
    engine.close()
    with pytest.raises(Refused) as caught:
        engine.submit(generation())
    assert (caught.value.status, caught.value.code) == (503, "stopping")


def test_before_loading_there_is_no_progress(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "cpu", 128)
    assert engine.progress() == 0
    engine.ready.set()
    assert engine.progress() == 1


def test_it_does_not_sleep_while_a_request_is_under_way(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "cpu", 128, keep_weights=True)
    with pytest.raises(Refused) as caught:
        engine.sleep()
    assert (caught.value.status, caught.value.code) == (409, "cannot_sleep"), "nothing is loaded"
    engine._weights = SimpleNamespace(drop=lambda: None)
    with engine._working, pytest.raises(Refused) as caught:
        engine.sleep()
    assert (caught.value.status, caught.value.code) == (409, "busy")
    engine.submit(generation())
    with pytest.raises(Refused, match="under way"):
        engine.sleep()
    assert not engine.asleep


def test_asleep_it_takes_nothing(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "cpu", 128, keep_weights=True)
    engine._weights = SimpleNamespace(drop=lambda: None, to=lambda _: None)
    engine.sleep()
    with pytest.raises(Refused) as caught:
        engine.submit(generation())
    assert (caught.value.status, caught.value.code) == (503, "asleep")
    engine.wake()
    engine.submit(generation())
    assert engine.waiting == 1
