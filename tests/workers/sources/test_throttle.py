"""A rate for all connections of a job: never passed, changed while it runs, and no fault of the server."""

import math
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.origin import Origin
from tests.workers.sources.fetching import MEDIUM, MIB, QUICK, settings
from workers.sources.base import RemoteFile
from workers.sources.transfer import Throttle, fetch
from workers.sources.transfer.throttle import BURST_SECONDS, SLICE_SECONDS
from workers.sources.wire.dial import Stopped
from workers.sources.wire.policy import HostPolicy


def test_no_limit_grants_what_is_wanted() -> None:
    throttle = Throttle()
    assert throttle.take(MIB, threading.Event()) == MIB
    assert not throttle.holding
    assert throttle.demand() == math.inf


@pytest.mark.parametrize("connections", [1, 4])
def test_a_rate_is_not_passed(connections: int) -> None:
    throttle, rate, taken = Throttle(), 4 * MIB, [0] * connections
    throttle.allow(rate)
    began = time.monotonic()

    def read(number: int) -> None:
        while taken[number] < MIB:
            taken[number] += throttle.take(MIB, threading.Event())

    threads = [threading.Thread(target=read, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) <= rate * (time.monotonic() - began + BURST_SECONDS + SLICE_SECONDS)
    assert throttle.holding
    assert throttle.demand() == math.inf, "it could have used more"


def test_what_did_not_come_is_granted_again() -> None:
    throttle, stop = Throttle(), threading.Event()
    throttle.allow(MIB)
    throttle.give_back(throttle.take(MIB, stop))
    stop.set()
    for _ in range(1000):
        throttle.give_back(throttle.take(MIB, stop))  # would raise where it had to wait


def test_whoever_waits_is_stopped_and_feels_a_new_rate() -> None:
    throttle, stop, granted = Throttle(), threading.Event(), threading.Event()
    throttle.allow(0)

    def read() -> None:
        throttle.take(MIB, threading.Event())
        granted.set()

    thread = threading.Thread(target=read)
    thread.start()
    stop.set()
    with pytest.raises(Stopped):
        throttle.take(MIB, stop)
    assert not granted.is_set()
    throttle.allow(math.inf)
    thread.join(10)
    assert granted.is_set()


def test_a_limit_under_the_least_rate_of_a_server_is_no_fault_of_the_server(tmp_path: Path) -> None:
    throttle = Throttle()
    throttle.allow(4 * MIB)
    with Origin(MEDIUM) as origin:
        chosen = settings(origin.url, minimum_rate=100 * MIB)
        file = RemoteFile("file", f"{origin.url}/file", size=len(MEDIUM))
        began = time.monotonic()
        fetched = fetch(
            file, tmp_path / "file", HostPolicy(chosen), chosen, lambda: None, lambda _: None,
            patience=QUICK, throttle=throttle,
        )  # fmt: skip
    assert fetched.size == len(MEDIUM)
    assert (tmp_path / "file").read_bytes() == MEDIUM
    assert time.monotonic() - began >= (len(MEDIUM) - MIB) / (4 * MIB)
