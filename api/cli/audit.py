"""`modelyard audit`: who changed what, and whether the log of it is still whole."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson
from api.cli.terminal import out, pages, print_json, tick

app = typer.Typer(help="Who changed what, in a log whose rows carry the hash of the one before.")

PATH = "/api/v1/audit"
PAGE = 1000
SHOWN = 200
"""Characters of a row's details in the table."""

ExportFile = Annotated[Path, typer.Argument(help="JSON lines, as `modelyard audit export` writes them.")]


@app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    action: Annotated[str | None, typer.Option(help="Such as model.remove, or limit for all of limits.")] = None,
    target: Annotated[str | None, typer.Option(help="A model's id, a limit's name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE)] = 20,
    as_json: AsJson = False,
) -> None:
    """The last changes, newest first."""
    if context.invoked_subcommand is not None:
        return
    found = Client().get(PATH, action=action, target=target, limit=limit)["entries"]
    if as_json:
        print_json(found)
        return
    table = Table("SEQ", "AT", "ACTION", "TARGET", "BY", "DETAILS", box=None)
    for row in found:
        by = " ".join(filter(None, (row["origin"], row["address"], row["key"])))
        details = json.dumps(row["details"], ensure_ascii=False)[:SHOWN]
        table.add_row(str(row["seq"]), row["at"][:19], row["action"], row["target"], by, details)
    out.print(table)


@app.command()
def verify(
    file: Annotated[Path | None, typer.Option(help="Check an export instead of the service.")] = None,
    head: Annotated[
        str | None, typer.Option(help="SEQ:HASH, as an earlier check printed it; that row must still be there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every hash. Exit code 1 where a row was changed, added or taken away; names the first one."""
    noted = _read_head(head)
    checked = _check(_lines(file) if file else _rows(Client()), noted)
    if as_json:
        print_json(checked)
    elif checked["ok"]:
        text = f"{checked['rows']} rows are as they were written. Note the head elsewhere: {checked['head']}"
        tick(ok=True, text=text)
    else:
        tick(ok=False, text=f"row {checked['seq']}: {checked['reason']}")
    raise typer.Exit(0 if checked["ok"] else 1)


@app.command()
def export(file: ExportFile) -> None:
    """Write the log into a file, one row a line."""
    rows = _export(Client(), file)
    tick(ok=True, text=f"{len(rows)} rows are in {file}")


@app.command()
def archive(file: ExportFile) -> None:
    """Export the log, and take all its rows but the newest out of the database; it goes on from their last hash."""
    client = Client()
    ends = _export(client, file)
    checked = _check(_lines(file), None)
    if not checked["ok"]:
        raise Refused("audit_broken", f"Row {checked['seq']}: {checked['reason']}.", "Find out why, before rows go.")
    if len(ends) < 2:  # noqa: PLR2004 - the newest stays
        raise Refused("nothing_to_archive", "The log has fewer than two rows.", "There is nothing to do.")
    seq, hash_ = ends[-2]
    removed = client.post(f"{PATH}/{seq}/archive", {"hash": hash_})["removed"]
    tick(ok=True, text=f"{removed} rows are in {file}, and no longer in the database")


def _rows(client: Client) -> Iterator[dict[str, Any]]:
    return pages(client, PATH, "entries", forward=True, limit=PAGE)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or not row.keys() >= {"seq", "hash", "previous", "action"}:
                raise Refused("no_audit_row", f"Line {number} of {file} is no row of the log.", "Export it again.")
            yield row


def _read_head(head: str | None) -> tuple[int, str] | None:
    seq, _, hash_ = (head or "").partition(":")
    if head is not None and not (seq.isdecimal() and hash_):
        raise Refused("invalid_head", f"{head!r} is no head.", "Give it as verify printed it: SEQ:HASH.")
    return None if head is None else (int(seq), hash_)


def _check(rows: Iterator[dict[str, Any]], noted: tuple[int, str] | None) -> dict[str, Any]:
    """Walks all rows; `noted` is the head that somebody has kept."""
    from shared.db.audit import Chain, broken

    chain, found = Chain(), []

    def passing() -> Iterator[dict[str, Any]]:
        for row in rows:
            if noted is not None and row["seq"] == noted[0]:
                found.append(row["hash"])
            yield row

    fault = broken(passing(), chain)
    if fault is None and noted is not None and found != [noted[1]]:
        fault = noted[0], "it has another hash than was noted" if found else "it was noted, and is not there"
    told = {"ok": fault is None, "rows": chain.rows, "head": f"{chain.seq}:{chain.hash}" if chain.rows else None}
    return told if fault is None else {**told, "seq": fault[0], "reason": fault[1]}


def _export(client: Client, file: Path) -> list[tuple[int, str]]:
    """The seq and hash of each row that is in the file then; it is there whole, or not at all."""
    part = file.with_name(f"{file.name}.part")
    ends = []
    with part.open("x", encoding="utf-8") as lines:
        for row in _rows(client):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            ends.append((row["seq"], row["hash"]))
        lines.flush()
        os.fsync(lines.fileno())
    part.rename(file)
    return ends
