"""Row 15: lists, status, summary and single answers over HTTP, with 10,000 models and 100,000 jobs, beside a tenth.

Two API processes stand side by side, one on the full registry and one on the small one; each ask goes to both in turn.
"""

import http.client
import json
import time
from functools import partial
from urllib.parse import urlencode

from tests.benchmarks.measure import Context, Line, RowResult, Target, quantile
from tests.benchmarks.registry import KINDS, fill, model_id

Asks = dict[str, str]
"""What is asked → path."""
DEEP = 0.9
PAGE = 100
"""Rows a page: so many must be left behind a deep cursor, however small the registry."""


class Front:
    """One API process on a registry of that size."""

    def __init__(self, context: Context, number: int, models: int, jobs: int) -> None:
        settings = context.stage.settings(f"models-{models}", number)
        fill(settings, models=models, jobs=jobs)
        address, self.pid = context.stage.api(settings)
        self._connection = http.client.HTTPConnection(address, timeout=60)
        self.asks = self._asks(models, jobs)

    def get(self, path: str) -> tuple[float, dict[str, object]]:
        """Milliseconds, and the answer."""
        began = time.perf_counter()
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
        except http.client.RemoteDisconnected:  # idle while the other one was asked, for longer than they keep it
            return self.get(path)
        body = answer.read()
        took = (time.perf_counter() - began) * 1e3
        assert answer.status == http.HTTPStatus.OK, (path, body)
        return took, json.loads(body)

    def _asks(self, models: int, jobs: int) -> Asks:
        listed = partial(_path, "/api/v1/jobs")
        deep_jobs = self._cursor("/api/v1/jobs", min(int(jobs * DEEP), jobs - PAGE), "jobs")
        deep_models = self._cursor("/api/v1/models", max(1, min(int(models * DEEP), models - PAGE)), "models")
        newest = self._first(listed(status="queued"))
        return {
            "models": _path("/api/v1/models"),
            "models, deep": _path("/api/v1/models", cursor=deep_models),
            "models of a type": _path("/api/v1/models", type="llm"),
            "models by text": _path("/api/v1/models", text=model_id(models - 1)),
            "models in a state": _path("/api/v1/models", status="available"),
            "models of a tier": "/api/v1/models/tiers/fast",
            "detailed status": _path("/api/v1/models/status"),
            "detailed status, deep": _path("/api/v1/models/status", cursor=deep_models),
            "detailed status in a state": _path("/api/v1/models/status", status="available"),
            "detailed status of one": f"/api/v1/models/status/{model_id(models // 2)}",
            "summary": "/api/v1/models/summary",
            "one model": f"/api/v1/models/{model_id(models // 2)}",
            "jobs": listed(),
            "jobs, deep": listed(cursor=deep_jobs),
            "jobs queued": listed(status="queued"),
            "jobs failed": listed(status="failed"),
            "jobs running (none)": listed(status="running"),
            "jobs failed, deep": listed(status="failed", cursor=deep_jobs),
            "jobs of a kind": listed(kind=KINDS[0]),
            "jobs of a model": listed(modelId=model_id(models // 2)),
            "jobs of a kind and state": listed(kind=KINDS[1], status="failed"),
            "one job": f"/api/v1/jobs/{self._first(listed(status='succeeded'))}",
            "last of the queue": f"/api/v1/jobs/{newest}",
        }  # fmt: skip

    def _first(self, path: str) -> str:
        page: list[dict[str, str]] = self.get(path)[1]["jobs"]  # type: ignore[assignment] # as the page is
        return page[0]["id"]

    def _cursor(self, path: str, skip: int, key: str) -> str:
        """The cursor after so many rows, got the way a client gets it."""
        cursor, seen = "", 0
        while seen < skip:
            page = self.get(_path(path, limit=str(min(500, skip - seen)), **({"cursor": cursor} if cursor else {})))[1]
            rows = page[key]
            assert isinstance(rows, list)
            cursor, seen = str(page["nextCursor"]), seen + len(rows)
        return cursor


def _path(path: str, **query: str) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def run(context: Context) -> RowResult:
    models, jobs, times = context.pick(10_000, 500), context.pick(100_000, 2000), context.pick(100, 10)
    full, small = Front(context, 0, models, jobs), Front(context, 1, models // 10, jobs // 10)
    taken: dict[str, tuple[list[list[float]], list[list[float]]]] = {name: ([], []) for name in full.asks}
    for _ in range(context.repetitions):
        for name in full.asks:
            pairs = [(full.get(full.asks[name])[0], small.get(small.asks[name])[0]) for _ in range(times)]
            for place, side in enumerate(zip(*pairs, strict=True)):
                taken[name][place].append(list(side))
    tail, middle = partial(_figures, share=0.99), partial(_figures, share=0.5)
    lines = [Line(f"{name}, p99", "ms", tail(ours), Target(100)) for name, (ours, _) in taken.items()]
    lines += [
        Line(f"{name}, p50", "ms", middle(ours), Target(1.5, of_peer=True), middle(tenth), "a tenth of the rows")
        for name, (ours, tenth) in taken.items()
    ]
    return RowResult(15, f"{models} models, {jobs} jobs", lines, {"asks": times})


def _figures(runs: list[list[float]], share: float) -> list[float]:
    return [quantile(times, share) for times in runs]
