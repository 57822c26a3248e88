"""`docs/promises.md`, written from what a run of `make chaos` noted."""

import os
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.faults.cases import CASES, covered
from tests.faults.matrix import DATABASES, POINTS, Fault

PAGE = Path(__file__).parents[2] / "docs" / "promises.md"

HEAD = """\
# What survives what

Written by `make chaos`, which takes parts away from a running service at named points of real work and then looks at
everything: the ledger, the store, memory, processes, events. Nothing on this page is typed by hand.

## What we promise

- A job that was accepted ends, whatever dies: the API after its commit, the worker at any line, Redis with all its
  data, the database. It moves again within a minute of the fault.
- A model is published only when every byte of it is what its source has; a crash between any two steps of that leaves
  either the model before, or the whole new one.
- What was proven on disk is not fetched again.
- Exactly one model serves a type. While it is exchanged, requests reach the one before or the one after.
- Nothing of a dead worker stays behind: no runner without an owner, no half a model among the published ones.
- A worker that was frozen past its lease writes nothing to the ledger any more: its attempt's number is no longer
  valid. Nobody else touches the model's files until it has noticed, or is gone.
- Asking again under the same `Idempotency-Key` is asking once.

What we do not promise: that a job's body starts only once. A worker that dies after its work and before its outcome
leaves a job that is done again; each is written so that the second time finds the work done.
Nor that a worker which is frozen, not dead, holds nobody up: the job it had waits for its model's files until it goes
on or is killed, and on SQLite, where one writer at a time is all there is, one frozen in the middle of a write stops
everybody's.
"""

SCENARIOS = {
    "download": "A download",
    "verify": "A verification",
    "repair": "A repair",
    "remove": "A removal",
    "cleanup": "A cleanup of two models",
    "scrub": "A scrub that finds damage",
    "update": "An update",
    "rollback": "A rollback",
    "restore": "A model that comes back from the trash",
    "bundle": "A bundle that is written",
    "unbundle": "A bundle that is taken in",
    "switch": "A switch from one model to another",
    "swap": "A switch where only one of the two fits",
    "room": "A load for which the one that serves makes room",
    "nap": "A switch after which the one before sleeps",
    "wake": "A switch to a model that sleeps",
    "load": "The first load of a type",
    "reload": "A model that is started anew",
    "unload": "An unload",
    "ask": "A request to the API, sent again until it is answered",
}
LABELS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def write(notes: list[dict[str, Any]], minutes: float) -> None:
    """Replace the page."""
    cells = [note for note in notes if note["what"] == "cell"]
    storms = [note for note in notes if note["what"] == "storm"]
    runtime = next((note["name"] for note in notes if note["what"] == "runtime"), "")
    parts = [HEAD, _setting(minutes, runtime), _matrix(cells), _storms(storms), _cases()]
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _setting(minutes: float, runtime: str) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "sqlalchemy"))
    return (
        f"## This run\n\n{minutes:.0f} minutes on {os.cpu_count()} cores; Python {platform.python_version()},"
        f" {versions}; models run by {runtime}. Leases of 4 s and a rescue every second, so that a cell is over soon;"
        " the defaults are 20 s and 10 s.\n"
    )


def _matrix(cells: list[dict[str, Any]]) -> str:
    good = sum(cell["ok"] for cell in cells)
    lines = [
        "## The matrix\n",
        f"{len(cells)} cells, {good} of them ok. A cell is a point, a fault and a database. It shows how many attempts"
        " the job took, and the seconds from the fault's end until the job had ended, every invariant held and, after"
        " an outage, a new job had been done.\n",
    ]
    for scenario, title in SCENARIOS.items():
        mine = [cell for cell in cells if cell["scenario"] == scenario]
        if mine:
            lines += [f"### {title}\n", *_table(mine), ""]
    return "\n".join(lines)


def _table(cells: list[dict[str, Any]]) -> list[str]:
    found: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for cell in cells:
        found[cell["point"], cell["nth"], cell["fault"]][cell["database"]] = cell
    lines = [
        f"| point | fault | {' | '.join(LABELS[name] for name in DATABASES)} |",
        f"|---|---|{'---|' * len(DATABASES)}",
    ]
    order = list(POINTS)
    faults = list(Fault)
    for point, nth, fault in sorted(found, key=lambda key: (order.index(key[0]), key[1], faults.index(Fault(key[2])))):
        words = POINTS[point][0] + (f", for the {nth}th time" if nth > 1 else "")
        shown = [_shown(found[point, nth, fault].get(name)) for name in DATABASES]
        lines.append(f"| {words} | {fault} | {' | '.join(shown)} |")
    return lines


def _shown(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    if not cell["ok"]:
        return f"**FAILED**: {cell['why'].splitlines()[0]}"
    attempts = "1 attempt" if cell["attempts"] == 1 else f"{cell['attempts']} attempts"
    return f"ok, {attempts}, {cell['seconds']:.1f} s"


def _storms(storms: list[dict[str, Any]]) -> str:
    lines = [
        "## Kill storms\n",
        "Workers are killed by `kill -9` at random moments of a stream of short jobs, and started again at once, as a"
        " supervisor does: ours, and in the same minute on the same Redis those of a plain Celery with its own"
        " settings and as many workers and slots. Lost is a job that never ran or never ended. What a plain Celery"
        " had taken and not acknowledged comes again when its visibility timeout is over, after an hour: it is counted"
        " as stuck.\n",
        "| who | storms | jobs | workers killed | lost | stuck for an hour | ran more than once | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for who, side in (("Modelyard", "ours"), ("plain Celery", "plain")):
        for database in DATABASES if side == "ours" else [""]:
            mine = [storm for storm in storms if database in storm["database"]]
            sums = [
                sum(storm[side][name] for storm in mine) for name in ("submitted", "lost", "stuck", "twice", "failed")
            ]
            kills = sum(storm["kills"] for storm in mine)
            label = f"{who} on {LABELS[database]}" if database else who
            lines.append(
                f"| {label} | {len(mine)} | {sums[0]:,} | {kills} | **{sums[1]}** | {sums[2]} | {sums[3]} | {sums[4]} |"
            )
    return "\n".join([*lines, ""])


def _cases() -> str:
    tests = covered()
    lines = [
        "## Which test shows which case\n",
        "A rule (`tests/rules/test_faults.py`) insists that none of these is without a test.\n",
        "| case | what | tests |",
        "|---|---|---|",
    ]
    for case, words in CASES.items():
        named = "<br>".join(f"`{test}`" for test in tests.get(case, [])) or "–"
        lines.append(f"| {case} | {words} | {named} |")
    return "\n".join([*lines, ""])
