"""`modelyard …`: a client over HTTP with tables for people and `--json` for scripts; and `up`, which runs it all."""

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from api.cli import (
    audit,
    bundles,
    database,
    fit,
    health,
    keys,
    limits,
    locks,
    profiles,
    pull,
    registry,
    retention,
    schedules,
    upkeep,
    webhooks,
)
from api.cli.client import Client
from api.cli.options import AsJson, JobName, ModelName, OnNode, WaitFor, priority_named
from api.cli.terminal import announce, end, facts, out, pages, print_json, refuse, report, size_text, tick, title
from shared.errors import Invalid, ModelyardError
from shared.states import JobState

app = typer.Typer(
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Gets AI models onto your machines, proves them whole, and swaps them without cutting anyone off.",
)  # fmt: skip

app.add_typer(pull.app)
app.add_typer(upkeep.app)
app.add_typer(retention.app)
app.add_typer(fit.app)
app.add_typer(database.app)
app.add_typer(health.app)
app.add_typer(locks.app, name="lock")
app.add_typer(bundles.app, name="bundle")
app.add_typer(limits.app, name="limits")
app.add_typer(schedules.app, name="schedules")
app.add_typer(audit.app, name="audit")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="key")
app.add_typer(registry.app, name="registry")
app.add_typer(profiles.app, name="profile")

ID = Column("ID", no_wrap=True)  # people copy it
SHORT_ID = 8
"""Characters of a job's id that are shown; commands take any start that fits one job only."""


def main() -> None:
    """Entry point; a refusal is one line with its next step, and exit code 1; 78 where a setting of ours is wrong."""
    try:
        app()
    except ModelyardError as error:
        refuse(error)
        sys.exit(os.EX_CONFIG if isinstance(error, Invalid) else 1)


# -- models -------------------------------------------------------------------------------------------------


