"""`modelyard webhooks`: have other services told what happens here."""

import time
from typing import Annotated, Any

import typer
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson
from api.cli.terminal import facts, out, print_json, tick

app = typer.Typer(help="Have other services told what happens here: signed, and again until they take it.")

PATH = "/api/v1/webhooks"
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 30.0

Name = Annotated[str, typer.Argument(help="Id, as `modelyard webhooks` shows it.")]


@app.callback(invoke_without_command=True)
def webhooks(context: typer.Context, as_json: AsJson = False) -> None:
    """Alone, all webhooks and what waits for them."""
    if context.invoked_subcommand is not None:
        return
    found = Client().get(PATH)["webhooks"]
    if as_json:
        print_json(found)
        return
    table = Table("ID", "URL", "EVENTS", "MODELS", "STATE", "PENDING", "DEAD", box=None)
    for hook in found:
        events, models = " ".join(hook["events"]), " ".join(hook["models"]) or "all"
        state = _state(hook)
        table.add_row(hook["id"], hook["url"], events, models, state, str(hook["pending"]), str(hook["dead"]))
    out.print(table)


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where to POST to.")],
    event: Annotated[list[str] | None, typer.Option(help="A type, job.* or *; may be named again.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only what concerns it; may be named again.")] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add one. Prints its secret: now, and never again."""
    body = {"url": url, "events": event or ["*"], "models": model or [], "description": description}
    facts(Client().post(PATH, body), as_json)


@app.command()
def show(webhook_id: Name, as_json: AsJson = False) -> None:
    """One webhook, whole."""
    facts(Client().get(f"{PATH}/{webhook_id}"), as_json)


@app.command()
def events(as_json: AsJson = False) -> None:
    """What there is to be told."""
    types = Client().get(PATH)["eventTypes"]
    if as_json:
        print_json(types)
        return
    table = Table("EVENT", "MEANS", box=None)
    for name, meaning in types.items():
        table.add_row(name, meaning)
    out.print(table)


@app.command()
def enable(webhook_id: Name, as_json: AsJson = False) -> None:
    """Tell it again; what waited for it goes first."""
    _change(webhook_id, {"enabled": True}, as_json)


@app.command()
def disable(webhook_id: Name, as_json: AsJson = False) -> None:
    """Tell it nothing for the time being."""
    _change(webhook_id, {"enabled": False}, as_json)


@app.command()
def rotate(webhook_id: Name, as_json: AsJson = False) -> None:
    """Make a new secret and print it; for a day messages are signed with the old one, too."""
    facts(Client().patch(f"{PATH}/{webhook_id}", {"rotateSecret": True}), as_json)


@app.command()
def rm(webhook_id: Name, as_json: AsJson = False) -> None:
    """Remove one, and its deliveries."""
    answer = Client().delete(f"{PATH}/{webhook_id}")
    print_json(answer) if as_json else tick(ok=True, text=f"{webhook_id} is told nothing any more")


@app.command()
def deliveries(
    webhook_id: Name,
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    as_json: AsJson = False,
) -> None:
    """What it was told, newest first."""
    found = Client().get(f"{PATH}/{webhook_id}/deliveries", state=state, limit=limit)["deliveries"]
    if as_json:
        print_json(found)
        return
    table = Table("ID", "AT", "EVENT", "MODEL", "STATE", "TRIES", "STATUS", "WHY", box=None)
    for each in found:
        why = each["error"]["message"] if each["error"] else ""
        status = "" if each["status"] is None else str(each["status"])
        table.add_row(
            each["id"], each["createdAt"][:19], each["event"], each["modelId"], each["state"], str(each["tries"]),
            status, why,
        )  # fmt: skip
    out.print(table)


@app.command()
def replay(
    webhook_id: Name,
    delivery_id: Annotated[str | None, typer.Argument(help="One delivery; all dead ones where none is named.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send again what was not taken, or one that was."""
    client = Client()
    named = [delivery_id] if delivery_id is not None else _dead(client, webhook_id)
    replayed = [client.post(f"{PATH}/{webhook_id}/deliveries/{each}/replay") for each in named]
    print_json(replayed) if as_json else tick(ok=True, text=f"{len(replayed)} are sent again")


@app.command("test")
def send_test(webhook_id: Name, as_json: AsJson = False) -> None:
    """Send it something now, and say what came of it; exit code 1 where it did not take it."""
    client = Client()
    asked = client.post(f"{PATH}/{webhook_id}/test")
    until = time.monotonic() + PATIENCE_SECONDS
    while asked["state"] == "pending" and not asked["tries"] and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        found = client.get(f"{PATH}/{webhook_id}/deliveries", limit=500)["deliveries"]
        asked = next((each for each in found if each["id"] == asked["id"]), asked)
    if as_json:
        print_json(asked)
    if asked["state"] != "delivered":
        error = asked["error"] or {
            "code": "webhook_waits", "message": "No worker has sent it yet.", "hint": "modelyard status",
        }  # fmt: skip
        raise Refused(error["code"], error["message"], error["hint"])
    if not as_json:
        tick(ok=True, text=f"its receiver answered {asked['status']}")


def _state(hook: dict[str, Any]) -> str:
    if not hook["enabled"]:
        return "disabled"
    return f"{hook['failures']} failures" if hook["failures"] else "well"


def _change(webhook_id: str, body: dict[str, Any], as_json: bool) -> None:
    hook = Client().patch(f"{PATH}/{webhook_id}", body)
    print_json(hook) if as_json else tick(ok=True, text=f"{webhook_id}: {_state(hook)}")


def _dead(client: Client, webhook_id: str) -> list[str]:
    found = client.get(f"{PATH}/{webhook_id}/deliveries", state="dead", limit=500)["deliveries"]
    return [each["id"] for each in found]
