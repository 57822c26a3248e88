"""The torch runner's engine, as far as it goes without torch."""

from pathlib import Path

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
