"""Row 12: jobs per second from the first submit to the last end, with the ledger on.

A repetition submits N jobs one after another, as the API would, while the worker carries them out; it ends when the
ledger says that all have succeeded. The peer sends N tasks, and ends when the last body has begun.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

from tests.benchmarks import limits
from tests.benchmarks.measure import Context, Line, Meter, RowResult, Target, in_turns
from tests.benchmarks.peer import make_peer, send
from tests.benchmarks.yard import Yard, open_yard

SLOTS = 4
"""`MODELYARD_JOBS__IO_SLOTS` as it is by default."""
PATIENCE = 300.0


class Run(NamedTuple):
    speed: float
    """Jobs per second, from the first submit to the last end."""
    submits: float
    """Submits per second alone."""
    cpu: dict[str, float]
    """Seconds per job, by process."""


def run(context: Context) -> RowResult:
    jobs = context.pick(1000, 50)
    stage = context.stage
    url, postgres = stage.postgres
    same, best = f"threads {SLOTS}", f"prefork {os.cpu_count()}"
    found = in_turns(
        context.repetitions,
        {
            "sqlite": _ours(context, 0, jobs, "sqlite"),
            "postgresql": _ours(context, 1, jobs, "postgresql", url, postgres=postgres),
            same: _peer(context, 2, jobs, "threads", SLOTS),
            best: _peer(context, 3, jobs, "prefork", os.cpu_count() or 1),
        },
    )
    lines = [
        Line(
            f"{database}, Celery with {peer}", "jobs/s", [each.speed for each in found[database]],
            Target(least, at_most=False, of_peer=True), [each.speed for each in found[peer]],
            ours_cpu=[sum(each.cpu.values()) * jobs for each in found[database]],
            peer_cpu=[sum(each.cpu.values()) * jobs for each in found[peer]],
        )
        for database, least in (("sqlite", 0.5), ("postgresql", 0.6))
        for peer in (same, best)
    ]  # fmt: skip
    facts = {
        "jobs": jobs,
        "runs": {name: [each._asdict() for each in runs] for name, runs in found.items()},
        "fsyncs per second": limits.syncs(stage.folder),
        "Redis round trips per second": limits.round_trips(stage.redis_url(0)),
    }
    return RowResult(12, "jobs per second, end to end, ledger on", lines, facts)


def _ours(
    context: Context, number: int, jobs: int, name: str, url: str | None = None, **servers: int
) -> Callable[[int], Run]:
    stage = context.stage
    settings = stage.settings(name, number, database_url=url, slots=SLOTS)
    starts = stage.starts(name)
    pids = {"driver": os.getpid(), "worker": stage.worker(settings, starts.path), "redis": stage.redis_pid, **servers}
    yard = stage.enter(open_yard(settings, starts))
    _carry_out(yard, 1)

    def repeat(_: int) -> Run:
        return _timed(jobs, pids, yard.submit, partial(yard.wait_ended, yard.submitted + jobs, PATIENCE))

    return repeat


def _carry_out(yard: Yard, count: int) -> None:
    for _ in range(count):
        yard.submit()
    yard.wait_ended(yard.submitted, PATIENCE)


def _peer(context: Context, number: int, jobs: int, pool: str, slots: int) -> Callable[[int], Run]:
    stage = context.stage
    broker = stage.redis_url(number)
    starts = stage.starts(pool)
    worker = stage.peer(broker, starts.path, f"--pool={pool}", f"--concurrency={slots}")
    pids = {"driver": os.getpid(), "worker": worker, "redis": stage.redis_pid}
    app = stage.enter(closing(make_peer(broker)))
    send(app, 0)
    starts.wait(1, PATIENCE)

    def repeat(number: int) -> Run:
        return _timed(jobs, pids, lambda: send(app, number), partial(starts.wait, len(starts.seen) + jobs, PATIENCE))

    return repeat


def _timed(jobs: int, pids: dict[str, int], submit: Callable[[], object], wait: Callable[[], None]) -> Run:
    with Meter(**pids) as meter:
        began = time.perf_counter()
        for _ in range(jobs):
            submit()
        submitted = time.perf_counter() - began
        wait()
    return Run(jobs / meter.wall, jobs / submitted, {name: used / jobs for name, used in meter.cpu.items()})
