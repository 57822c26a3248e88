"""`modelyard bundle`: models in one file, for machines without internet.

The service writes to and reads from one folder of its own. Where it runs on this machine, files are brought there and
taken from there; elsewhere it is told where they are.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson, WaitFor
from api.cli.terminal import end, err, out, print_json, size_text
from shared.refs import slug

app = typer.Typer(help="Models in one file, for machines without internet.", no_args_is_help=True)

BUNDLES = "/api/v1/models/bundles"
SUFFIX = ".tar"
COPY_BYTES = 4 * 1024**2
OUR_MACHINE = ("127.0.0.1", "localhost", "::1")


@app.command()
def export(
    models: Annotated[list[str], typer.Argument(help="Model ids, as `modelyard ls` shows them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; in the folder of bundles where it is left out.")
    ] = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Write models, their lock and every file of theirs into one file; each byte is proven on the way."""
    client = Client()
    name = output.name if output else f"{models[0]}{SUFFIX}"
    if output is not None and output.exists():
        raise Refused("file_exists", f"{output} is there already.", "Choose another name, or delete it.")
    accepted = client.post(BUNDLES, {"name": name, "models": models})
    job = end(client, accepted, wait=wait, as_json=as_json)
    if not job["result"]:
        return
    made = Path(job["result"]["path"])
    if output is not None:
        _take(client, made, output, job["result"]["sha256"])
    if not as_json:
        out.print(f"{job['result']['sha256']}  {output or made}", highlight=False, soft_wrap=True)
        err.print(f"  → there: modelyard bundle import {name} --sha256 {job['result']['sha256']}", soft_wrap=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A bundle, or the name of one in the folder of bundles.")],
    sha256: Annotated[str | None, typer.Option(help="What the file must have, as its maker told.")] = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Take the models out of a bundle: all of it is proven before any of it is there to be used."""
    client = Client()
    body = {"sha256": sha256.lower()} if sha256 else None
    with _within_reach(client, file, wait=wait) as name:
        end(client, client.post(f"{BUNDLES}/{name}/import", body), wait=wait, as_json=as_json)


@app.command("ls")
def list_bundles(as_json: AsJson = False) -> None:
    """The folder of bundles, and what lies there."""
    found = Client().get(BUNDLES)
    if as_json:
        print_json(found)
        return
    table = Table("BUNDLE", "SIZE", "WRITTEN", box=None)
    for bundle in found["bundles"]:
        table.add_row(bundle["name"], size_text(bundle["size"]), bundle["writtenAt"][:16].replace("T", " "))
    out.print(table)
    out.print(f"in {found['folder']} on the machine of the io worker", highlight=False, soft_wrap=True)


def _take(client: Client, made: Path, output: Path, sha256: str) -> None:
    """Move the bundle to where it is wanted.

    Raises:
        Refused: it lies on another machine, or cannot be read from here; says where.
    """
    if not _is_here(client) or not os.access(made, os.R_OK):
        raise Refused(
            "bundle_elsewhere", f"The bundle is whole, at {made} on the machine of the service.",
            f"Copy it from there, for example: scp SERVICE:{made} {output}",
        )  # fmt: skip
    try:
        with suppress(OSError):  # of two disks
            made.rename(output)
            return
        _copy(made, output, sha256)
        made.unlink()
    except OSError as error:
        hint = f"It is whole at {made}."
        raise Refused("cannot_write", f"{output} cannot be written: {error.strerror}.", hint) from error


@contextmanager
def _within_reach(client: Client, file: Path, *, wait: bool) -> Iterator[str]:
    """The name under which the service finds the file; what was put there for that goes again afterwards."""
    if not file.exists() or not _is_here(client):
        if file.name != str(file):
            raise Refused(
                "bundle_elsewhere", f"{file} is not where the service could read it.",
                f"Copy it to {client.get(BUNDLES)['folder']} on its machine, then: modelyard bundle import {file.name}",
            )  # fmt: skip
        yield file.name
        return
    folder = Path(client.get(BUNDLES)["folder"])
    if file.resolve().parent == folder.resolve():
        yield file.name
        return
    guest = folder / f"{slug(file.stem)}-{secrets.token_hex(4)}{SUFFIX}"
    try:
        folder.mkdir(mode=0o750, exist_ok=True)
        _link_or_copy(file, guest)
    except OSError as error:
        hint = f"Copy it to {folder} as somebody who may, then: modelyard bundle import {file.name}"
        raise Refused("cannot_write", f"{folder} cannot be written: {error.strerror}.", hint) from error
    try:
        yield guest.name
    finally:
        if wait:
            guest.unlink(missing_ok=True)


def _link_or_copy(file: Path, guest: Path) -> None:
    try:
        os.link(file.resolve(), guest)
    except OSError:
        _copy(file, guest, None)


def _copy(source: Path, target: Path, sha256: str | None) -> None:
    """Copy whole or not at all.

    Raises:
        Refused: it did not arrive as it left.
    """
    draft, digest = target.with_name(f".{target.name}.draft"), hashlib.sha256()
    err.print(f"copying {source.name} to {target.parent} …", highlight=False)
    try:
        with source.open("rb") as whole, draft.open("wb") as copy:
            while part := whole.read(COPY_BYTES):
                digest.update(part)
                copy.write(part)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copymode(source, draft)
        if sha256 not in (None, digest.hexdigest()):
            raise Refused("bundle_damaged", f"{source} is not what was written.", "Export it again.")
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)


def _is_here(client: Client) -> bool:
    return urlsplit(client.url).hostname in OUR_MACHINE
