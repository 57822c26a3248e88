"""Runs one act of the store again and again, each time killed one step later, until it gets through.

`python -m tests.workers.store.crash SCENE FOLDER` leaves one store per run under FOLDER, named 0, 1, 2…, and prints
the list of the steps before which the runs were killed.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.factories.stored import stage
from workers.store.layout import Layout
from workers.store.publish import publish, remove, restore
from workers.store.trash import entries

OLD = {"a": b"old!", "sub/b": b"same", "gone": b"x"}
NEW = {"a": b"new!", "sub/b": b"same"}
SCENES = ("first", "replace", "two renames", "remove", "restore")
STEPS = frozenset({"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "ctypes.dlopen", "open"})
MOST = 200


def prepare(layout: Layout, scene: str) -> Any:
    layout.ensure()
    if scene != "first":
        publish(layout, *stage(layout, OLD))
    if scene == "restore":
        remove(layout, "llm", "tiny", "r1", {"name": "tiny"})
    return None if scene in ("remove", "restore") else stage(layout, NEW)


def act(layout: Layout, scene: str, staged: Any) -> None:
    if scene == "two renames":
        ctypes.CDLL = lambda *_, **__: object()  # type: ignore[assignment,misc] # a C library without renameat2
    if scene == "remove":
        remove(layout, "llm", "tiny", "r1", {"name": "tiny"})
    elif scene == "restore":
        (entry,) = entries(layout)
        restore(layout, entry)
    else:
        publish(layout, *staged)


def killed_before(step: int, layout: Layout, scene: str, staged: Any) -> str | None:
    """Fork; the child dies before that step. The step's name, or None where the child got through."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            if event not in STEPS or (event == "open" and args[1] in ("r", "rb")):
                return
            seen += 1
            if seen == step:
                os.write(writing, event.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        act(layout, scene, staged)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        event = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return None
    if not event:
        raise RuntimeError("the act failed by itself")
    return event


def main(scene: str, folder: Path) -> None:
    killed: list[str] = []
    for number in range(MOST):
        layout = Layout(folder / str(number))
        event = killed_before(number + 1, layout, scene, prepare(layout, scene))
        if event is None:
            print(json.dumps(killed))
            return
        killed.append(event)
    raise RuntimeError("never got through")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
