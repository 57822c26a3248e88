"""The table for people, JSON for programs, and a plot."""

import dataclasses
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import RowResult


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was at this moment."""
    return {
        "cores": os.cpu_count(),
        "load": [round(each, 2) for each in os.getloadavg()],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def table(results: list[RowResult]) -> Table:
    found = Table(title="Median (least to most) of all repetitions")
    for name in ("#", "measure", "ours", "peer", "ratio", "target", "", "CPU s ours : peer", "load"):
        found.add_column(name, overflow="fold")
    for result in results:
        for line in result.lines:
            name = f"{line.measure} / {line.peer_name}" if line.peer_name else line.measure
            cpu = " : ".join(_figure(each, "") for each in (line.ours_cpu, line.peer_cpu) if each)
            figures = _figure(line.ours, line.unit), _figure(line.peer, line.unit), _figure(line.ratios, "×")
            verdict = "[green]met[/]" if line.met else "[red]missed[/]"
            load = f"{result.load[0]:.1f} to {result.load[1]:.1f}"
            found.add_row(str(result.number), name, *figures, str(line.target), verdict, cpu, load)
        found.add_section()
    return found


def _figure(values: list[float], unit: str) -> str:
    if not values:
        return ""
    middle, least, most = statistics.median(values), min(values), max(values)
    spread = f" ({least:.4g} to {most:.4g})" if len(values) > 1 else ""
    return f"{middle:.4g} {unit}{spread}".replace(" ×", "×").strip()


def write_json(file: Path, results: list[RowResult], before: dict[str, Any], after: dict[str, Any]) -> None:
    rows = [
        {
            **dataclasses.asdict(result),
            "lines": [
                {**dataclasses.asdict(line), "target": str(line.target), "ratios": line.ratios, "met": line.met}
                for line in result.lines
            ],
        }
        for result in results
    ]
    file.write_text(json.dumps({"before": before, "after": after, "rows": rows}, indent=1) + "\n")


def plot(file: Path, results: list[RowResult]) -> None:
    """How far each figure is from its target, on a logarithmic axis: right of 1 is met."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    lines = [(f"{result.number}  {line.measure}", line) for result in results for line in result.lines if line.judged]
    figure, axes = plt.subplots(figsize=(10, 1 + 0.35 * len(lines)), layout="constrained")
    for place, (_, line) in enumerate(lines):
        margins = sorted(line.target.margin(value) for value in line.judged)
        colour = "tab:green" if line.met else "tab:red"
        axes.hlines(place, margins[0], margins[-1], color=colour, linewidth=2)
        axes.plot(statistics.median(margins), place, "o", color=colour)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [name for name, _ in lines])
    axes.invert_yaxis()
    axes.set_xlabel("times better than the target (median, least to most)")
    figure.savefig(file)
    plt.close(figure)


def show(console: Console, results: list[RowResult]) -> None:
    console.print(table(results))
    missed = [f"{result.number} {line.measure}" for result in results for line in result.lines if not line.met]
    if any(result.lines for result in results):
        console.print(f"Missed: {', '.join(missed)}" if missed else "Every target of what was measured is met.")
