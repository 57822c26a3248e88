"""What a row is made of: repetitions in turns, wall and CPU time, medians with their spread, targets."""

import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from tests.benchmarks.stage import Stage

Result = TypeVar("Result")


@dataclass(frozen=True)
class Context:
    """What a row is given."""

    stage: Stage
    """Servers and processes; everything that a row starts there ends with the row."""
    repetitions: int
    quick: bool
    """A smoke of the harness: small counts, figures that mean little."""

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Target:
    """What is to be reached: by ours alone, or by ours / peer where `of_peer`."""

    limit: float
    at_most: bool = True
    of_peer: bool = False

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def margin(self, value: float) -> float:
        """How many times better than asked; below 1 is a miss."""
        better, worse = (self.limit, value) if self.at_most else (value, self.limit)
        return better / worse if worse > 0 else 100.0

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}{'×' if self.of_peer else ''}"


@dataclass
class Line:
    """One measured figure of a row, a value per repetition."""

    measure: str
    unit: str
    ours: list[float]
    target: Target
    peer: list[float] = field(default_factory=list)
    peer_name: str = ""
    ours_cpu: list[float] = field(default_factory=list)
    """CPU seconds of all processes that took part."""
    peer_cpu: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        pairs = zip(self.ours, self.peer, strict=False)
        self.ratios = [ours / peer for ours, peer in pairs if peer]

    @property
    def judged(self) -> list[float]:
        return self.ratios if self.target.of_peer else self.ours

    @property
    def met(self) -> bool:
        return bool(self.judged) and self.target.met(statistics.median(self.judged))


@dataclass
class RowResult:
    """A row of the table."""

    number: int
    title: str
    lines: list[Line]
    facts: dict[str, Any] = field(default_factory=dict)
    """What else was seen: physical limits of the same run, parts of a time, counts."""
    load: tuple[float, float] = (0.0, 0.0)
    """Of the machine over the last minute, before and after."""


class Meter:
    """Wall seconds and CPU seconds of the block inside: of what is watched with its children, this one without."""

    def __init__(self, **watched: int) -> None:
        self._watched = {name: psutil.Process(pid) for name, pid in watched.items()}
        self.wall = 0.0
        self.cpu: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = {name: _cpu_seconds(process) for name, process in self._watched.items()}
        self._began = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall = time.perf_counter() - self._began
        self.cpu = {name: _cpu_seconds(each) - self._before[name] for name, each in self._watched.items()}


def _cpu_seconds(process: psutil.Process) -> float:
    if process.pid == os.getpid():
        return time.process_time()  # alone: everything else is its child
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += sum(each.cpu_times()[:4])  # user and system, own and of children that have ended
        except psutil.NoSuchProcess:
            continue
    return total


def in_turns(repetitions: int, runs: dict[str, Callable[[int], Result]]) -> dict[str, list[Result]]:
    """Each run once per repetition; who is first changes, so that nobody always meets a warm or a tired machine."""
    found: dict[str, list[Result]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(repetitions):
        first = number % len(names)
        for name in itertools.islice(itertools.cycle(names), first, first + len(names)):
            found[name].append(runs[name](number))
    return found


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of all are not above; 0.99 is p99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
