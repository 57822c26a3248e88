"""Row 11: from a submit over REST to the start of the job's body, on an idle system.

The real API, the real route (`POST /models/download`), the real worker with a body that only notes when it began. The
peer's time runs from `apply_async` to the start of the task. One after the other, in turns, at an easy pace.
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

from tests.benchmarks.measure import Context, Line, RowResult, Target, quantile
from tests.benchmarks.peer import make_peer, send
from tests.benchmarks.registry import fill
from tests.benchmarks.starts import Starts

PAUSE = 0.02
PATIENCE = 60.0
DOUBLE = Target(2, of_peer=True)


class Start(NamedTuple):
    """Milliseconds since the ask."""

    answered: float
    started: float


def run(context: Context) -> RowResult:
    asks = context.pick(200, 20)
    ours, peer = _ours(context, asks), _peer(context)
    ours(0), peer(0)  # the first pays for imports and connections
    found: dict[str, list[list[Start]]] = {"ours": [], "peer": []}
    for repetition in range(context.repetitions):
        pairs = [_pair(ours, peer, number, first=(repetition + number) % 2 == 0) for number in range(asks)]
        found["ours"].append([mine for mine, _ in pairs])
        found["peer"].append([theirs for _, theirs in pairs])
    middle, tail = partial(_figures, share=0.5), partial(_figures, share=0.99)
    lines = [
        Line("submit to start, p50", "ms", middle(found["ours"]), DOUBLE, middle(found["peer"]), "Celery"),
        Line("submit to start, p99", "ms", tail(found["ours"]), DOUBLE, tail(found["peer"]), "Celery"),
        Line("submit to start, p99", "ms", tail(found["ours"]), Target(50)),
    ]  # fmt: skip
    answered = {
        name: statistics.median(each.answered for runs in starts for each in runs) for name, starts in found.items()
    }
    return RowResult(11, "submit over REST to start", lines, {"asks": asks, "answered after ms": answered})


def _figures(runs: list[list[Start]], share: float) -> list[float]:
    return [quantile([each.started for each in starts], share) for starts in runs]


def _pair(
    ours: Callable[[int], Start], peer: Callable[[int], Start], number: int, *, first: bool
) -> tuple[Start, Start]:
    if first:
        mine, theirs = ours(number), peer(number)
    else:
        theirs, mine = peer(number), ours(number)
    return mine, theirs


def _ours(context: Context, models: int) -> Callable[[int], Start]:
    stage = context.stage
    settings = stage.settings("ours", 0)
    fill(settings, models=models, jobs=0)
    starts = stage.starts("ours")
    stage.worker(settings, starts.path)
    address, _ = stage.api(settings)
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)

    def ask(number: int) -> Start:
        body = json.dumps({"model_id": f"model-{number:06}"})
        began = time.time()
        connection.request("POST", "/api/v1/models/download", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        answered = time.time()
        assert answer.status == http.HTTPStatus.ACCEPTED, told
        return _started(starts, told["job"]["id"], began, answered)

    return ask


def _peer(context: Context) -> Callable[[int], Start]:
    stage = context.stage
    broker = stage.redis_url(1)
    starts = stage.starts("peer")
    stage.peer(broker, starts.path, "--pool=threads", "--concurrency=4")
    app = stage.enter(closing(make_peer(broker)))

    def ask(number: int) -> Start:
        began = time.time()
        name = send(app, number)
        return _started(starts, name, began, time.time())

    return ask


def _started(starts: Starts, name: str, began: float, answered: float) -> Start:
    starts.wait_for(name, PATIENCE)
    time.sleep(PAUSE)  # idle again, before the next
    return Start((answered - began) * 1e3, (starts.seen[name] - began) * 1e3)
