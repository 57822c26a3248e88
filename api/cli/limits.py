"""`modelyard limits`: how fast and how many downloads may be, now and in windows of the week."""

import re
from typing import Annotated, Any

import typer
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson, PriorityOption
from api.cli.terminal import out, print_json, size_text, tick
from shared.limits import WEEK

app = typer.Typer(help="Limit how fast and how many downloads may be: all, of a source, of a priority; in windows.")

PATH = "/api/v1/limits"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_RATE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmg]i?|)b?(?:/s)?$")
_WINDOW = re.compile(r"^(?:([a-z,-]+)\s+)?(\d\d:\d\d)-(\d\d:\d\d)$")
SHORT_DAY = 2
"""Letters of a day that are enough to tell it."""

Name = Annotated[str, typer.Argument(help="Any name: lower-case letters, digits and dashes.")]


@app.callback(invoke_without_command=True)
def limits(context: typer.Context) -> None:
    """Alone, the same as `modelyard limits show`."""
    if context.invoked_subcommand is None:
        show()


@app.command()
def show(as_json: AsJson = False) -> None:
    """All limits; ● marks those that count now."""
    _print(Client().get(PATH), as_json)


@app.command("set")
def set_limit(
    name: Name,
    rate: Annotated[str | None, typer.Option(help="Bytes a second together, such as 20MB/s.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Downloads at a time.")] = None,
    source: Annotated[str | None, typer.Option(help="Only from huggingface, url or ollama.")] = None,
    priority: PriorityOption = None,
    window: Annotated[str | None, typer.Option(help="When it counts, such as 'Mo-Fr 08:00-18:00'.")] = None,
    time_zone: Annotated[str, typer.Option(help="Of the window, such as Europe/Berlin.")] = "UTC",
    as_json: AsJson = False,
) -> None:
    """Set a limit, or change the one of that name; running downloads keep it within a second."""
    body = {
        "bytesPerSecond": None if rate is None else read_rate(rate), "jobs": jobs, "source": source,
        "priority": priority and priority.upper(),
        "window": None if window is None else {**read_window(window), "timeZone": time_zone},
    }  # fmt: skip
    _print(Client().put(f"{PATH}/{name}", body), as_json)


@app.command()
def clear(name: Name, as_json: AsJson = False) -> None:
    """Clear a limit."""
    answer = Client().delete(f"{PATH}/{name}")
    print_json(answer) if as_json else tick(ok=True, text=f"{name} limits nothing any more")


def read_rate(text: str) -> int:
    """Bytes a second, as people write them: 20MB/s, 1.5 GiB/s, 500k."""
    match = _RATE.match(text.strip().lower())
    if match is None:
        raise Refused("invalid_rate", f"{text!r} is no rate.", "Write it as 20MB/s, 500KB/s or 1.5GiB/s.")
    return int(float(match[1]) * UNITS[match[2]])


def read_window(text: str) -> dict[str, Any]:
    """Days, start and end of `Mo-Fr 08:00-18:00`, `sat,sun 22:00-06:00` or `08:00-18:00`."""
    match = _WINDOW.match(text.strip().lower())
    if match is None:
        raise _no_window(text)
    parts = match[1].split(",") if match[1] else [f"{WEEK[0]}-{WEEK[-1]}".lower()]
    days = {day for part in parts for day in _days(part, text)}
    return {"days": [day for day in WEEK if day in days], "start": match[2], "end": match[3]}


def _days(part: str, text: str) -> list[str]:
    """One day, or those of a range, which may run over the end of the week."""
    found = [
        [day for day in WEEK if name and day.lower()[: max(SHORT_DAY, len(name))] == name] for name in part.split("-")
    ]
    if len(found) > 2 or not all(len(days) == 1 for days in found):  # noqa: PLR2004 - a range has two ends
        raise _no_window(text)
    first, last = WEEK.index(found[0][0]), WEEK.index(found[-1][0])
    return [WEEK[place % len(WEEK)] for place in range(first, last + 1 if last >= first else last + 1 + len(WEEK))]


def _no_window(text: str) -> Refused:
    return Refused("invalid_window", f"{text!r} is no window.", "Write it as 'Mo-Fr 08:00-18:00', or 22:00-06:00.")


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    table = Table("NAME", "NOW", "RATE", "JOBS", "SOURCE", "PRIORITY", "WINDOW", box=None)
    for limit in answer["limits"]:
        rate, jobs, window = limit["bytesPerSecond"], limit["jobs"], limit["window"]
        table.add_row(
            limit["name"], "●" if limit["inForce"] else "", "" if rate is None else f"{size_text(rate)}/s",
            "" if jobs is None else str(jobs), limit["source"] or "all", limit["priority"] or "all",
            "always" if window is None
            else f"{' '.join(window['days'])} {window['start']}-{window['end']} {window['timeZone']}",
        )  # fmt: skip
    out.print(table)
