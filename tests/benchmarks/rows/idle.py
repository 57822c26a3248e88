"""Row 16: what an API and an io worker cost while nothing happens."""

import time
from pathlib import Path

import psutil

from deploy.environment import environment
from tests.benchmarks.measure import Context, Line, Meter, RowResult, Target

SETTLE_SECONDS = 5


def run(context: Context) -> RowResult:
    stage = context.stage
    settings = stage.settings("ours", 0)
    _, api = stage.api(settings)
    pids = {"api": api, "worker": stage.run("io", "workers", "io", **environment(settings)), "redis": stage.redis_pid}
    time.sleep(context.pick(SETTLE_SECONDS, 3))
    spans = [_span(pids, context.pick(30, 2)) for _ in range(1 if context.quick else context.repetitions)]
    ours = {name: pid for name, pid in pids.items() if name != "redis"}
    memory = {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in ours.items()}
    torch = sum("torch" in Path(f"/proc/{pid}/maps").read_text() for pid in ours.values())
    lines = [
        Line("CPU of both", "%", [100 * sum(cpu[name] for name in ours) / wall for wall, cpu in spans], Target(2)),
        Line("memory of both", "MB", [sum(memory.values())], Target(400)),
        Line("processes with torch in memory", "", [float(torch)], Target(0)),
    ]
    percent = {name: [100 * cpu[name] / wall for wall, cpu in spans] for name in pids}
    return RowResult(16, "idle cost of api and one io worker", lines, {"MB": memory, "CPU %": percent})


def _span(pids: dict[str, int], seconds: float) -> tuple[float, dict[str, float]]:
    with Meter(**pids) as meter:
        time.sleep(seconds)
    return meter.wall, meter.cpu
