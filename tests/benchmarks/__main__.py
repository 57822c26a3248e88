"""`python -m tests.benchmarks [rows…] [--quick] [--out FOLDER]`."""

import argparse
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from tests.benchmarks import report
from tests.benchmarks.measure import Context, RowResult
from tests.benchmarks.rows import ROWS
from tests.benchmarks.stage import Stage

OUT = Path(__file__).resolve().parents[2] / ".bench"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="The table of performance.")
    parser.add_argument("rows", nargs="*", type=int, choices=[[], *ROWS], help="all when none is named")
    parser.add_argument("--quick", action="store_true", help="a smoke of the harness: small counts, few repetitions")
    parser.add_argument("--repetitions", type=int, default=None, help="5, or 2 with --quick")
    parser.add_argument("--out", type=Path, default=OUT, help="where results.json and results.svg go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    return run(options.rows or list(ROWS), options.out, quick=options.quick, repetitions=options.repetitions)


def run(rows: list[int], out: Path, *, quick: bool, repetitions: int | None = None) -> int:
    """Measure the rows, print the table, write the files; 1 where a row could not be measured."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    out.mkdir(parents=True, exist_ok=True)
    before, results, failed = report.machine(), [], 0
    console.print(f"{before['cores']} cores, load {before['load'][0]} at the start")
    for row in rows:
        console.print(f"row {row} …")
        try:
            results.append(_row(row, repetitions or (2 if quick else 5), quick=quick))
        except Exception:  # noqa: BLE001 - one row that breaks must not cost the others
            failed += 1
            console.print(f"[red]row {row} could not be measured[/]")
            console.print_exception()
    after = report.machine()
    report.show(console, results)
    console.print(f"load {after['load'][0]} at the end; {out}/results.json, results.svg")
    report.write_json(out / "results.json", results, before, after)
    report.plot(out / "results.svg", results)
    return 1 if failed else 0


def _row(row: int, repetitions: int, *, quick: bool) -> RowResult:
    before = os.getloadavg()[0]
    with Stage() as stage:
        result = ROWS[row](Context(stage, repetitions, quick))
    result.load = (before, os.getloadavg()[0])
    return result


if __name__ == "__main__":
    sys.exit(main())
