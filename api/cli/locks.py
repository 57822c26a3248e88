"""`modelyard lock`: write what is installed to a file, compare another machine with it, bring that one in line."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from api.cli.client import Client, Refused
from api.cli.options import AsJson, PriorityOption, WaitFor
from api.cli.terminal import checked, err, follow, out, print_json, size_text, tick, title

app = typer.Typer(help="Write models.lock; plan, apply and check it on other machines.")

NAME = "models.lock"
SHORT = 12
"""Characters of a revision that are shown."""
SIGNS = {
    "add": ("+", "green"),
    "change": ("~", "yellow"),
    "repair": ("~", "yellow"),
    "remove": ("-", "red"),
    "keep": ("=", "dim"),
}
BLOCKED = ("!", "red")

LockFile = Annotated[Path, typer.Argument(help="The lock, as `modelyard lock` wrote it.")]
Prune = Annotated[bool, typer.Option("--prune", help="Also move to the trash what the lock does not name.")]


@app.callback(invoke_without_command=True)
def lock(context: typer.Context) -> None:
    """Alone, the same as `modelyard lock write`."""
    if context.invoked_subcommand is None:
        write()


@app.command()
def write(
    models: Annotated[list[str] | None, typer.Argument(help="These alone; all where none is named.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to; - prints it.")] = Path(NAME),
    as_json: AsJson = False,
) -> None:
    """Write down what is installed: sources, pinned revisions, settings, every file with its sha256."""
    from shared.lock import Lock  # to load what checks it takes half as long as all that other commands need

    answer = Client().get("/api/v1/models/lock", model=models or [])
    made = Lock.model_validate(answer["lock"])
    for left in answer["leftOut"]:
        err.print(f"left out {left['modelId']}: {left['reason']} {left['hint']}", highlight=False)
    if str(output) == "-":
        sys.stdout.write(made.text())
        return
    draft = output.with_name(f".{output.name}.draft")
    draft.write_text(made.text(), encoding="utf-8")
    draft.replace(output)
    if as_json:
        print_json(
            {"file": str(output), "models": [entry.model_id for entry in made.models], "leftOut": answer["leftOut"]}
        )
    else:
        tick(ok=True, text=f"{output}: {len(made.models)} models, {size_text(sum(one.size for one in made.models))}")


@app.command()
def plan(file: LockFile = Path(NAME), prune: Prune = False, as_json: AsJson = False) -> None:
    """What `modelyard lock apply` would do; nothing is changed."""
    made = _planned(Client(), _read(file), prune)
    print_json(made) if as_json else _show(made)


@app.command()
def apply(
    file: LockFile = Path(NAME),
    prune: Prune = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and stop there.")] = False,
    priority: PriorityOption = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Show the plan, then carry it out: exactly the locked revisions, every file held to its sha256."""
    client, content = Client(), _read(file)
    made = _planned(client, content, prune)
    if not as_json:
        _show(made)
    elif dry_run:
        print_json(made)
    if dry_run:
        return
    query = f"prune={str(prune).lower()}&plan={made['planId']}{f'&priority={priority.upper()}' if priority else ''}"
    jobs = client.post(f"/api/v1/models/lock/apply?{query}", content)["jobs"]
    ended = [follow(client, {"job": job}, quiet=as_json) if wait else job for job in jobs]
    if as_json:
        print_json({"plan": made, "jobs": ended})
    else:
        for job in ended:
            tick(job["status"] not in ("failed", "cancelled"), f"{title(job)}: {job['status']}")
    for job in ended:
        checked(job)


@app.command()
def drift(
    file: LockFile = Path(NAME),
    verify: Annotated[bool, typer.Option("--verify", help="Hash every byte first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare what is installed with the lock; exit code 1 where they differ."""
    client, content = Client(), _read(file)
    if verify:
        _verify(client, content, quiet=as_json)
    found = client.post("/api/v1/models/lock/drift", content)
    if as_json:
        print_json(found)
    else:
        for finding in found["findings"]:
            _show_differences(finding, Text("≠ ", "red"))
        if not found["drift"]:
            tick(ok=True, text="No drift: what is installed is what the lock says.")
    sys.exit(1 if found["drift"] else 0)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "Write one where the models are: modelyard lock."
        raise Refused("no_lock", f"{file} cannot be read: {error.strerror}.", hint) from error
    except ValueError as error:
        raise Refused("invalid_lock", f"{file} is not JSON: {error}.", "Write it anew: modelyard lock.") from error
    if not isinstance(content, dict):
        raise Refused("invalid_lock", f"{file} is no lock.", "Write it anew: modelyard lock.")
    return content


def _planned(client: Client, content: dict[str, Any], prune: bool) -> dict[str, Any]:
    made: dict[str, Any] = client.post(f"/api/v1/models/lock/plan?prune={str(prune).lower()}", content)
    return made


def _verify(client: Client, content: dict[str, Any], *, quiet: bool) -> None:
    """Have every locked model that is on disk proven; what they are then found to be is told by the comparison."""
    wanted = {entry["modelId"] for entry in content.get("models", [])}
    there = {entry["modelId"] for entry in client.get("/api/v1/models/lock")["lock"]["models"]}
    for accepted in [client.post(f"/api/v1/models/{model_id}/verify") for model_id in sorted(wanted & there)]:
        checked(follow(client, accepted, quiet=quiet))


def _show(made: dict[str, Any]) -> None:
    for step in made["steps"]:
        sign, colour = SIGNS.get(step["action"], BLOCKED)
        _show_differences(step, Text(f"{sign} ", colour))
        if step["bytesToFetch"]:
            out.print(f"    fetches up to {size_text(step['bytesToFetch'])}", highlight=False)
        if step["hint"]:
            out.print(f"    → {step['hint']}", highlight=False)
    if made["extra"]:
        names = ", ".join(made["extra"])
        out.print(f"Not in the lock, left alone: {names}. `--prune` moves them to the trash.", highlight=False)
    counts = ", ".join(f"{count} to {action}" for action, count in made["counts"].items())
    told = f"Plan: {counts}" if counts else "Nothing to do: what is installed is what the lock says"
    out.print(f"{told}; {made['unchanged']} unchanged.", highlight=False)


def _show_differences(finding: dict[str, Any], sign: Text) -> None:
    out.print(sign, finding["modelId"], sep="", highlight=False)
    for difference in finding["differences"]:
        out.print(f"    {_told(difference)}", highlight=False)


def _told(difference: dict[str, Any]) -> str:
    locked, here = difference["locked"], difference["here"]
    if difference["what"] == "files":
        return f"files: locked {', '.join(locked) or 'none'}; here {', '.join(here) or 'none'}"
    plain = {
        "missing": f"not on disk; locked at {str(locked)[:SHORT]}",
        "revision": f"revision: here {str(here)[:SHORT]}, locked {str(locked)[:SHORT]}",
        "damaged": "files are damaged",
        "other_model": f"stands for {here} here, and for {locked} in the lock",
        "extra": "not in the lock",
    }
    return (
        plain.get(difference["what"]) or f"{difference['field']}: here {json.dumps(here)}, locked {json.dumps(locked)}"
    )
