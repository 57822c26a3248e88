"""Commands that keep models in health: verify, repair, update, roll back, and what the store and its trash hold."""

from typing import Annotated, Any

import typer
from rich.table import Column, Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson, ModelName, WaitFor
from api.cli.terminal import end, out, pages, print_json, size_text
from shared.states import Availability, JobState, VerifyTier

app = typer.Typer()
ID = Column("ID", no_wrap=True)
ON_DISK = (Availability.AVAILABLE, Availability.CORRUPTED)


@app.command()
def verify(
    model_id: ModelName,
    tier: Annotated[
        VerifyTier,
        typer.Option(help="stat: a look; blake3: every byte; source: every byte, also against what its source says."),
    ] = VerifyTier.BLAKE3,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Prove a model's files again; exit code 1 if anything is missing or damaged."""
    client = Client()
    job = end(client, client.post(f"/api/v1/models/{model_id}/verify?tier={tier}"), wait=wait, as_json=as_json)
    if job["status"] == JobState.SUCCEEDED and not job["result"]["ok"]:
        raise Refused("model_corrupt", f"{model_id} is damaged.", f"modelyard repair {model_id}")


@app.command()
def repair(model_id: ModelName, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Fetch again what is missing or damaged, and only that."""
    client = Client()
    end(client, client.post(f"/api/v1/models/{model_id}/repair"), wait=wait, as_json=as_json)


@app.command()
def update(
    model_id: Annotated[str | None, typer.Argument(help="One model; all that are on disk where none is named.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Ask for newer revisions, and fetch nothing.")] = False,
    new_history: Annotated[
        bool,
        typer.Option("--accept-new-history", help="Also where the source knows the installed revision no more."),
    ] = False,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Fetch what has changed in newer revisions; what serves goes on serving until the new one is proven."""
    if check and new_history:
        raise typer.BadParameter(
            "It decides what an update does; --check only asks.", param_hint="--accept-new-history"
        )
    client = Client()
    named = [model_id] if model_id else [found["modelId"] for found in _updatable(client)]
    action = "update/check" if check else f"update?accept_new_history={'true' if new_history else 'false'}"
    asked = [client.post(f"/api/v1/models/{name}/{action}") for name in named]
    for accepted in asked:
        end(client, accepted, wait=wait, as_json=as_json)


@app.command()
def rollback(model_id: ModelName, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Go back to the revision before the last update."""
    client = Client()
    end(client, client.post(f"/api/v1/models/{model_id}/rollback"), wait=wait, as_json=as_json)


@app.command()
def storage(as_json: AsJson = False) -> None:
    """What the store holds, and what the disk has left."""
    info = Client().get("/api/v1/models/storage/info")
    if as_json:
        print_json(info)
        return
    totals = Table(box=None, show_header=False)
    for name in ("diskFree", "diskTotal", "modelsSize", "sharedBytes", "partialsSize", "trashSize"):
        totals.add_row(name, size_text(info[name]))
    out.print(totals)
    table = Table(ID, "TYPE", "SIZE", "OWN", "REVISIONS", box=None)
    for store in info["stores"]:
        for model in store["models"]:
            sizes = size_text(model["size"]), size_text(model["ownBytes"])
            table.add_row(model["modelId"], model["modelType"], *sizes, str(model["revisions"]))
    out.print(table)
    for store in info["stores"]:
        _tell_oddities(store)


@app.command()
def trash(as_json: AsJson = False) -> None:
    """What left the store, and when it goes for good."""
    found = Client().get("/api/v1/models/trash")
    if as_json:
        print_json(found)
        return
    table = Table("MODEL", "FREES", "GOES", ID, "", box=None)
    for entry in found["entries"]:
        goes = entry["goesAt"][:16].replace("T", " ")
        note = "" if entry["restorable"] else "replaced by a repaired one"
        table.add_row(entry["modelId"], size_text(entry["size"]), goes, entry["id"], note)
    out.print(table)


@app.command()
def restore(
    entry: Annotated[str, typer.Argument(help="Its id in `modelyard trash`, the start of it, or the model's id.")],
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Bring a model, or an earlier revision of one, back from the trash."""
    client = Client()
    whole = _whole_entry(client, entry)
    end(client, client.post(f"/api/v1/models/trash/{whole}/restore"), wait=wait, as_json=as_json)


def _whole_entry(client: Client, text: str) -> str:
    """The one entry of the trash that this stands for.

    Raises:
        Refused: several could be meant.
    """
    entries = [entry for entry in client.get("/api/v1/models/trash")["entries"] if entry["restorable"]]
    found = [entry["id"] for entry in entries if entry["modelId"] == text or entry["id"].startswith(text)]
    if text in found or not found:
        return text
    if len(found) > 1:
        raise Refused("ambiguous", f"{text!r} stands for {len(found)} entries.", f"Name one: {', '.join(found)}")
    return str(found[0])


def _updatable(client: Client) -> list[dict[str, Any]]:
    models = pages(client, "/api/v1/models", "models")
    return [model for model in models if model["status"] in ON_DISK and model["source"] in ("huggingface", "url")]


def _tell_oddities(store: dict[str, Any]) -> None:
    if not store["there"]:
        out.print(f"The disk of the store on {store['node']} is not mounted; this is what was known before.")
    for name, what in (("orphans", "not in the registry"), ("rowsWithoutFolder", "not on the disk")):
        for folder in store[name]:
            out.print(f"{what}: {folder['modelType']}/{folder['modelId']}/{folder['revision']}", highlight=False)
