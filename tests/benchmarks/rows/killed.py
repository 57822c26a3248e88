"""Row 5: what is fetched a second time after SIGKILL at 90 %, counted at the server.

Both are killed when nine tenths of the file lie in their folder, and started again until they succeed. The server holds
each connection to a rate, so that 90 % is a moment that can be met.
"""

import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.clients import HF, OURS, emptied, hub_tool, said, start, timed
from tests.benchmarks.goods import repository
from tests.benchmarks.hosting import Host, host
from tests.benchmarks.measure import Context, Line, RowResult, Target, in_turns
from tests.benchmarks.stage import wait_for

REPO = "bench/one"
RATE = 100_000_000
CONNECTIONS = 4
SHARE = 0.9
MIB = 1024**2
BLOCK = 512
"""The unit of st_blocks, whatever the file system's."""
QUIET_SECONDS = 0.5


def run(context: Context) -> RowResult:
    size = context.pick(512 * MIB, 128 * MIB)
    root, work = context.stage.folder / "hub", context.stage.folder
    repository(root, REPO, size)
    where = host(context.stage, root, rate=RATE)
    ours = where.environment | {"MODELYARD_SOURCES__CONNECTIONS": str(CONNECTIONS)}
    pull = said(do="pull", ref=f"hf:{REPO}", store=work / "ours")
    tool = hub_tool(where.endpoint, work / "hf")
    found = in_turns(context.repetitions, {
        "ours": partial(_again, where, size, work / "ours", OURS, pull, ours),
        "hf": partial(_again, where, size, work / "hf", (HF, "download", REPO), "", tool),
    })  # fmt: skip
    most = (1 - SHARE) * size / MIB + CONNECTIONS * 16
    line = Line("fetched after the kill", "MiB", found["ours"], Target(most), found["hf"], "hf download")
    facts = {"file MiB": size / MIB, "connections": CONNECTIONS}
    return RowResult(5, f"SIGKILL at {SHARE:.0%} of {size // MIB} MiB", [line], facts)


def _again(
    where: Host, size: int, folder: Path, command: Sequence[str], told: str, environment: Mapping[str, str], _: int
) -> float:
    """MiB that the server sent for the second process, which ends well."""
    process = start(command, **environment) if emptied(folder) else None
    assert process is not None
    assert process.stdin is not None
    process.stdin.write(told)
    process.stdin.flush()
    wait_for(lambda: process.poll() is not None or held(folder) >= SHARE * size, "90 %")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        message = f"it ended with {process.returncode} before it was killed"
        raise RuntimeError(message)
    before = _settled(where)
    timed(command, told, **environment)
    sent = _settled(where) - before
    shutil.rmtree(folder)
    return sent / MIB


def held(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk."""
    held = 0
    for path in folder.rglob("*"):
        try:
            held += path.lstat().st_blocks * BLOCK
        except FileNotFoundError:
            continue
    return held


def _settled(where: Host) -> int:
    """What the server has sent, once it has noticed every connection that broke."""
    sent, since = where.sent(), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(QUIET_SECONDS / 10)
        if (now := where.sent()) != sent:
            sent, since = now, time.monotonic()
    return sent
