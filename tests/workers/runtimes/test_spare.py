"""A runner that has read its libraries before it has a model."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.demo.models import make_transformers_llm
from shared.settings import RunnerSettings
from tests.conftest import until
from tests.fakes.runtimes import FakeRuntime
from workers.runtimes.base import Launch, Request
from workers.runtimes.spare import Spare
from workers.runtimes.torch_runner import TorchEmbedder, TorchRunner

KEY, MARK = "the-key", "its-residency"


@pytest.fixture
def spawn() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def waiting(launch: Launch | None, spawn: ThreadPoolExecutor) -> Spare:
    assert launch is not None
    return Spare(launch, MARK, KEY, "cpu", spawn)


def request(folder: Path, spare: Spare | None, **more: str) -> Request:
    about = {"model_id": "tiny", "host": "127.0.0.1", "port": 0, "key": KEY, "device": "cpu", "mark": MARK, **more}
    return Request(folder, spare=spare, **about)  # type: ignore[arg-type] # of several types


def test_it_becomes_the_runner_of_a_real_model(tmp_path: Path, spawn: ThreadPoolExecutor) -> None:
    make_transformers_llm(tmp_path / "model", 1, 800_000, "tiny")
    runtime = TorchRunner(RunnerSettings())
    spare = waiting(runtime.spare(KEY), spawn)
    runner = runtime.start(request(tmp_path / "model", spare), spawn, tmp_path / "logs")
    try:
        assert runner.pid == spare.child.pid
        runner.wait_ready(lambda: None)
        runner.probe()
    finally:
        runner.stop(5)
    assert until(lambda: (tmp_path / "logs" / "tiny.log").exists, what="its last words")


@pytest.mark.parametrize("more", [{"mark": "another"}, {"device": "gpu-1"}, {"key": "another"}], ids=str)
def test_for_another_residency_or_device_another_one_is_started(
    tmp_path: Path, spawn: ThreadPoolExecutor, more: dict[str, str]
) -> None:
    runtime = FakeRuntime(spares=True)
    spare = waiting(runtime.spare(KEY), spawn)
    runner = runtime.start(request(tmp_path, spare, **more), spawn)
    assert runner.pid != spare.child.pid
    assert (spare.told, spare.alive()) == (False, True)
    runner.stop(0)
    spare.stop()
    assert not spare.alive()


def test_where_it_has_ended_another_one_is_started(tmp_path: Path, spawn: ThreadPoolExecutor) -> None:
    runtime = FakeRuntime(spares=True)
    spare = waiting(Launch((sys.executable, "-c", "", "SPARE"), {}), spawn)
    until(lambda: not spare.alive(), what="its end")
    runner = runtime.start(request(tmp_path, spare), spawn)
    runner.wait_ready(lambda: None)
    runner.stop(0)


def test_all_kinds_of_torch_runners_may_be_made_of_one() -> None:
    kinds = (TorchRunner(RunnerSettings()), TorchEmbedder(RunnerSettings()))
    assert len({kind.spare(KEY) and kind.spare(KEY).argv for kind in kinds}) == 1  # type: ignore[union-attr] # torch is here
