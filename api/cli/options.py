"""What commands of the command line have in common."""

from typing import Annotated

import typer

from api.cli.client import Refused
from shared.states import Priority

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
WaitFor = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")]
ModelName = Annotated[str, typer.Argument(help="Model id, as `modelyard ls` shows it.")]
JobName = Annotated[str, typer.Argument(help="Job id, as `modelyard jobs` shows it.")]
OnNode = Annotated[str | None, typer.Option("--node", help="The machine whose store is meant, of several.")]
PriorityOption = Annotated[str | None, typer.Option(help="CRITICAL, HIGH, MEDIUM or LOW.")]


def priority_named(name: str) -> str:
    """Raises: Refused, with the names that there are."""
    if name.upper() not in Priority.__members__:
        raise Refused("invalid_priority", f"{name!r} is not a priority.", "Use CRITICAL, HIGH, MEDIUM or LOW.")
    return name.upper()
