"""How things look in a terminal: tables, progress bars, JSON."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from api.cli.client import Client, Refused
from shared.errors import ModelyardError
from shared.states import ENDED, JobState

IN_BYTES = {
    *("size", "fileSize", "memoryBytes", "refetchedBytes", "trashedBytes", "checkedBytes", "sharedBytes"),
    *("bytesToFetch", "bytesDone", "bytesTotal", "bytesPerSecond", "needBytes", "freeBytes", "spreadBytes"),
    *("weightBytes", "weightsBytes", "cacheBytes", "runtimeBytes", "offloadedBytes"),
}  # fmt: skip
EMPTY: tuple[Any, ...] = (None, [], {})
UNTOLD = {"modelId", "modelType", "skipped", "note"}
"""Parts of a result that are shown elsewhere, or not at all."""
PIPED_WIDTH = 200
"""Columns where nobody looks: tables keep their ids whole."""
out = Console(markup=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
err = Console(stderr=True, markup=False)


def refuse(error: ModelyardError) -> None:
    """What went wrong, and the next step."""
    err.print(Text(error.code, "red"), f": {error.message}", sep="", soft_wrap=True)
    if error.hint:
        err.print(f"  → {error.hint}", soft_wrap=True)  # a command in it is copied as it stands


def tick(ok: bool, text: str) -> None:
    """One line with its mark."""
    out.print(Text("✓" if ok else "✗", "green" if ok else "red"), text)


def end(client: Client, accepted: dict[str, Any], *, wait: bool, as_json: bool) -> dict[str, Any]:
    """Show a job to its end, and what came of it.

    Raises:
        Refused: the job failed or was cancelled.
    """
    job = follow(client, accepted, quiet=as_json) if wait else accepted["job"]
    if as_json:
        print_json(job)
    elif job["status"] == JobState.SUCCEEDED:
        result = job["result"] or {}
        tick(result.get("ok", True), f"{title(job)}: {_brief(result)}")
    elif job["status"] not in ENDED:
        out.print(
            f"{title(job)}: {job['status']}. Follow it: modelyard jobs {job['id']}", highlight=False, soft_wrap=True
        )
    return checked(job)


def title(job: dict[str, Any]) -> str:
    """What the job does, and to which model."""
    return f"{job['kind']} {job['modelId']}" if job["modelId"] else str(job["kind"])


def _about(job: dict[str, Any]) -> str:
    return str(job["modelId"] or job["kind"])


def follow(client: Client, accepted: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Watch a job to its end. Ctrl-C ends the watching (exit code 130), not the job."""
    job: dict[str, Any] = accepted["job"]
    before = signal.signal(signal.SIGINT, lambda *_: _stop_watching(job["id"]))
    try:
        return _watch(client, job, quiet=quiet)
    finally:
        signal.signal(signal.SIGINT, before)


def checked(job: dict[str, Any]) -> dict[str, Any]:
    """Raises: Refused, when the job failed or was cancelled."""
    if job["status"] in (JobState.FAILED, JobState.REJECTED):
        raise Refused(job["error"]["code"], job["error"]["message"], job["error"]["hint"])
    if job["status"] == JobState.CANCELLED:
        raise Refused("cancelled", "The job was cancelled.", f"modelyard retry {job['id']}")
    return job


def _stop_watching(job_id: str) -> None:
    err.print(f"\nThe job goes on. Follow it: modelyard jobs {job_id}; stop it: modelyard cancel {job_id}")
    sys.exit(130)


