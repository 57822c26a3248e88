"""Row 14: 1,000 SSE clients of one API process while 20 events a second are published for all of them.

The clients are raw sockets in two processes of their own; an event's age is taken when its bytes arrive.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import psutil

from shared.progress import Events, connect
from tests.benchmarks.measure import Context, Line, Meter, RowResult, Target, quantile
from tests.benchmarks.stage import PROJECT

PROCESSES = 2
RATE = 20
TYPE = "bench.burst"
SETTLE_SECONDS = 3.0
PADDING = "x" * 120
"""Makes an event as long as one of a job."""


def run(context: Context) -> RowResult:
    clients, seconds = context.pick(1000, 40), context.pick(10, 2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # children inherit it
    settings = context.stage.settings("ours", 0)
    address, api = context.stage.api(settings)
    before = psutil.Process(api).memory_info().rss
    listeners = [_listeners(address, clients // PROCESSES) for _ in range(PROCESSES)]
    for each in listeners:
        assert each.stdout is not None
        assert each.stdout.readline().strip() == "ready", "the clients did not connect"
    connected = psutil.Process(api).memory_info().rss
    client = connect(settings.redis)
    events = Events(client, settings.redis)
    meters = []
    for burst in range(context.repetitions):
        with Meter(api=api) as meter:
            _publish(events, burst, seconds)
            time.sleep(SETTLE_SECONDS)
        meters.append(meter)
    after = psutil.Process(api).memory_info().rss
    client.close()
    heard = [json.loads(each.communicate("")[0]) for each in listeners]
    ages = [[age for each in heard for age in each["ages"].get(str(burst), [])] for burst in range(context.repetitions)]
    expected = RATE * seconds * clients
    busy = [meter.cpu["api"] for meter in meters]
    lines = [
        Line("events lost", "", [float(expected - len(found)) for found in ages], Target(0)),
        Line("age of an event, p99", "ms", [quantile(found, 0.99) * 1e3 for found in ages], Target(500), ours_cpu=busy),
        Line("memory of a client", "kB", [(max(connected, after) - before) / clients / 1e3], Target(100)),
    ]
    facts: dict[str, Any] = {
        "clients": clients, "events per second": RATE, "API CPU %": [100 * each / seconds for each in busy],
        "p50 ms": [quantile(found, 0.5) * 1e3 for found in ages], "dropped": sum(each["ended"] for each in heard),
    }  # fmt: skip
    return RowResult(14, f"{clients} SSE clients, {RATE} events/s", lines, facts)


def _listeners(address: str, count: int) -> "subprocess.Popen[str]":
    host, _, port = address.partition(":")
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.listeners",
        host,
        port,
        str(count),
        f"/api/v1/events?types={TYPE}",
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)


def _publish(events: Events, burst: int, seconds: int) -> None:
    began = time.monotonic()
    for number in range(RATE * seconds):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        events.publish(TYPE, padding=PADDING, sentAt=time.time(), burst=burst)
