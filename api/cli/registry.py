"""`modelyard registry …`: the registry as a file that other systems read and write."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import Client, Refused
from api.cli.options import AsJson
from api.cli.terminal import out, print_json, tick

app = typer.Typer(no_args_is_help=True, help="The registry as a file that other systems read and write.")

AT_ONCE = 200
"""Entries a request: a body has a limit, and an entry may have some kilobytes."""
SHOWN = 20


@app.command("export")
def export(
    file: Annotated[Path | None, typer.Option("-o", "--output", help="The file; the terminal where missing.")] = None,
) -> None:
    """Write every entry as JSON: {"models": [{"model_id": …}]}."""
    registry = Client().get("/api/v1/models/registry/export")
    if file is None:
        print_json(registry)
        return
    file.write_text(json.dumps(registry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tick(ok=True, text=f"{len(registry['models'])} models in {file}")


@app.command("import")
def take_in(
    file: Annotated[Path, typer.Argument(help="As `modelyard registry export` writes it.")],
    replace: Annotated[bool, typer.Option("--replace", help="What is here already gets what the file says.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Enter the models of a file; nothing is downloaded."""
    client, models = Client(), _read(file)
    done: dict[str, Any] = {"added": [], "changed": [], "kept": []}
    query = f"replace={str(replace).lower()}&dryRun={str(dry_run).lower()}"
    for start in range(0, max(len(models), 1), AT_ONCE):
        body = {"models": models[start : start + AT_ONCE]}
        part = client.post(f"/api/v1/models/registry/import?{query}", body)
        for name in done:
            done[name] += part[name]
    if as_json:
        print_json(done)
        return
    for name, found in done.items():
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        said = f"would be {name}" if dry_run else name
        out.print(f"{said}: {', '.join(found[:SHOWN]) or 'none'}{more}", highlight=False)


def _read(file: Path) -> list[Any]:
    try:
        models = json.loads(file.read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused("invalid_registry", f"{file} cannot be read: {error}.", 'It is {"models": [ … ]}.') from error
    if not isinstance(models, list):
        raise Refused("invalid_registry", f"The models of {file} are no list.", 'It is {"models": [ … ]}.')
    return models
