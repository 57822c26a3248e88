"""Row 13: a CRITICAL job behind 10,000 LOW ones: how many start in between, and how long it waits.

Both sides work off their backlog side by side, four at a time, each LOW job taking its 50 ms. The peer is Celery with
the priorities of its Redis transport, everything else as it comes.
"""

import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from shared.states import Priority
from tests.benchmarks.measure import Context, Line, RowResult, Target, in_turns
from tests.benchmarks.peer import CRITICAL, LOW, make_peer, send
from tests.benchmarks.starts import Starts
from tests.benchmarks.yard import open_yard

BODY_SECONDS = 0.05
SLOTS = 4
PATIENCE = 120.0
BETWEEN = 40
"""LOW jobs that start before the next CRITICAL one is sent."""


class Overtaking(NamedTuple):
    passed: float
    """LOW jobs that started between the ask and the start."""
    seconds: float


def run(context: Context) -> RowResult:
    waiting = context.pick(10_000, 300)
    found = in_turns(context.repetitions, {"ours": _ours(context, waiting), "peer": _peer(context, waiting)})
    ours, peer = found["ours"], found["peer"]
    lines = [
        Line("LOW started before it", "jobs", [each.passed for each in ours], Target(1),
             [each.passed for each in peer], "Celery with priorities"),
        Line("CRITICAL waits", "s", [each.seconds for each in ours], Target(2),
             [each.seconds for each in peer], "Celery with priorities"),
    ]  # fmt: skip
    return RowResult(13, f"CRITICAL behind {waiting} LOW", lines, {"waiting": waiting, "slots": SLOTS})


def _backlog(context: Context, waiting: int) -> int:
    """So many that the last CRITICAL still has all of them before it."""
    return waiting + (context.repetitions + 1) * 4 * BETWEEN


def _ours(context: Context, waiting: int) -> Callable[[int], Overtaking]:
    stage = context.stage
    settings = stage.settings("ours", 0, slots=SLOTS)
    starts = stage.starts("ours")
    yard = stage.enter(open_yard(settings, starts))
    for _ in range(_backlog(context, waiting)):
        yard.submit(Priority.LOW)
    stage.worker(settings, starts.path, body_seconds=BODY_SECONDS)
    return lambda _: _overtake(starts, lambda: yard.submit(Priority.CRITICAL))


def _peer(context: Context, waiting: int) -> Callable[[int], Overtaking]:
    stage = context.stage
    broker = stage.redis_url(1)
    starts = stage.starts("peer")
    app = stage.enter(closing(make_peer(broker)))
    for number in range(_backlog(context, waiting)):
        send(app, number, priority=LOW)
    stage.peer(broker, starts.path, "--pool=threads", f"--concurrency={SLOTS}", body_seconds=BODY_SECONDS)
    return lambda _: _overtake(starts, lambda: send(app, 0, priority=CRITICAL))


def _overtake(starts: Starts, submit: Callable[[], str]) -> Overtaking:
    starts.wait(len(starts.look()) + BETWEEN, PATIENCE)
    asked = time.time()
    name = submit()
    starts.wait_for(name, PATIENCE)
    began = starts.seen[name]
    return Overtaking(sum(asked < at < began for at in starts.look().values()), began - asked)
