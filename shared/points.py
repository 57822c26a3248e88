"""Named places in the code at which tests take a part of the system away.

A process that was started with `MODELYARD_FAULT_FILE` looks, at every point that it reaches, at that file. It holds
`<point> <action> [<n>]`: the first process that reaches the point for the n-th time takes the file and does what it
says, once.

    kill    the process ends by SIGKILL
    term    the process sends itself SIGTERM, and goes on; `<file>.held` has its pid
    hold    the thread waits, with `<file>.held` beside the file, until somebody takes that away

Without the variable a point costs one comparison.
"""

import os
import signal
import time
from pathlib import Path

_FILE = os.environ.get("MODELYARD_FAULT_FILE")
HOLD_SECONDS = 60.0
LOOK_SECONDS = 0.01

_reached: dict[tuple[str, int], int] = {}


def reached(*name: str) -> None:
    """This point of the code is reached; the parts of its name are joined by dots."""
    if _FILE is not None:
        _look(Path(_FILE), ".".join(name))


def _look(order: Path, name: str) -> None:
    try:
        issued = order.stat().st_mtime_ns
        point, action, *rest = order.read_text(encoding="utf-8").split()
    except (FileNotFoundError, ValueError):
        return
    if point != name:
        return
    _reached[name, issued] = count = _reached.get((name, issued), 0) + 1
    if count < int(rest[0] if rest else 1):
        return
    try:
        order.rename(order.with_suffix(".fired"))
    except FileNotFoundError:  # another process, or thread, was faster
        return
    _do(action, order.with_suffix(".held"))


def _do(action: str, held: Path) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        held.write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        held.write_text(str(os.getpid()), encoding="utf-8")
        deadline = time.monotonic() + HOLD_SECONDS
        while held.exists() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
