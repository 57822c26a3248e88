"""Rows 3 and 4: links on which something else is the limit: a cap per connection, and TLS.

Bytes of a URL against aria2c and curl, with ours in a process that runs already, as a worker's does; against `hf
download` both so and from the start of a process. Everything goes to memory. Row 3's server sends
150 MB/s over each connection; ours finds out how many it takes, once with no more of them than aria2c has.
"""

import shutil
from functools import partial
from pathlib import Path

from tests.benchmarks import clients, limits
from tests.benchmarks.clients import OURS, Resident, Run, emptied, resident, said, timed
from tests.benchmarks.goods import repository
from tests.benchmarks.hosting import Host, host, needed
from tests.benchmarks.measure import Context, Line, RowResult, Target, in_turns

REPO, FILE = "bench/one", "model-0.safetensors"
RATE = 150_000_000
EIGHT = {"MODELYARD_SOURCES__CONNECTIONS": "8"}


def capped(context: Context) -> RowResult:
    needed("aria2c")
    size = context.pick(1024**3, 64 * 1024**2)
    where, memory = _host(context, size, rate=RATE), context.stage.memory
    url = where.url(REPO, FILE)
    eight = context.stage.enter(resident(**where.environment, **EIGHT))
    free = context.stage.enter(resident(**where.environment))
    found = in_turns(context.repetitions, {
        "ours, at most 8": partial(_fetched, eight, url, memory / "eight"),
        "ours, at most 16": partial(_fetched, free, url, memory / "free"),
        "ours, started": partial(_started, where, memory / "started"),
        "aria2c": lambda _: clients.aria2(url, emptied(memory / "aria2") / FILE),
        "hf": lambda _: clients.hf_download(REPO, where.endpoint, emptied(memory / "hf")),
    })  # fmt: skip
    least = Target(1, at_most=False, of_peer=True)
    lines = [
        _speed("at most 8 connections", size, found["ours, at most 8"], least, found["aria2c"], "aria2c -x8"),
        _speed("as many as help, up to 16", size, found["ours, at most 16"], least, found["aria2c"], "aria2c -x8"),
        *_beside_hf(size, found, "ours, at most 16", Target(4, at_most=False, of_peer=True)),
    ]
    facts = {"runs": found, "one connection GB/s": limits.loopback(url) / 1e9, "cap GB/s": RATE / 1e9}
    return RowResult(3, f"{RATE // 10**6} MB/s a connection", lines, facts)


def secured(context: Context) -> RowResult:
    needed("curl", "openssl")
    size = context.pick(1024**3, 32 * 1024**2)
    where, memory = _host(context, size, tls=True), context.stage.memory
    url, trusted = where.url(REPO, FILE), str(where.certificate)
    worker = context.stage.enter(resident(**where.environment))
    found = in_turns(context.repetitions, {
        "ours": partial(_fetched, worker, url, memory / "ours"),
        "ours, started": partial(_started, where, memory / "started"),
        "curl": lambda _: clients.curl(url, emptied(memory / "curl") / FILE, "--cacert", trusted),
        "hf": lambda _: clients.hf_download(REPO, where.endpoint, emptied(memory / "hf"), SSL_CERT_FILE=trusted),
    })  # fmt: skip
    lines = [
        _speed("over TLS", size, found["ours"], Target(0.95, at_most=False, of_peer=True), found["curl"], "curl"),
        *_beside_hf(size, found, "ours", Target(2, at_most=False, of_peer=True)),
    ]
    return RowResult(4, "over TLS", lines, {"runs": found, "sha256 GB/s a core": limits.sha256() / 1e9})


def _host(context: Context, size: int, *, tls: bool = False, rate: int | None = None) -> Host:
    root = context.stage.folder / "hub"
    repository(root, REPO, size)
    return host(context.stage, root, tls=tls, rate=rate)


def _fetched(worker: Resident, url: str, folder: Path, _: int) -> Run:
    run, _answer = worker.ask(do="fetch", ref=url, into=emptied(folder))
    shutil.rmtree(folder)
    return run


def _started(where: Host, folder: Path, _: int) -> Run:
    run = timed(OURS, said(do="fetch", ref=f"hf:{REPO}", into=emptied(folder)), **where.environment)
    shutil.rmtree(folder)
    return run


def _beside_hf(size: int, found: dict[str, list[Run]], ours: str, target: Target) -> list[Line]:
    """A worker has started long ago, and `hf` starts for each command: both ways to see it."""
    return [
        _speed("by a running worker", size, found[ours], target, found["hf"], "hf download"),
        _speed("from the start of a process", size, found["ours, started"], target, found["hf"], "hf download"),
    ]


def _speed(measure: str, size: int, ours: list[Run], target: Target, peer: list[Run], name: str) -> Line:
    return Line(
        measure, "GB/s", [size / run.wall / 1e9 for run in ours], target, [size / run.wall / 1e9 for run in peer], name,
        ours_cpu=[run.cpu for run in ours], peer_cpu=[run.cpu for run in peer],
    )  # fmt: skip
