"""From a reference to a model on disk: `modelyard pull`, `check`, `request`, `ensure`."""

from difflib import get_close_matches
from typing import Annotated

import typer
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson, ModelName, OnNode, PriorityOption, WaitFor, priority_named
from api.cli.terminal import checked, end, facts, follow, out, pages, print_json, size_text
from shared.refs import parse_ref, slug
from shared.states import EMBEDDING

app = typer.Typer()


@app.command()
def pull(
    ref: Annotated[
        str,
        typer.Argument(
            help="A model id of the registry, or hf:owner/name[@rev], https://…, ollama:name[:tag], file:/path"
        ),
    ],
    *,
    id: Annotated[str | None, typer.Option("--id", help="Id to give it.")] = None,  # noqa: A002 - its public name
    type: Annotated[str, typer.Option("--type", help="What it is for, such as llm.")] = "llm",  # noqa: A002 - its public name
    checksum: Annotated[str | None, typer.Option(help="sha256:… or md5:… that a URL's file must have.")] = None,
    priority: PriorityOption = None,
    node: OnNode = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is there.")] = False,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Download a model, adding it to the registry if it is new."""
    client = Client()
    wanted = priority_named(priority) if priority else None
    model_id = _register(client, ref, id, type, checksum) if ":" in ref else _known(ref)
    body = {"model_id": model_id, "force_redownload": force, "priority": wanted, "node": node}
    end(client, client.post("/api/v1/models/download", body), wait=wait, as_json=as_json)


def _known(text: str) -> str:
    """An id of the registry, as typed.

    Raises:
        Refused: it can be none; the hint tells what it may have been meant for.
    """
    if "/" not in text:
        return text
    meant = f"file:{text}" if text.startswith("/") else f"hf:{text}"
    raise Refused("invalid_reference", f"{text!r} is no model id.", f"Did you mean {meant}?")


def _check_type(client: Client, model_type: str) -> None:
    """Any type may be new; one that is nearly a type that there is was mistyped.

    Raises:
        Refused
    """
    known = {EMBEDDING, *(model["modelType"] for model in pages(client, "/api/v1/models", "models"))}
    if model_type not in known and (meant := get_close_matches(model_type, known, 1)):
        raise Refused("unknown_type", f"There is no type {model_type!r}.", f"Did you mean --type {meant[0]}?")


def _register(client: Client, text: str, model_id: str | None, model_type: str, checksum: str | None) -> str:
    """Enter the reference in the registry unless it is there already. Answers its id."""
    ref = parse_ref(text)
    _check_type(client, model_type)
    model_id = model_id or slug(ref.location.rstrip("/").rpartition("/")[2])
    body = {
        "model_id": model_id, "model_type": model_type, "name": ref.location.rpartition("/")[2] or ref.location,
        "source": ref.kind, "source_url": ref.location, "revision": ref.revision, "checksum": checksum,
    }  # fmt: skip
    try:
        client.post("/api/v1/models/add", body)
    except Refused as refusal:
        there = client.get(f"/api/v1/models/{model_id}") if refusal.code == "model_exists" else None
        if there is None or (there["source"], there["sourceUrl"]) != (ref.kind, ref.location):
            raise
        # A reference always says which revision; a checksum that is not typed again is still to be met.
        wanted = {"revision": ref.revision, **({"checksum": checksum} if checksum else {})}
        if wanted != {name: there[name] for name in wanted}:
            client.patch(f"/api/v1/models/{model_id}", wanted)
    return model_id


@app.command()
def check(
    ref: Annotated[
        str, typer.Argument(help="A model id of the registry, or a reference as `modelyard pull` takes it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Ask a source whether it has a model, who may have it and how large it is; nothing is fetched."""
    client = Client()
    if ":" in ref and not ref.startswith("."):
        found = parse_ref(ref)
        body = {"source": found.kind, "source_url": found.location, "revision": found.revision}
        accepted = client.post("/api/v1/models/source/check", body)
    else:
        accepted = client.post(f"/api/v1/models/{_known(ref)}/source/check")
    job = checked(follow(client, accepted, quiet=True))
    facts(job["result"], as_json)


@app.command()
def request(
    model_id: ModelName,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Set about what is missing.")] = True,
    as_json: AsJson = False,
) -> None:
    """Ask for a model: is it ready, what happens next, how long it takes, what is ready now instead."""
    facts(Client().post(f"/api/v1/models/{model_id}/request", {"start": start}), as_json)


@app.command()
def ensure(
    policy: Annotated[str, typer.Option(help="repair, wanted or all.")] = "wanted",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the order.")] = False,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Have what is damaged repaired and what is missing fetched; damaged first, then by priority and use."""
    client = Client()
    if not dry_run:
        end(client, client.post("/api/v1/models/ensure", {"policy": policy}), wait=wait, as_json=as_json)
        return
    order = client.get("/api/v1/models/ensure", policy=policy)
    if as_json:
        print_json(order)
        return
    table = Table("MODEL", "BY", "PRIORITY", "SIZE", "WHY", box=None)
    for step in order["steps"]:
        table.add_row(step["modelId"], step["bring"], step["priority"], size_text(step["size"]), step["why"])
    out.print(table)
