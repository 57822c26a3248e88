"""`modelyard devices` and `modelyard fit`: what this machine has, and what would run on it."""

from typing import Annotated

import typer
from rich.table import Table

from api.cli.client import Client
from api.cli.options import AsJson, ModelName
from api.cli.terminal import out, print_json, size_text

app = typer.Typer()

COLOURS = {"full": "green", "partial": "yellow", "none": "red"}


@app.command()
def devices(as_json: AsJson = False) -> None:
    """The devices that models run on, with their memory and who is in it."""
    found = Client().get("/api/v1/system/hardware/profile")
    if as_json:
        print_json(found)
        return
    table = Table("ID", "NAME", "MEMORY", "FREE", "USE", "°C", "IN MEMORY", "", box=None)
    for device in found["devices"]:
        use, degrees = device["utilisation"], device["temperature"]
        inside = " ".join(f"{each['modelId']} {size_text(each['memoryBytes'])}".strip() for each in device["residents"])
        table.add_row(
            device["id"], device["name"], size_text(device["memoryTotal"]), size_text(device["memoryFree"]),
            "" if use is None else f"{use:.0%}", "" if degrees is None else f"{degrees:.0f}", inside,
            device["reason"] or ("" if device["alive"] else "its worker is silent"),
        )  # fmt: skip
    out.print(table)
    if found["noGpu"]:
        out.print(found["noGpu"], style="dim")
    for name, runtime in found["runtimes"].items():
        out.print(f"{name} {runtime.get('version') or runtime['missing']} {runtime.get('hint', '')}".strip())


@app.command()
def fit(
    model_id: ModelName,
    context: Annotated[int | None, typer.Option(min=128, help="Tokens of context.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a model needs, and whether it fits."""
    client, query = Client(), f"?context_length={context}" if context else ""
    needs = client.get(f"/api/v1/models/{model_id}/requirements{query}")
    told = client.get(f"/api/v1/models/{model_id}/compatibility{query}")
    if as_json:
        print_json({"requirements": needs, "compatibility": told})
        return
    memory = needs["memory"]
    parts = ", ".join(f"{name} {size_text(memory[name])}" for name in ("weights", "cache", "runtime"))
    spread = size_text(memory["spread"])
    out.print(f"{size_text(memory['total'])} ± {spread} of memory on {needs['device']} ({memory['basis']}: {parts})")
    for device in told["devices"]:
        level = device["level"]
        out.print(f"[{COLOURS[level]}]{level}[/] {device['device']}", highlight=False)
        for issue in device["issues"]:
            out.print(f"  {issue['message']} {issue['recommendation']}")