def _watch(client: Client, job: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
    told = ""
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as progress:
        bar = progress.add_task(f"{_about(job)}: {job['status']}", total=None, detail="")
        for current in client.follow(job["id"]):
            job = current
            _advance(progress, bar, job)
            if not quiet and not err.is_terminal and (news := f"{_doing(job)} {_trouble(job)}".rstrip()) != told:
                err.print(news, soft_wrap=True, highlight=False)  # a log shows no bar, and is not to be silent either
                told = news
    return job


def _doing(job: dict[str, Any]) -> str:
    return f"{_about(job)}: {job['phase'] or job['status']}"


def _trouble(job: dict[str, Any]) -> str:
    """What keeps it from going on, and the way out."""
    if job["status"] == JobState.PAUSED:
        return f"Go on: modelyard resume {job['id']}"
    return str(job["error"]["message"]) if job["error"] and job["status"] not in ENDED else ""


def _advance(progress: Progress, bar: TaskID, job: dict[str, Any]) -> None:
    """One look at the job: bytes, speed and time left as the service measures them."""
    detail = []
    if job["bytesTotal"]:
        detail.append(f"{decimal(job['bytesDone'] or 0)} of {decimal(job['bytesTotal'])}")
    if job["bytesPerSecond"]:
        detail.append(f"{decimal(int(job['bytesPerSecond']))}/s")
    if job["etaSeconds"]:
        detail.append(f"{job['etaSeconds']:.0f} s left")
    if trouble := _trouble(job):
        detail.append(trouble)
    share = None if job["progress"] is None else job["progress"] * 100
    progress.update(
        bar,
        description=_doing(job),
        total=None if share is None else 100,
        completed=share or 0,
        detail="  ".join(detail),
    )


def pages(client: Client, path: str, name: str, **query: Any) -> Iterator[dict[str, Any]]:
    """Every entry of a list that comes in pages."""
    cursor = None
    while True:
        page = client.get(path, cursor=cursor, **query)
        yield from page[name]
        cursor = page["nextCursor"]
        if cursor is None:
            return


def report(readiness: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(readiness)
    else:
        table = Table("PART", "STATE", "DETAIL", box=None)
        for name, part in readiness["parts"].items():
            table.add_row(name, "ok" if part["ok"] else "missing", part["detail"])
        out.print(table)
    sys.exit(0 if readiness["status"] == "ready" else 1)


def facts(thing: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(thing)
        return
    table = Table(box=None, show_header=False)
    for name, value in thing.items():
        if value not in EMPTY:
            table.add_row(_words(name), _said(name, value, "\n"))
    out.print(table)


def _words(name: str) -> str:
    """The name of a field as people write it: `bytesDone` is `bytes done`, and `memoryBytes`, told in MB, `memory`."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda found: f" {found[0].lower()}", name).removesuffix(" bytes")


def _brief(result: dict[str, Any]) -> str:
    untold = UNTOLD if result.get("fallback") else {*UNTOLD, "servedBy"}
    told = {name: value for name, value in result.items() if name not in untold and value}
    if tried := told.get("tried"):
        ways = (f"{way['modelId']} with {way['contextLength']} tokens ({way['code']})" for way in tried)
        told["tried"] = [", then ".join(ways)]
    if result.get("alreadyPresent"):
        return "already there, whole"
    if "repaired" in result and not result["repaired"]:
        return "nothing to repair"
    return ", ".join(f"{_words(name)} {_said(name, value)}" for name, value in told.items()) or "done"


def _said(name: str, value: Any, between: str = ", ") -> str:
    """A value for people.

    Args:
        between: what stands between the fields of one that has several.
    """
    if name in IN_BYTES and isinstance(value, int):
        return size_text(value)
    if isinstance(value, dict):
        there = {key: each for key, each in value.items() if each not in EMPTY}
        return between.join(f"{_words(key)} {_said(key, each)}" for key, each in there.items())
    if isinstance(value, list):
        named = [(each.get("name") or each.get("modelId")) if isinstance(each, dict) else each for each in value]
        if all(named):
            return " ".join(map(str, named))
        return between.join(_said("", each) for each in value)
    if isinstance(value, float):
        return f"{value:.0%}" if name in ("progress", "integrity") else f"{value:.4g}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def size_text(count: int | None) -> str:
    return "" if count is None else decimal(count)


def print_json(thing: Any) -> None:
    sys.stdout.write(json.dumps(thing, indent=2) + "\n")


def announce(instance: Any) -> None:
    """What runs where, once `modelyard up` is ready."""
    table = Table("PROCESS", "PID", "STATE", box=None)
    for process in instance.processes():
        table.add_row(process.name, str(process.pid), process.state)
    out.print(table)
    out.print(f"\nReady. Dashboard {instance.url}/, API {instance.url}/api/v1, its pages {instance.url}/docs")
    if instance.flower_url:
        secret = instance.folder.root / "secrets" / "flower"
        out.print(f"Flower {instance.flower_url}, user modelyard, password in {secret}")
    out.print(f"For the command line elsewhere: export MODELYARD_URL={instance.url}")
