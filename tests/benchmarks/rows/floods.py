"""Row 17: what other clients feel, and what the API's memory does, while somebody floods it. All on loopback.

One honest client asks at an even pace, without a flood and then beside each; its answers are all counted.
"""

import json
import resource
import subprocess
import sys
import time

import httpx
import psutil

from api.connections import SPARE_FILES
from tests.benchmarks.measure import Context, Line, RowResult, Target, quantile
from tests.benchmarks.stage import PROJECT

RATE = 50
MOST_MS = 200
"""Other clients' p99."""
MOST_GROWTH_MB = 100
"""Of the API's memory: 4,096 connections and 1,100 streams are let in, each a few kB."""
COUNTS = {"idle": 10_000, "slow_head": 1000, "slow_body": 1000, "endless_body": 20, "streams": 1500, "messages": 50}


def run(context: Context) -> RowResult:
    seconds = context.pick(20, 2)
    settings = context.stage.settings("ours", 0)
    address, api = context.stage.api(settings)
    calm, _ = _asked(address, seconds)
    lines, facts = [], {"without a flood, p99 ms": quantile(calm, 0.99) * 1e3}
    for kind, full in COUNTS.items():
        count = min(context.pick(full, 40), _most_files())
        ages, growth, failed = [], [], []
        for _ in range(context.repetitions):
            took, grown, lost, connected = _beside(address, api, kind, count, seconds)
            ages.append(quantile(took, 0.99) * 1e3)
            growth.append(grown / 1e6)
            failed.append(float(lost))
            facts[f"{kind}: {count} at a time, connections made"] = connected
        lines += [
            Line(f"{kind}: others' p99", "ms", ages, Target(MOST_MS)),
            Line(f"{kind}: memory grew by", "MB", growth, Target(MOST_GROWTH_MB)),
            Line(f"{kind}: others' requests failed", "", failed, Target(0)),
        ]
    return RowResult(17, "other clients beside a flood", lines, facts)


def _most_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES


def _beside(address: str, api: int, kind: str, count: int, seconds: int) -> tuple[list[float], int, int, int]:
    """What honest requests took, how memory grew, how many failed, and how often the flood connected."""
    before = psutil.Process(api).memory_info().rss
    host, _, port = address.partition(":")
    command = [sys.executable, "-m", "tests.benchmarks.flooder", host, port, kind, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as flooder:
        assert flooder.stdout is not None
        assert flooder.stdout.readline().strip() == "ready", "the flood did not begin"
        took, failed = _asked(address, seconds)
        grown = psutil.Process(api).memory_info().rss - before
        told = json.loads(flooder.communicate("")[0])
    return took, grown, failed, told["connected"]


def _asked(address: str, seconds: int) -> tuple[list[float], int]:
    """Seconds of each answered request, over a connection of its own, as a stranger's would be; and how many failed."""
    took, failed, number = [], 0, 0
    began = time.monotonic()
    with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=10, verify=False) as client:
        while time.monotonic() - began < seconds:
            time.sleep(max(0.0, began + number / RATE - time.monotonic()))
            number, asked = number + 1, time.monotonic()
            try:
                client.get("/api/v1/jobs?limit=1", headers={"Connection": "close"}).raise_for_status()
                took.append(time.monotonic() - asked)
            except httpx.HTTPError:
                failed += 1
    return took, failed
