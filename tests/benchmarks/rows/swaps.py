"""Row 10: swaps between two models of llama-server under eight streaming clients, beside a swapper that restarts it."""

from pathlib import Path
from typing import Any

import httpx

from deploy.addresses import free_port
from deploy.demo.models import make_gguf_llm
from tests.benchmarks.measure import Context, Line, RowResult, Target, quantile
from tests.benchmarks.restarting import MODELS
from tests.benchmarks.stage import wait_for
from tests.benchmarks.swapping import Swaps, mark, swap_back_and_forth
from tests.system.conftest import Yard, opened

NAMES = ("alder", "beech")
ONE_AT_A_TIME = {"MODELYARD_RUNNERS__MEMORY_LIMIT": "45MB"}
"""Room for one of the two, and not for both."""
MODEL_BYTES = 4_000_000
FLAT, FEW_MORE = 1.05, 1.1
"""Connections come and go: a handful of eighty files is no trend, and a leak of one a swap would be seven handfuls."""
WAYS: dict[str, dict[str, str]] = {"beside": {}, "one at a time": ONE_AT_A_TIME}


def run(context: Context) -> RowResult:
    hub = context.stage.folder / "hub"
    for seed, name in enumerate(NAMES):
        make_gguf_llm(hub / "tiny" / name / f"{name}.gguf", seed, MODEL_BYTES, name)
    count, requests = context.pick(100, 3), context.pick(100, 10)
    peer = _peer(context, hub, count, requests)
    lines, facts = [], {"peer": _told(peer)}
    for way, limits in WAYS.items():
        with opened(context.stage.folder / way.replace(" ", "-"), hub, **limits) as yard:
            seen = _ours(yard, count, requests)
        lines += _lines(way, seen, peer)
        facts[way] = _told(seen)
    return RowResult(10, f"{count} swaps between two models under 8 streaming clients", lines, facts)


def _ours(yard: Yard, count: int, requests: int) -> Swaps:
    for name in NAMES:
        yard.pull(name, f"tiny/{name}")
    yard.done("/api/v1/models/activate", {"model_id": NAMES[0]})
    pids = yard.pid("api"), yard.pid("device-cpu")
    return swap_back_and_forth(
        yard.instance.url, lambda number: yard.done(f"/api/v1/models/{NAMES[number]}/switch"), lambda: mark(*pids),
        count=count, requests=requests,
    )  # fmt: skip


def _peer(context: Context, hub: Path, count: int, requests: int) -> Swaps:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    models = ":".join(str(hub / "tiny" / name / f"{name}.gguf") for name in NAMES)
    server = ("uvicorn", "tests.benchmarks.restarting:make", "--factory", "--host", "127.0.0.1", "--port", str(port))
    context.stage.run("peer", *server, "--no-access-log", **{MODELS: models})
    wait_for(lambda: _answers(url), "the peer")
    with httpx.Client(timeout=120, trust_env=False) as client:
        return swap_back_and_forth(
            url, lambda number: client.post(f"{url}/swap/{number}").raise_for_status(), None,
            count=count, requests=requests,
        )  # fmt: skip


def _lines(way: str, seen: Swaps, peer: Swaps) -> list[Line]:
    swap, theirs = quantile(seen.seconds, 0.5), quantile(peer.seconds, 0.5)
    waits, their_waits = quantile(seen.added, 0.99), quantile(peer.added, 0.99)
    then, now = seen.marks[0], seen.marks[-1]
    about = "a restarting swapper"
    return [
        Line(f"{way}: failed requests", "", [float(len(seen.failures))], Target(0), [float(len(peer.failures))], about),
        Line(f"{way}: p99 added / swap", "", [waits / swap], Target(1.2), [their_waits / theirs], about),
        Line(f"{way}: memory, last / tenth", "", [now.memory / then.memory], Target(FLAT)),
        Line(f"{way}: children, last - tenth", "", [float(now.children - then.children)], Target(0)),
        Line(f"{way}: open files, last / tenth", "", [now.files / then.files], Target(FEW_MORE)),
    ]


def _told(seen: Swaps) -> dict[str, Any]:
    return {
        "requests": seen.whole, "failed": len(seen.failures), "first failures": seen.failures[:3],
        "swap s (p50, p99)": [round(quantile(seen.seconds, share), 2) for share in (0.5, 0.99)],
        "added s (p50, p99)": [round(quantile(seen.added, share), 3) for share in (0.5, 0.99)],
        "MB": [round(each.memory / 1e6, 1) for each in seen.marks], "files": [each.files for each in seen.marks],
        "children": [each.children for each in seen.marks],
    }  # fmt: skip


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/docs", trust_env=False, timeout=2).status_code == httpx.codes.NOT_FOUND
    except httpx.HTTPError:
        return False
