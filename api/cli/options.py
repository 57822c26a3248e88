"""What commands of the command line have in common."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
WaitFor = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end.")]
ModelName = Annotated[str, typer.Argument(help="Model id, as `modelyard ls` shows it.")]
JobName = Annotated[str, typer.Argument(help="Job id, as `modelyard jobs` shows it.")]
PriorityOption = Annotated[str | None, typer.Option(help="CRITICAL, HIGH, MEDIUM or LOW.")]
