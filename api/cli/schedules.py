"""`modelyard schedules`: what is done by the clock; how often, when last, what came of it."""

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from api.cli.client import Client
from api.cli.limits import read_window
from api.cli.options import AsJson, WaitFor
from api.cli.terminal import end, out, print_json, tick

app = typer.Typer(help="What is done by the clock: how often, when last, what came of it.")

PATH = "/api/v1/schedules"
Name = Annotated[str, typer.Argument(help="Its name in `modelyard schedules`.")]


@app.callback(invoke_without_command=True)
def schedules(context: typer.Context) -> None:
    """Alone, the same as `modelyard schedules show`."""
    if context.invoked_subcommand is None:
        show()


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="One, with its last turns; all where none is named.")] = None,
    as_json: AsJson = False,
) -> None:
    """All schedules, or one with its last turns."""
    answer = Client().get(PATH if name is None else f"{PATH}/{name}")
    if as_json:
        print_json(answer)
    elif name is None:
        _print(answer["schedules"])
    else:
        _print([answer])
        table = Table("AT", "PLACE", "CAME OF IT", box=None)
        for run in answer["runs"]:
            table.add_row(_time(run["at"]), run["place"] or "", _outcome(run))
        out.print(table)


@app.command("set")
def set_schedule(
    name: Name,
    every: Annotated[str | None, typer.Option(help="Such as 15m, 6h or 7d; 'default': as the settings say.")] = None,
    on: Annotated[bool | None, typer.Option("--on/--off", help="Whether it is done at all.")] = None,
    window: Annotated[
        str | None, typer.Option(help="When alone it is done, such as 'Mo-Fr 01:00-05:00'; 'always': at any time.")
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Of the window, such as Europe/Berlin.")] = "UTC",
    as_json: AsJson = False,
) -> None:
    """Change how often and when it is done, or whether at all."""
    if every is None and on is None and window is None:
        raise typer.BadParameter("Say what to change.", param_hint="--every, --window, --on or --off")
    wanted: dict[str, Any] = {} if every is None else {"every": None if every == "default" else every}
    if window is not None:
        wanted["window"] = None if window == "always" else {**read_window(window), "timeZone": time_zone}
    answer = Client().patch(f"{PATH}/{name}", wanted if on is None else {**wanted, "enabled": on})
    print_json(answer) if as_json else _print([answer])


@app.command()
def run(name: Name, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Do it now."""
    client = Client()
    answer = client.post(f"{PATH}/{name}/run")
    if as_json and not wait:
        print_json(answer)
        return
    if answer["byWorkers"]:
        tick(ok=True, text=f"{name}: the workers do it within seconds. See: modelyard schedules show {name}")
    elif not answer["jobs"]:
        tick(ok=True, text=f"{name}: there is nothing to do it to")
    for job in answer["jobs"]:
        end(client, {"job": job}, wait=wait, as_json=as_json)


def _print(found: list[dict[str, Any]]) -> None:
    table = Table("NAME", "EVERY", "LAST", "CAME OF IT", "NEXT", "DOES", box=None)
    for one in found:
        last = one["lastRun"]
        table.add_row(
            one["name"], _when(one) if one["enabled"] else "off", _time(last and last["at"]),
            _outcome(last) if last else "", _time(one["nextRun"]), one["does"],
        )  # fmt: skip
    out.print(table)


def _time(text: str | None) -> str:
    return "" if text is None else f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def _when(one: dict[str, Any]) -> str:
    window = one["window"]
    told = "" if window is None else f", {' '.join(window['days'])} {window['start']}-{window['end']}"
    return _every(one["every"]) + told


def _every(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _outcome(run: dict[str, Any]) -> str:
    if run["error"]:
        return f"{run['error']['code']}: {run['error']['message']}"
    if run["jobs"]:
        return f"{len(run['jobs'])} jobs" if len(run["jobs"]) > 1 else f"job {run['jobs'][0]}"
    return ", ".join(f"{name} {value}" for name, value in (run["result"] or {}).items() if value)
