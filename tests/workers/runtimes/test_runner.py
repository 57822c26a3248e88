"""Starting, awaiting and ending children that misbehave."""

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.errors import Cancelled, Failed, ModelyardError
from shared.settings import RunnerSettings
from tests.conftest import until
from tests.fakes import runtimes
from tests.fakes.runtimes import FakeRuntime
from workers.runtimes.base import Launch, Request
from workers.runtimes.child import environment
from workers.runtimes.runner import Runner, startup_seconds

KEY = "a-key-that-nobody-else-has"
SETTINGS = RunnerSettings(readiness_interval=0.02, advertise_host=None)
Start = Callable[..., Runner]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a fake; every child is gone afterwards."""
    with ThreadPoolExecutor(1) as spawn, ExitStack() as stack:

        def begin(runtime: FakeRuntime, port: int = 0, settings: RunnerSettings = SETTINGS) -> Runner:
            request = Request(tmp_path, "org/fake", "127.0.0.1", port, KEY, "cpu")
            runner = Runner.start(runtime, request, spawn, settings, tmp_path / "logs")
            stack.callback(runner.stop, 0)
            return runner

        yield begin


def nothing() -> None:
    """A checkpoint at which nobody asks for anything."""


def failure(runner: Runner, deadline: float | None = None) -> Failed:
    with pytest.raises(Failed) as caught:
        runner.wait_ready(nothing, deadline)
    assert not runner.alive()
    return caught.value


def test_a_good_one_is_ready_proved_and_stopped(start: Start) -> None:
    runner = start(FakeRuntime())
    runner.wait_ready(nothing)
    runner.probe()
    assert runner.alive()
    assert runner.url == f"http://127.0.0.1:{runner.port}"
    runner.stop(30)
    assert runner.exit_code == -signal.SIGTERM
    assert not runner.healthy()
    runner.stop(30)


def test_the_port_asked_for_is_used(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    runner = start(FakeRuntime(), port)
    runner.wait_ready(nothing)
    assert runner.port == port


def test_other_machines_hear_the_advertised_name(start: Start) -> None:
    settings = RunnerSettings(readiness_interval=0.02, advertise_host="worker-7")
    runner = start(FakeRuntime(), settings=settings)
    runner.wait_ready(nothing)
    assert runner.url == f"http://worker-7:{runner.port}"


@pytest.mark.fault("F-45")
def test_one_that_exits_well_too_early_has_failed(start: Start) -> None:
    error = failure(start(FakeRuntime(runtimes.EXITS_EARLY)))
    assert (error.code, error.details["exit_code"]) == ("runner_exited", 0)
    assert error.details["log"] == ["nothing to do here"]


@pytest.mark.fault("F-45")
def test_one_that_crashes_leaves_its_last_words_but_not_its_key(start: Start, tmp_path: Path) -> None:
    error = failure(start(FakeRuntime(runtimes.CRASHES)))
    assert error.details["exit_code"] == 3
    assert sorted(error.details["log"]) == ["reading tensors", "the third tensor is broken, said ***"]
    assert not error.details["out_of_memory"]
    assert KEY not in (tmp_path / "logs" / "org_fake.log").read_text()


@pytest.mark.fault("F-42")
def test_memory_is_named_as_the_reason(start: Start) -> None:
    error = failure(start(FakeRuntime(runtimes.OUT_OF_MEMORY)))
    assert error.details["out_of_memory"]
    assert "memory" in error.hint


def test_a_signal_is_named(start: Start) -> None:
    error = failure(start(FakeRuntime("os.kill(os.getpid(), signal.SIGSEGV)")))
    assert error.details["exit_code"] == -signal.SIGSEGV
    assert "SIGSEGV" in error.message


@pytest.mark.fault("F-45")
def test_loading_for_ever_ends_at_the_deadline(start: Start) -> None:
    error = failure(start(FakeRuntime(runtimes.LOADING_FOR_EVER)), 0.3)
    assert error.code == "runner_start_timeout"


@pytest.mark.fault("F-45")
def test_large_models_get_more_time(tmp_path: Path) -> None:
    before = startup_seconds(tmp_path, SETTINGS)
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(5_000_000_000)
    assert startup_seconds(tmp_path, SETTINGS) == pytest.approx(before + 100)


def test_a_checkpoint_ends_the_wait_and_the_child(start: Start) -> None:
    looks: list[None] = []

    def cancel_at_the_third() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise Cancelled

    runner = start(FakeRuntime(runtimes.LOADING_FOR_EVER))
    with pytest.raises(Cancelled):
        runner.wait_ready(cancel_at_the_third)
    assert runner.exit_code == -signal.SIGKILL


def test_a_stop_ends_the_wait(start: Start) -> None:
    runner = start(FakeRuntime(runtimes.LOADING_FOR_EVER))
    looked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(runner.wait_ready, looked.set)
        assert looked.wait(30)
        runner.stop(30)
        with pytest.raises(Failed, match="while it was starting"):
            waiting.result()


@pytest.mark.fault("F-45")
@pytest.mark.parametrize("fault", [runtimes.GARBAGE, runtimes.NOT_A_NUMBER, runtimes.ENDLESS_ANSWER])
def test_ready_is_not_proved(start: Start, fault: str) -> None:
    runner = start(FakeRuntime(fault))
    runner.wait_ready(nothing)
    with pytest.raises(Failed) as caught:
        runner.probe()
    assert caught.value.code == "probe_failed"
    assert len(caught.value.details["answer"]) <= 300


def test_a_probe_of_a_dead_one_fails_as_such(start: Start) -> None:
    runner = start(FakeRuntime())
    runner.wait_ready(nothing)
    runner.stop(0)
    with pytest.raises(Failed) as caught:
        runner.probe()
    assert caught.value.code == "probe_failed"


@pytest.mark.fault("F-45")
def test_one_that_ignores_sigterm_is_killed(start: Start) -> None:
    runner = start(FakeRuntime(runtimes.IGNORES_SIGTERM))
    runner.wait_ready(nothing)
    runner.stop(0.2)
    assert runner.exit_code == -signal.SIGKILL


@pytest.mark.fault("F-45")
def test_a_flood_of_output_neither_blocks_it_nor_us(start: Start) -> None:
    runner = start(FakeRuntime(runtimes.FLOODS_STDOUT))
    runner.wait_ready(nothing)
    lines = runner.log_tail(10_000)
    assert len(lines) <= 201
    assert sum(map(len, lines)) <= 1_100_000
    assert lines[-2] == "y" * 99


def test_what_it_left_behind_goes_with_it(start: Start) -> None:
    runner = start(FakeRuntime(runtimes.LEAVES_A_CHILD))
    runner.wait_ready(nothing)
    pid = until(lambda: next((line for line in runner.log_tail() if line.isdecimal()), None), what="its pid")
    grandchild = os.pidfd_open(int(pid))
    os.kill(runner.pid, signal.SIGKILL)
    while runner.alive():
        runner.healthy()
    assert select.select([grandchild], [], [], 30)[0]
    os.close(grandchild)


@dataclass
class Crowded(FakeRuntime):
    """Somebody else takes the first ports just before our child gets there."""

    strangers: int = 1
    held: list[socket.socket] = field(default_factory=list)

    def launch(self, request: Request) -> Launch:
        if len(self.held) < self.strangers:
            self.held.append(socket.create_server((request.host, request.port)))
        return super().launch(request)

    def heard(self) -> bytes:
        """Everything that was sent to the strangers."""
        said = b""
        for one in self.held:
            one.setblocking(False)
            while True:
                try:
                    connection, _ = one.accept()
                except BlockingIOError:
                    break
                with connection:
                    said += connection.recv(1000)
            one.close()
        return said


@pytest.mark.fault("A-92")
def test_a_stranger_on_the_port_is_left_alone(start: Start) -> None:
    runtime = Crowded(strangers=2)
    runner = start(runtime)
    runner.wait_ready(nothing)
    assert [request.port for request in runtime.launched][-1] == runner.port
    assert len({request.port for request in runtime.launched}) == 3
    assert runtime.heard() == b""


@pytest.mark.fault("A-92")
def test_strangers_everywhere_are_an_error(start: Start) -> None:
    runtime = Crowded(strangers=99)
    assert failure(start(runtime)).code == "runner_port_taken"
    runtime.heard()


@pytest.mark.fault("A-92", "F-45")
def test_a_stranger_on_a_fixed_port_is_an_error(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert failure(start(FakeRuntime(), taken.getsockname()[1])).code == "runner_port_taken"


@pytest.mark.fault("A-115")
def test_the_environment_is_an_allow_list() -> None:
    ours = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HF_TOKEN": "x",
        "MODELYARD_API_KEY": "x",
        "AWS_SECRET": "x",
        "PYTHONPATH": "x",
    }
    assert environment(ours, {"ADDED": "1"}) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "ADDED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }


def test_a_machine_without_processes_left_says_so(tmp_path: Path) -> None:
    class Full(ThreadPoolExecutor):
        def submit(self, *_: object, **__: object) -> object:  # type: ignore[override] # stands for fork failing
            raise BlockingIOError(11, "Resource temporarily unavailable")

    request = Request(tmp_path, "fake", "127.0.0.1", 0, KEY, "cpu")
    with Full(1) as spawn, pytest.raises(ModelyardError) as caught:
        Runner.start(FakeRuntime(), request, spawn, SETTINGS)
    assert caught.value.code == "runner_not_started"
