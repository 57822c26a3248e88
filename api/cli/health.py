"""Commands on how much models matter, and how they are."""

from typing import Annotated

import typer

from api.cli.client import Client
from api.cli.options import AsJson, ModelName, priority_named
from api.cli.terminal import out, print_json

app = typer.Typer()
BY_USE = "auto"


@app.command()
def priority(
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
