"""The command that moves everything into another database. It needs the service stopped, so it is no client of it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from api.cli.options import AsJson
from api.cli.terminal import out, print_json

app = typer.Typer()


@app.command("migrate-database")
def migrate_database(
    url: Annotated[
        str,
        typer.Argument(help="postgresql+psycopg://USER:PASSWORD@HOST/DATABASE; - to be asked, where no `ps` sees it."),
    ],
    data_dir: Annotated[str | None, typer.Option(help="Folder of the state, as `up` has it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Copy everything into an empty database; the service is stopped first, and started with the new one after it."""
    from shared.db.transfer import shown, transfer
    from shared.settings import load

    url = typer.prompt("URL of the new database", hide_input=True, err=True) if url == "-" else url
    if data_dir:
        os.environ["MODELYARD_DATA_DIR"] = data_dir
    settings = load()
    with _alone(settings.data_dir):
        counts = transfer(settings, url)
    if as_json:
        print_json({"database": shown(url), "rows": counts})
        return
    table = Table("TABLE", Column("ROWS", justify="right"), box=None)
    for name, rows in counts.items():
        table.add_row(name, str(rows))
    out.print(table)
    out.print(
        f"{sum(counts.values())} rows are in {shown(url)}. The old database is untouched; start with the new one:"
    )
    out.print("  export MODELYARD_DATABASE_URL='…'   # the URL that you gave", highlight=False)
    out.print("  modelyard up", highlight=False)


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """No `modelyard up` of this folder runs, or starts meanwhile.

    Raises:
        Conflict: `already_running`.
    """
    from deploy.data_folder import DataFolder

    folder = DataFolder(data_dir.expanduser().absolute())
    if not folder.run.is_dir():
        yield  # `up` never ran here
        return
    lock = folder.lock()
    try:
        yield
    finally:
        os.close(lock)