@app.command("ls")
def list_models(
    type: Annotated[str | None, typer.Option("--type")] = None,  # noqa: A002 - its public name
    status: Annotated[str | None, typer.Option("--status")] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="fast, balanced or powerful.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="In id or name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Models of the registry: those that are installed or wanted first, then the rest of the catalogue."""
    models = list(pages(Client(), "/api/v1/models", "models", type=type, status=status, tier=tier, text=text))
    if as_json:
        print_json(models)
        return
    models.sort(key=lambda model: not model["wanted"])  # what only stands in the catalogue comes last
    table = Table(ID, "TYPE", "STATUS", "SIZE", "ACTIVE", "MEMORY", "SOURCE", box=None)
    for model in models:
        size = model["size"] or model["fileSize"]
        active = "●" if model["active"] else ""
        memory = " ".join(filter(None, (model["loadState"], "pinned" if model["pinned"] else "")))
        source = f"{model['source']}:{model['sourceUrl']}"
        state = model["status"] if model["wanted"] else "in the catalogue"
        table.add_row(model["modelId"], model["modelType"], state, size_text(size), active, memory, source)
    out.print(table)


@app.command()
def show(model_id: ModelName, as_json: AsJson = False) -> None:
    """One model, whole."""
    facts(Client().get(f"/api/v1/models/{model_id}"), as_json)


@app.command()
def activate(model_id: ModelName, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Load a model and make it serve its type; the one before is drained, never cut."""
    client = Client()
    end(client, client.post("/api/v1/models/activate", {"model_id": model_id}), wait=wait, as_json=as_json)


@app.command()
def unload(model_id: ModelName, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Take a model out of memory once its requests have ended."""
    client = Client()
    end(client, client.post(f"/api/v1/models/deactivate/{model_id}"), wait=wait, as_json=as_json)


@app.command()
def rm(
    model_id: ModelName,
    force: Annotated[bool, typer.Option("--force", help="Also where it is pinned, or another model needs it.")] = False,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Remove a model: its files to the trash, its entry from the registry."""
    client = Client()
    query = "?force=true" if force else ""
    end(client, client.delete(f"/api/v1/models/{model_id}{query}"), wait=wait, as_json=as_json)


@app.command()
def scan(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Folders or files; all of MODEL_SCAN_PATH where none is named.")
    ] = None,
    node: OnNode = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Find models in your own folders, and use them where they lie."""
    client = Client()
    named = [os.path.abspath(path) for path in paths or []]  # noqa: PTH100 - links are left for the service
    accepted = client.post("/api/v1/models/rescan", {"paths": named, "node": node})
    job = end(client, accepted, wait=wait, as_json=as_json)
    for skipped in [] if as_json else (job["result"] or {}).get("skipped", []):
        out.print(f"  left out {skipped['path']}: {skipped['reason']}", highlight=False)


# -- jobs ---------------------------------------------------------------------------------------------------


@app.command()
def jobs(
    job_id: Annotated[str | None, typer.Argument(help="One job, whole.")] = None,
    status: Annotated[str | None, typer.Option("--status")] = None,
    limit: Annotated[int, typer.Option("--limit")] = 20,
    as_json: AsJson = False,
) -> None:
    """Jobs, newest first; or one of them."""
    client = Client()
    if job_id:
        facts(client.get(f"/api/v1/jobs/{_whole_id(client, job_id)}"), as_json)
        return
    found = client.get("/api/v1/jobs", status=status, limit=limit)["jobs"]
    if as_json:
        print_json(found)
        return
    table = Table("ID", "KIND", "MODEL", "STATUS", "PRIORITY", "DONE", "AT", box=None)
    for job in found:
        progress = "" if job["progress"] is None else f"{job['progress']:.0%}"
        when = job["createdAt"][11:19]
        table.add_row(job["id"][:SHORT_ID], job["kind"], job["modelId"], job["status"], job["priority"], progress, when)
    out.print(table)


def _control(action: str, job_id: str, as_json: bool) -> None:
    client = Client()
    job = client.post(f"/api/v1/jobs/{_whole_id(client, job_id)}/{action}")
    asked = f", {action} asked for" if job["status"] == JobState.RUNNING and action in ("cancel", "pause") else ""
    print_json(job) if as_json else out.print(f"{title(job)}: {job['status']}{asked}")


def _whole_id(client: Client, start: str) -> str:
    """The id of the job that starts so; an id that fits none or several goes on as it is, to be refused."""
    fits = [job["id"] for job in client.get("/api/v1/jobs", limit=500)["jobs"] if job["id"].startswith(start)]
    return fits[0] if len(fits) == 1 else start


@app.command()
def cancel(job_id: JobName, as_json: AsJson = False) -> None:
    """Cancel a job."""
    _control("cancel", job_id, as_json)


@app.command()
def pause(job_id: JobName, as_json: AsJson = False) -> None:
    """Pause a job; what it has proven stays."""
    _control("pause", job_id, as_json)


@app.command()
def resume(job_id: JobName, as_json: AsJson = False) -> None:
    """Resume a paused job."""
    _control("resume", job_id, as_json)


@app.command()
def retry(job_id: JobName, as_json: AsJson = False) -> None:
    """Queue a failed or cancelled job again."""
    _control("retry", job_id, as_json)


@app.command()
def priority(
    job_id: JobName,
    name: Annotated[str, typer.Argument(help="CRITICAL, HIGH, MEDIUM or LOW.")],
    as_json: AsJson = False,
) -> None:
    """Give a waiting or running job another priority."""
    client = Client()
    job = client.patch(f"/api/v1/jobs/{_whole_id(client, job_id)}", {"priority": priority_named(name)})
    print_json(job) if as_json else out.print(f"{title(job)}: {job['priority']}")


# -- the service --------------------------------------------------------------------------------------------


@app.command()
def status(as_json: AsJson = False) -> None:
    """Is the service ready, and what is each part doing."""
    report(Client().ready(), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Find what is wrong and name the fix."""
    from api.cli.doctor import examine

    with closing(Client()) as client:
        findings = examine(client)
    if as_json:
        print_json(findings)
    for finding in [] if as_json else findings:
        tick(finding["ok"], finding["what"])
        if not finding["ok"]:
            out.print(f"    → {finding['fix']}")
    sys.exit(0 if all(finding["ok"] or not finding["needed"] for finding in findings) else 1)


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to bind.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder of the state.")] = None,
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Run Flower too.")] = True,
    profile: Annotated[str | None, typer.Option(help="The profile to apply; see `modelyard profile`.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure-no-auth-i-understand", help="Let in whoever can reach it, without a key.")
    ] = False,
) -> None:
    """Run the whole service on this machine, in the foreground."""
    from deploy.local import up as run
    from shared.settings import load

    settings = load()
    changes = {"host": host, "port": port, "insecure_no_auth": insecure or None}
    settings.api = settings.api.model_copy(update={name: value for name, value in changes.items() if value is not None})
    settings.data_dir = Path(data_dir) if data_dir else settings.data_dir
    settings.active_profile = profile or settings.active_profile
    sys.exit(run(settings, flower=flower, announce=announce))


@app.command()
def demo(stay: Annotated[bool, typer.Option("--stay", help="Keep it up afterwards.")] = False) -> None:
    """Show it all on models made on the spot: download, proof, swap under load, damage and repair."""
    command = [sys.executable, "-m", "deploy.demo", *(["--stay"] if stay else [])]
    os.execv(sys.executable, command)  # noqa: S606 - its own process: it uses rooms that this client may not
