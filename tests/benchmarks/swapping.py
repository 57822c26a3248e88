"""Swaps back and forth between two models while clients stream: what becomes of the requests, and of the processes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from deploy.demo.load import Load

CLIENTS = 8
QUIET_REQUESTS = 200


@dataclass(frozen=True)
class Mark:
    """The service after a swap: the runners, and all that goes on living beside them."""

    children: int
    files: int
    """Open in API and device worker."""
    memory: int
    """Bytes of both."""


@dataclass
class Swaps:
    """What was seen."""

    whole: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of each swap, from the ask until the old model has left."""
    added: list[float] = field(default_factory=list)
    """Seconds by which each request that met a swap took longer than those before the first one did."""
    marks: list[Mark] = field(default_factory=list)
    """After the tenth swap, or the second where there are fewer; and after the last."""


def swap_back_and_forth(
    url: str, switch: Callable[[int], object], look: Callable[[], Mark] | None, *, count: int, requests: int,
    pause: float = 0.0,
) -> Swaps:  # fmt: skip
    """The first of two models must be serving.

    Args:
        switch: brings the one with that number, 0 or 1, and returns once the other one has left.
        look: counts processes; None where there is nothing to count.
        requests: whole answers after each swap before the next one.
        pause: seconds of a client between two requests.
    """
    seen = Swaps()
    spans: list[tuple[float, float]] = []
    with Load(url, "llm", clients=CLIENTS, streaming=1.0, pause=pause) as load:
        _answered(load, min(QUIET_REQUESTS, requests))
        usual = statistics.median(load.tally.seconds)
        for number in range(1, count + 1):
            began = time.monotonic()
            switch(number % 2)
            spans.append((began, time.monotonic()))
            _answered(load, requests)
            if look is not None and number in (min(10, count - 1), count):
                seen.marks.append(look())
    tally = load.tally
    seen.whole, seen.failures = tally.whole, tally.failures
    seen.seconds = [end - began for began, end in spans]
    for began, took in zip(tally.began, tally.seconds, strict=True):
        if any(began < end and began + took > start for start, end in spans):
            seen.added.append(max(0.0, took - usual))
    return seen


def _answered(load: Load, count: int) -> None:
    """Return once so many more have been answered, well or badly."""
    until = load.tally.whole + len(load.tally.failures) + count
    while load.tally.whole + len(load.tally.failures) < until:
        time.sleep(0.02)


def mark(api: int, device: int) -> Mark:
    """Of the processes with these pids."""
    both = [psutil.Process(api), psutil.Process(device)]
    return Mark(
        children=len(both[1].children(recursive=True)),
        files=sum(process.num_fds() for process in both),
        memory=sum(process.memory_info().rss for process in both),
    )
