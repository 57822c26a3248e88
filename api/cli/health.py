"""Commands on how much models matter, and how they are."""

from typing import Annotated, Any

import typer
from rich.table import Table

from api.cli.client import Client
from api.cli.options import AsJson, ModelName, priority_named
from api.cli.terminal import checked, follow, out, pages, print_json
from shared.states import Health, HealthLevel

app = typer.Typer()
BY_USE = "auto"
MINUTE, HOUR, DAY = 60, 3600, 86_400
SHORT = ("modelId", "health", "integrity", "performance", "healthCheckedAt")
COLOURS = {Health.HEALTHY: "green", Health.UNHEALTHY: "yellow", Health.CORRUPTED: "red"}


@app.command()
def importance(
    model_id: ModelName,
    level: Annotated[str, typer.Argument(help="CRITICAL, HIGH, MEDIUM, LOW, or auto: from its uses.")],
    as_json: AsJson = False,
) -> None:
    """Set how much a model matters; `auto` leaves it to its uses."""
    wanted = None if level.lower() == BY_USE else priority_named(level)
    model = Client().put(f"/api/v1/models/{model_id}/priority", {"priority": wanted})
    if as_json:
        print_json(model)
        return
    why = "set by hand" if model["prioritySet"] else f"{model['usesPerDay']:.2g} uses a day"
    out.print(f"{model_id} is {model['priority']} ({why})")


@app.command()
def health(
    model_id: Annotated[str | None, typer.Argument(help="One model; all of them where missing.")] = None,
    check: Annotated[
        HealthLevel | None,
        typer.Option(help="Look now: cheap at its files, deep at every byte; live asks it something tiny."),
    ] = None,
    load: Annotated[bool, typer.Option("--load", help="With live: load it where it is not in memory.")] = False,
    as_json: AsJson = False,
) -> None:
    """How models are, as their last checks have left them; or after one more."""
    client = Client()
    if model_id is None:
        if check is not None or load:
            raise typer.BadParameter("Name a model to check.")
        _page(list(pages(client, "/api/v1/models", "models")), as_json)
        return
    path = f"/api/v1/models/{model_id}/health"
    if check is not None or load:
        query = f"level={check or HealthLevel.LIVE}&load={str(load).lower()}"
        checked(follow(client, client.post(f"{path}?{query}"), quiet=as_json))
    told = client.get(path)
    if as_json:
        print_json(told)
    else:
        _shown(told)


def _page(models: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json([{key: each[key] for key in SHORT} for each in models])
        return
    table = Table("MODEL", "HEALTH", "INTEGRITY", "PERFORMANCE", "LOOKED AT (UTC)", box=None)
    for each in models:
        at = (each["healthCheckedAt"] or "")[:16].replace("T", " ")
        table.add_row(
            each["modelId"], _coloured(each["health"]), _share(each["integrity"]), _share(each["performance"]), at
        )
    out.print(table)


def _shown(told: dict[str, Any]) -> None:
    out.print(f"{told['modelId']} is", _coloured(told["health"]))
    scores = {"integrity": told["integrity"], "performance": told["performance"]}
    for name, score in scores.items():
        if score is not None:
            out.print(f"  {name:<12} {_share(score)}", highlight=False)
    for level, look in told["checks"].items():
        age = "never" if look["ageSeconds"] is None else f"{_age(look['ageSeconds'])} ago"
        out.print(f"  {level:<12} {age}", highlight=False)
    for reason in told["reasons"]:
        out.print(f"  {reason['message']} {reason['hint']}", highlight=False)
    for advice in told["recommendations"]:
        out.print(f"  {advice['message']} → {advice['command']}", highlight=False)


def _coloured(health_: str) -> str:
    colour = COLOURS.get(Health(health_))
    return f"[{colour}]{health_}[/]" if colour else health_


def _share(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.0f} %"


def _age(seconds: float) -> str:
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
