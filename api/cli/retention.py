"""`modelyard cleanup` and `modelyard retention`: what may leave the disk, by which policy."""

from typing import Annotated, Any

import typer
from rich.table import Column, Table

from api.cli.client import Client
from api.cli.options import AsJson, OnNode, WaitFor
from api.cli.terminal import checked, end, facts, follow, out, size_text, tick
from shared.states import ENDED

app = typer.Typer()
ID = Column("ID", no_wrap=True)


@app.command()
def cleanup(
    models: Annotated[list[str] | None, typer.Argument(help="None but these of what may leave.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    node: OnNode = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Put what the retention policy lets go into the trash; `modelyard restore` brings it back."""
    client = Client()
    body: dict[str, Any] = {"dryRun": dry_run, "node": node, **({"models": models} if models else {})}
    accepted = client.post("/api/v1/cleanup", body)
    if as_json or not wait:
        end(client, accepted, wait=wait, as_json=as_json)
        return
    job = checked(follow(client, accepted, quiet=False))
    if job["status"] in ENDED:
        _tell(job["result"] or {})


@app.command()
def retention(
    unused_days: Annotated[float | None, typer.Option(help="A model that nobody used for so long may leave.")] = None,
    storage_percent: Annotated[float | None, typer.Option(help="Share of the disk that models may fill.")] = None,
    uses_per_day: Annotated[float | None, typer.Option(help="From which on a model is not rarely used.")] = None,
    recent_days: Annotated[float | None, typer.Option(help="A model that came within so many days stays.")] = None,
    automatic: Annotated[bool | None, typer.Option(help="Whether the scheduled look cleans up.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="As the settings say.")] = False,
    as_json: AsJson = False,
) -> None:
    """The retention policy; with options, changed."""
    client = Client()
    found = client.get("/api/v1/retention")
    told = {
        "maxUnusedDays": unused_days, "maxStorageUsagePercent": storage_percent, "minUsageFrequency": uses_per_day,
        "recentDays": recent_days, "automatic": automatic,
    }  # fmt: skip
    wanted = {name: value for name, value in told.items() if value is not None}
    if wanted or reset:
        before = {} if reset else {name: found[name] for name in found["changed"]}
        found = client.put("/api/v1/retention", before | wanted)
    facts(found, as_json)


def _tell(result: dict[str, Any]) -> None:
    if result["dryRun"]:
        _print_recommended(result)
    else:
        _print_removed(result)
    for model_id in result["mayNotLeave"]:
        out.print(f"{model_id} may not leave: `modelyard cleanup --dry-run` says what holds it.", highlight=False)


def _print_recommended(result: dict[str, Any]) -> None:
    table = Table(ID, "FREES", "IDLE", "USES/DAY", "PRIORITY", "FETCH AGAIN", "VALUE", "WHY", box=None)
    for each in result["recommendations"]:
        table.add_row(*_row(each, size_text(each["frees"])), each["reason"])
    for each in result["kept"]:
        table.add_row(*_row(each, ""), f"kept: {', '.join(each['holds'])}")
    out.print(table)
    tick(ok=True, text=f"{result['models']} models may leave, {size_text(result['frees'])}; nothing was touched")


def _row(each: dict[str, Any], frees: str) -> tuple[str, ...]:
    worth = "" if each["value"] is None else f"{each['value']:.2f}"
    idle, uses = f"{each['idleDays']:.0f} d", f"{each['usesPerDay']:.2f}"
    return each["modelId"], frees, idle, uses, each["priority"], f"{each['fetchSeconds']:.0f} s", worth


def _print_removed(result: dict[str, Any]) -> None:
    for each in result["removed"]:
        out.print(f"  {each['modelId']}: {size_text(each['frees'])}, {each['reason']}", highlight=False)
    for each in result["left"]:
        out.print(f"  {each['modelId']} was left: {each['message']}", highlight=False)
    gone = f"{result['models']} models, {size_text(result['frees'])}, are in the trash"
    tick(ok=True, text=f"{gone}; modelyard restore ID brings one back" if result["models"] else "Nothing had to leave")
