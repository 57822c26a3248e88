"""A runner that outlived its worker is known by its mark, and nobody else is touched."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from workers.runtimes.child import MARK, end_stray

ID = "2b6f0cc9-04d7-4b1b-9d2c-5e1b8a4f0a11"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """A process that waits, leader of its group, with a child of its own."""
    family = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with ExitStack() as stack:

        def start(mark: str | None) -> "subprocess.Popen[bytes]":
            env = {**os.environ, **({} if mark is None else {MARK: mark})}
            process = subprocess.Popen(
                [sys.executable, "-c", family], env=env, start_new_session=True, stdout=subprocess.PIPE
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(_kill_group, process.pid)
            return process

        yield start


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, 9)


def said(process: "subprocess.Popen[bytes]") -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


@pytest.mark.fault("F-39")
def test_it_goes_with_all_that_it_started(start: Start) -> None:
    stray = start(ID)
    child = said(stray)
    assert end_stray(stray.pid, ID)
    assert stray.wait(10) == -9
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.fault("F-39", "F-40")
@pytest.mark.parametrize("mark", [None, "", "another-one"])
def test_a_stranger_with_its_number_lives(start: Start, mark: str | None) -> None:
    stranger = start(mark)
    said(stranger)
    assert not end_stray(stranger.pid, ID)
    assert stranger.poll() is None


@pytest.mark.fault("F-40")
def test_nobody_has_its_number_any_more(start: Start) -> None:
    ended = start(None)
    os.killpg(ended.pid, 9)
    ended.wait()
    assert not end_stray(ended.pid, ID)
    assert not end_stray(os.getpid(), ID), "nor is it us"
