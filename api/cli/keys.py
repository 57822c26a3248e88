"""`modelyard key`: who may come in, and as what."""

import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson
from api.cli.terminal import err, facts, out, print_json, tick

app = typer.Typer(help="Keys: make, list, revoke and rotate them. Alone, a fresh one for MODELYARD_API_KEY.")

PATH = "/api/v1/keys"
DAYS = {"h": 1 / 24, "d": 1, "w": 7, "y": 365}

Name = Annotated[str, typer.Argument(help="Who or what it is for, as `modelyard key ls` shows it.")]


@app.callback(invoke_without_command=True)
def key(context: typer.Context) -> None:
    """Alone, print a fresh key, for MODELYARD_API_KEY; no service is asked."""
    if context.invoked_subcommand is None:
        out.print(secrets.token_urlsafe(32), soft_wrap=True)


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer looks; operator has work done; admin changes settings.")] = "viewer",
    expires: Annotated[str | None, typer.Option(help="How long it lasts: 12h, 90d, 1y; for ever where unset.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make one, and print it: now, and never again."""
    body = {"name": name, "role": role, "days": None if expires is None else _days(expires)}
    _show(Client().post(PATH, body), as_json)


@app.command("ls")
def list_keys(as_json: AsJson = False) -> None:
    """All of them, with when they were last used."""
    found = Client().get(PATH)
    if as_json:
        print_json(found["keys"])
        return
    table = Table("NAME", "ROLE", "BEGINS", "MADE", "EXPIRES", "LAST USED", box=None)
    if found["standing"]:
        table.add_row("MODELYARD_API_KEY", "admin", "", "", "never", "")
    for each in found["keys"]:
        used = (each["usedAt"] or "never")[:13].replace("T", " ")
        table.add_row(each["name"], each["role"], f"{each['start']}…", each["createdAt"][:10], _end(each), used)
    out.print(table)


@app.command()
def rotate(name: Name, as_json: AsJson = False) -> None:
    """Give it a new secret and print that; the old one ends now."""
    _show(Client().post(f"{PATH}/{name}/rotate"), as_json)


@app.command()
def revoke(name: Name, as_json: AsJson = False) -> None:
    """Whoever has it is let in no more."""
    answer = Client().delete(f"{PATH}/{name}")
    print_json(answer) if as_json else tick(ok=True, text=f"{name} is let in no more")


@app.command()
def own(as_json: AsJson = False) -> None:
    """What the key of MODELYARD_API_KEY lets you do here."""
    facts(Client().get("/api/v1/key"), as_json)


def _show(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    out.print(made["key"], soft_wrap=True, highlight=False)
    err.print(f"{made['name']} is {made['role']}, expires: {_end(made)}. The key is shown this once.", highlight=False)


def _end(made: dict[str, Any]) -> str:
    if made["expiresAt"] is None:
        return "never"
    ended = datetime.fromisoformat(made["expiresAt"]) <= datetime.now(UTC)
    return f"{made['expiresAt'][:10]}{' (expired)' if ended else ''}"


def _days(text: str) -> float:
    """Raises: Refused."""
    found = re.fullmatch(r"(\d+)([hdwy])", text.strip().lower())
    if found is None:
        raise Refused("invalid_duration", f"{text!r} is no length of time.", "Use 12h, 90d, 6w or 1y.")
    return int(found[1]) * DAYS[found[2]]
