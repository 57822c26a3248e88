"""Whoever brings or checks files, run as a process and timed: ours, the Hub's own tool, aria2c, curl, sha256sum."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.benchmarks.measure import Line, Meter, Target

PROJECT = Path(__file__).resolve().parents[2]
OURS = (sys.executable, "-m", "tests.benchmarks.ours")
HF = str(Path(sys.executable).with_name("hf"))
PATIENCE = 600.0


class Run(NamedTuple):
    """Seconds of one run: on the clock, and of CPU in all its processes."""

    wall: float
    cpu: float

    def __add__(self, other: tuple[Any, ...]) -> "Run":  # type: ignore[override] # two runs are no four seconds
        return Run(self.wall + other[0], self.cpu + other[1])


def timed(command: Sequence[str | Path], said: str = "", **environment: str) -> Run:
    """A process from its start to its end.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    began = time.perf_counter()
    process = start(command, **environment)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as stdin:
        stdin.write(said)
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        message = f"{Path(command[0]).name} ended with {process.returncode}: {printed[-2000:]}"
        raise RuntimeError(message)
    return Run(wall, used.ru_utime + used.ru_stime)


def start(command: Sequence[str | Path], **environment: str) -> "subprocess.Popen[str]":
    """A process of the project's folder that knows no setting but these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MODELYARD_", "HF_"))}
    return subprocess.Popen(
        [str(part) for part in command], cwd=PROJECT, env={**inherited, **environment}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def said(**command: Any) -> str:
    """One command to ours."""
    return json.dumps(command, default=str) + "\n"


class Resident:
    """Ours as a worker has it: started once, asked often."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, **command: Any) -> tuple[Run, dict[str, Any]]:
        """How long one command took, and its answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with Meter(ours=process.pid) as meter:
            process.stdin.write(said(**command))
            process.stdin.flush()
            line = process.stdout.readline()
        if not line.startswith("{"):
            message = f"ours failed: {line}{process.stdout.read()}"
            raise RuntimeError(message)
        return Run(meter.wall, meter.cpu["ours"]), json.loads(line)


@contextmanager
def resident(**environment: str) -> Iterator[Resident]:
    """Ours, until the block ends."""
    process = start(OURS, **environment)
    try:
        yield Resident(process)
    finally:
        process.communicate(timeout=PATIENCE)


def hub_tool(endpoint: str, home: Path, **more: str) -> Mapping[str, str]:
    """The environment of `hf`: plain HTTP, a home of its own, and no question but the one that is timed."""
    return {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more,
    }  # fmt: skip


def hf_download(repo: str, endpoint: str, home: Path, **more: str) -> Run:
    return timed([HF, "download", repo], **hub_tool(endpoint, home, **more))


def hf_verify(repo: str, endpoint: str, home: Path, **more: str) -> Run:
    return timed([HF, "cache", "verify", repo], **hub_tool(endpoint, home, **more))


def curl(url: str, file: Path, *options: str) -> Run:
    return timed(["curl", "-fsS", *options, "-o", file, url])


def aria2(url: str, file: Path, *options: str) -> Run:
    """With eight connections, told to use all of them also for what is small."""
    many = ("-x8", "-s8", "-k1M", "--file-allocation=none", "--quiet", "--no-conf")
    return timed(["aria2c", *many, *options, "-d", file.parent, "-o", file.name, url])


def synced(folder: Path) -> Run:
    """Everything in a folder brought to the disk, which the others' runs leave to the system."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return timed(["sync", *files])


def emptied(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def speed(measure: str, size: int, ours: list[Run], least: float, peer: list[Run], name: str) -> Line:
    """So many bytes in the time of each run, beside a peer's, of which it is to be at least a multiple."""
    return Line(
        measure, "GB/s", [size / run.wall / 1e9 for run in ours], Target(least, at_most=False, of_peer=True),
        [size / run.wall / 1e9 for run in peer], name,
        ours_cpu=[run.cpu for run in ours], peer_cpu=[run.cpu for run in peer],
    )  # fmt: skip
