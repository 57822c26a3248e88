"""`modelyard profile`: which models are enabled and how they run, as one word."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from api.cli.client import Client, Refused
from api.cli.options import AsJson, WaitFor
from api.cli.terminal import end, out, print_json, size_text, tick

app = typer.Typer(help="Which models are enabled and how they run: shown, made, planned and applied as one.")

PATH = "/api/v1/models/profiles"
Name = Annotated[str, typer.Argument(help="Its name in `modelyard profile ls`.")]


@app.callback(invoke_without_command=True)
def profile(context: typer.Context) -> None:
    """Alone, the same as `modelyard profile ls`."""
    if context.invoked_subcommand is None:
        list_profiles()


@app.command("ls")
def list_profiles(as_json: AsJson = False) -> None:
    """All profiles; ● marks the one that was applied last."""
    answer = Client().get(PATH)
    if as_json:
        print_json(answer)
        return
    table = Table("NAME", "APPLIED", "MODELS", "FROM", "DESCRIPTION", box=None)
    for one in answer["profiles"]:
        table.add_row(
            one["name"], "●" if one["active"] else "", str(len(one["enabledModels"])) if one["valid"] else "invalid",
            one["path"] or "REST", one["description"],
        )  # fmt: skip
    out.print(table)
    for one in answer["profiles"]:
        _tell_faults(one)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One profile, in the form of its file."""
    one = Client().get(f"{PATH}/{name}")
    if as_json:
        print_json(one)
    elif one["valid"]:
        kept = {key: one[key] for key in ("name", "description", "enabledModels")}
        settings = {model: _given(each) for model, each in one["settings"].items()}
        out.print(yaml.safe_dump({**kept, "settings": settings}, sort_keys=False), end="", highlight=False)
    _tell_faults(one)


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="A YAML file of that form.", exists=True, dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Also where there is one of its name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a profile of a file; or put the file into the folder of profiles."""
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused("invalid_profile", f"{file} cannot be read: {error}", "docs/profiles.md has the form.") from error
    if not isinstance(body, dict):
        raise Refused("invalid_profile", f"{file} is no profile.", "docs/profiles.md has the form.")
    body = {"name": file.stem, **body}
    client = Client()
    answer = client.put(f"{PATH}/{body['name']}", body) if replace else client.post(PATH, body)
    print_json(answer) if as_json else tick(ok=True, text=f"{answer['name']}: modelyard profile apply {answer['name']}")


@app.command()
def plan(name: Name, as_json: AsJson = False) -> None:
    """What applying it would do, and what does not fit."""
    answer = _plan(Client(), name)
    print_json(answer) if as_json else _print_plan(answer)


@app.command()
def apply(
    name: Name,
    plan_id: Annotated[str | None, typer.Option("--plan", help="Only where this plan is what would be done.")] = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Bring it into force: its models and no others, fetched and loaded."""
    client = Client()
    if not as_json:
        _print_plan(_plan(client, name))
    query = "" if plan_id is None else f"?plan={plan_id}"
    end(client, client.post(f"{PATH}/{name}/apply{query}"), wait=wait, as_json=as_json)


@app.command("rm")
def remove(name: Name, as_json: AsJson = False) -> None:
    """Delete a profile that was made over REST; what it brought about stays."""
    answer = Client().delete(f"{PATH}/{name}")
    print_json(answer) if as_json else tick(ok=True, text=f"{name} is deleted")


def _plan(client: Client, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/api/v1/plan", {"action": "apply-profile", "profile": name})
    return answer


def _print_plan(plan: dict[str, Any]) -> None:
    table = Table("DO", "MODEL", "", box=None)
    for what in ("enable", "disable"):
        for model in plan[what]:
            table.add_row(what, model, "")
    for model, changes in plan["change"].items():
        table.add_row("change", model, ", ".join(f"{key} → {value}" for key, value in changes.items()))
    for what in ("unload", "download"):
        for one in plan[what]:
            table.add_row(what, one["modelId"], "" if one["bytes"] is None else size_text(one["bytes"]))
    for one in plan["load"]:
        table.add_row("activate" if one["servesType"] else "load", one["modelId"], _how(one))
    for model in plan["unchanged"]:
        table.add_row("keep", model, "")
    out.print(table)


def _how(one: dict[str, Any]) -> str:
    if one["error"]:
        return f"does not fit: {one['error']['message']}" if one["error"]["code"] == "will_not_fit" else (
            one["error"]["message"]
        )  # fmt: skip
    need = "" if one["need"] is None else f" {size_text(one['need'])} ± {size_text(one['spread'])}"
    stands_in = "" if one["servedBy"] in (None, one["modelId"]) else f" by {one['servedBy']}"
    return f"on {one['device']}{need}{stands_in}" if one["fits"] else f"on {one['device']}, once it is on disk"


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _tell_faults(one: dict[str, Any]) -> None:
    for fault in one["faults"]:
        field = f"{fault['field']}: " if fault["field"] else ""
        out.print(f"{one['path']}:{fault['line'] or 1}: {field}{fault['message']}", highlight=False)
