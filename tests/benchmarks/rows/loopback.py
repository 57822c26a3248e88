"""Rows 1 and 2: a large file over loopback, where nothing but the two ends is the limit.

Row 1 is a whole tool against a whole tool: a fresh process that asks the hub, brings the file, proves it, and puts it
where models lie (ours also publishes it in a store); the peer needs two commands for that. Row 2 is bytes alone, from a
URL without a digest: ours as a worker does it, in a process that runs already, for the peers are programs that start in
no time; it hashes all the same, twice. The others leave it to the system when bytes reach the disk, and ours does not:
so both are compared in memory, and on disk with the others' files synced at the end.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks import clients, limits
from tests.benchmarks.clients import OURS, Run, emptied, resident, said, synced, timed
from tests.benchmarks.goods import repository
from tests.benchmarks.hosting import Host, host, needed
from tests.benchmarks.measure import Context, Line, Meter, RowResult, Target, in_turns
from tests.benchmarks.service import Service, serve

REPO, SMALL, FILE = "bench/one", "bench/small", "model-0.safetensors"
THREE, MORE = Target(3, at_most=False, of_peer=True), Target(1.1, at_most=False, of_peer=True)


def proven(context: Context) -> RowResult:
    stage, size = context.stage, context.pick(1024**3, 32 * 1024**2)
    where = _host(context, size)
    service = serve(stage, where, stage.memory / "service")
    _serviced(service, -1, SMALL)  # the worker's first job pays for imports
    places = {"memory": stage.memory, "disk": stage.folder}
    runs: dict[str, Callable[[int], Run]] = {"service": partial(_serviced, service)}
    for name, folder in places.items():
        runs[f"ours, {name}"] = partial(_ours, where, folder / "ours")
        runs[f"hf, {name}"] = partial(_hf, where, folder / "hf", sync=name == "disk")
    before = clients.cpu_of(where.pid)
    found = in_turns(context.repetitions, runs)
    served = (clients.cpu_of(where.pid) - before) / len(runs) / context.repetitions
    tool = "hf download, hf cache verify"
    lines = [
        _speed("proven, in memory", size, found["ours, memory"], THREE, found["hf, memory"], tool),
        Line("the same", "CPU s", [run.cpu for run in found["ours, memory"]], Target(0.4, of_peer=True),
             [run.cpu for run in found["hf, memory"]], tool),
        _speed("the same by the running service", size, found["service"], THREE, found["hf, memory"], tool),
        _speed("proven, on disk", size, found["ours, disk"], THREE, found["hf, disk"], f"{tool}, sync"),
    ]  # fmt: skip
    return RowResult(1, f"download {size / 1024**3:g} GiB over loopback, proven", lines, {
        "runs": found, "server CPU s a run": served, **_limits(context, where),
    })  # fmt: skip


def plain(context: Context) -> RowResult:
    needed("curl", "aria2c")
    stage, size = context.stage, context.pick(1024**3, 32 * 1024**2)
    where = _host(context, size)
    url, places = where.url(REPO, FILE), {"memory": stage.memory, "disk": stage.folder}
    worker = stage.enter(resident(**where.environment))
    runs: dict[str, Callable[[int], Run]] = {}
    for name, folder in places.items():
        sync = name == "disk"
        runs[f"ours, {name}"] = partial(_fetched, worker, url, folder / "ours")
        runs[f"curl, {name}"] = partial(_copied, clients.curl, url, folder / "curl", sync=sync)
        runs[f"aria2c, {name}"] = partial(_copied, clients.aria2, url, folder / "aria2", sync=sync)
    runs["ours, started"] = lambda _: timed(
        OURS, said(do="fetch", ref=url, into=emptied(stage.memory / "ours")), **where.environment
    )
    found = in_turns(context.repetitions, runs)
    lines = []
    for name, more in (("memory", ""), ("disk", ", sync")):
        best = [min(pair) for pair in zip(found[f"curl, {name}"], found[f"aria2c, {name}"], strict=True)]
        place = "in memory" if name == "memory" else "on disk"
        lines.append(
            _speed(f"bytes, {place}", size, found[f"ours, {name}"], MORE, best, f"best of curl, aria2c -x8{more}")
        )
    facts = {"runs": found, **_limits(context, where)}
    return RowResult(2, f"download {size / 1024**3:g} GiB over loopback, bytes alone", lines, facts)


def _host(context: Context, size: int) -> Host:
    root = context.stage.folder / "hub"
    repository(root, REPO, size)
    repository(root, SMALL, 1024**2)
    return host(context.stage, root)


def _speed(measure: str, size: int, ours: list[Run], target: Target, peer: list[Run], name: str) -> Line:
    return Line(
        measure, "GB/s", [size / run.wall / 1e9 for run in ours], target, [size / run.wall / 1e9 for run in peer], name,
        ours_cpu=[run.cpu for run in ours], peer_cpu=[run.cpu for run in peer],
    )  # fmt: skip


def _limits(context: Context, where: Host) -> dict[str, float]:
    return {
        "loopback GB/s, one connection, not kept": limits.loopback(where.url(REPO, FILE)) / 1e9,
        "disk writes GB/s": limits.writes(context.stage.folder, context.pick(512, 16) * 1024**2) / 1e9,
        "sha256 GB/s a core": limits.sha256() / 1e9,
    }


def _ours(where: Host, store: Path, _: int) -> Run:
    run = timed(OURS, said(do="pull", ref=f"hf:{REPO}", store=emptied(store)), **where.environment)
    shutil.rmtree(store)
    return run


def _hf(where: Host, home: Path, _: int, *, sync: bool) -> Run:
    emptied(home)
    run = clients.hf_download(REPO, where.endpoint, home) + clients.hf_verify(REPO, where.endpoint, home)
    if sync:
        run += synced(home)
    shutil.rmtree(home)
    return run


def _serviced(service: Service, number: int, repo: str = REPO) -> Run:
    model_id = f"model{number}"
    service.add(model_id, repo)
    with Meter(**service.pids) as meter:
        service.carry_out("/models/download", model_id=model_id)
    shutil.rmtree(service.store / "models" / "llm" / model_id)  # room for the next one
    return Run(meter.wall, sum(meter.cpu.values()))


def _fetched(worker: clients.Resident, url: str, folder: Path, _: int) -> Run:
    run, _answer = worker.ask(do="fetch", ref=url, into=emptied(folder))
    shutil.rmtree(folder)
    return run


def _copied(client: Callable[[str, Path], Run], url: str, folder: Path, _: int, *, sync: bool) -> Run:
    run = client(url, emptied(folder) / FILE)
    if sync:
        run += synced(folder)
    shutil.rmtree(folder)
    return run
