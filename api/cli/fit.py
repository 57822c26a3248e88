"""What this machine has, what would run on it, and the change from one model to another, planned or done."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from api.cli.client import Client
from api.cli.options import AsJson, ModelName, PriorityOption, WaitFor, priority_named
from api.cli.terminal import checked, end, follow, out, print_json, size_text

app = typer.Typer()

WORDS = {
    "context": "contextLength", "gpu-layers": "gpuLayers", "device": "device", "precision": "precision",
    "model": "model",
}  # fmt: skip
"""What steps of a fallback are about."""
STEPS = "context=2048, gpu-layers=20, device=cpu, precision=bfloat16 or model=OTHER; several with commas between"
LESS = ("gpuLayers", "device", "precision")
COLOURS = {"full": "green", "partial": "yellow", "none": "red"}


@app.command()
def devices(as_json: AsJson = False) -> None:
    """The devices that models run on, with their memory and who is in it."""
    found = Client().get("/api/v1/system/hardware/profile")
    if as_json:
        print_json(found)
        return
    table = Table("ID", "NAME", "MEMORY", "FREE", "USE", "°C", "IN MEMORY", "", box=None)
    for device in found["devices"]:
        use, degrees = device["utilisation"], device["temperature"]
        inside = " ".join(f"{each['modelId']} {size_text(each['memoryBytes'])}".strip() for each in device["residents"])
        table.add_row(
            device["id"], device["name"], size_text(device["memoryTotal"]), size_text(device["memoryFree"]),
            "" if use is None else f"{use:.0%}", "" if degrees is None else f"{degrees:.0f}", inside,
            device["reason"] or ("" if device["alive"] else "its worker is silent"),
        )  # fmt: skip
    out.print(table)
    if found["noGpu"]:
        out.print(found["noGpu"], style="dim")
    for name, runtime in found["runtimes"].items():
        out.print(f"{name} {runtime.get('version') or runtime['missing']} {runtime.get('hint', '')}".strip())


@app.command()
def nodes(as_json: AsJson = False) -> None:
    """The machines, which of them are away, and how many jobs wait for those."""
    found = Client().get("/api/v1/system/nodes")
    if as_json:
        print_json(found)
        return
    table = Table("NODE", "STORE", "MODELS", "DEVICES", "WAITING", "", box=None)
    for node in found["nodes"]:
        state = "" if node["ioWorker"] else "no io worker" if node["alive"] else "away"
        since = f"{state} since {node['seenAt']}" if state == "away" else state
        table.add_row(
            node["node"], node["store"][:8], str(node["models"]), " ".join(node["devices"]),
            str(node["waitingJobs"] or ""), since,
        )  # fmt: skip
    out.print(table)


@app.command()
def fit(
    model_id: ModelName,
    context: Annotated[int | None, typer.Option(min=128, help="Tokens of context.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a model needs, and whether it fits."""
    client, query = Client(), f"?context_length={context}" if context else ""
    needs = client.get(f"/api/v1/models/{model_id}/requirements{query}")
    told = client.get(f"/api/v1/models/{model_id}/compatibility{query}")
    if as_json:
        print_json({"requirements": needs, "compatibility": told})
        return
    memory = needs["memory"]
    parts = ", ".join(f"{name} {size_text(memory[name])}" for name in ("weights", "cache", "runtime"))
    takes = f"{size_text(memory['total'])} ± {size_text(memory['spread'])} of memory"
    out.print(f"{takes} on {needs['device']} ({memory['basis']}; by its files: {parts})")
    for device in told["devices"]:
        level = device["level"]
        out.print(Text(level, COLOURS[level]), device["device"])
        for issue in device["issues"]:
            out.print(f"  {issue['message']} {issue['recommendation']}")


@app.command()
def switch(
    model_id: ModelName,
    plan_id: Annotated[str | None, typer.Option("--plan", help="Only if this plan still holds.")] = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """The same as activate."""
    client, query = Client(), f"?plan={plan_id}" if plan_id else ""
    end(client, client.post(f"/api/v1/models/{model_id}/switch{query}"), wait=wait, as_json=as_json)


@app.command()
def load(model_id: ModelName, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Bring a model into memory; what serves its type goes on serving it."""
    client = Client()
    end(client, client.post(f"/api/v1/models/{model_id}/load"), wait=wait, as_json=as_json)


@app.command()
def reload(model_id: ModelName, wait: WaitFor = True, as_json: AsJson = False) -> None:
    """Start a model anew; the new runner takes over before the old one stops."""
    client = Client()
    end(client, client.post(f"/api/v1/models/{model_id}/reload"), wait=wait, as_json=as_json)


@app.command()
def run(
    model_id: Annotated[str, typer.Argument(help="A model id, or a type.")],
    prompt: Annotated[str, typer.Argument(help="What to say to it.")],
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    priority: PriorityOption = None,
    wait: WaitFor = True,
    as_json: AsJson = False,
) -> None:
    """Ask a model in a job: behind everybody's requests, and kept in the ledger."""
    client, wanted = Client(), priority_named(priority) if priority else None
    request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    accepted = client.post(f"/api/v1/models/{model_id}/run", {"request": request, "priority": wanted})
    if as_json or not wait:
        end(client, accepted, wait=wait, as_json=as_json)
        return
    job = checked(follow(client, accepted, quiet=False))
    out.print(job["result"]["answer"]["choices"][0]["message"]["content"], highlight=False, soft_wrap=True)


@app.command()
def pin(model_id: ModelName, as_json: AsJson = False) -> None:
    """Keep a model in memory until somebody says otherwise."""
    _pinned(Client().post(f"/api/v1/models/{model_id}/pin"), as_json)


@app.command()
def unpin(model_id: ModelName, as_json: AsJson = False) -> None:
    """Let a model make room again where others need it."""
    _pinned(Client().post(f"/api/v1/models/{model_id}/unpin"), as_json)


@app.command()
def ps(as_json: AsJson = False) -> None:
    """What is in memory, or meant to be."""
    found = Client().get("/api/v1/models/servers")
    if as_json:
        print_json(found)
        return
    table = Table(
        "MODEL", "STATE", "ACTIVE", "RUNTIME", "DEVICE", "MEMORY", "CONTEXT", "PID", "UP", "STANDS IN FOR", box=None
    )
    for each in found["servers"]:
        up = "" if each["uptimeSeconds"] is None else f"{each['uptimeSeconds']:.0f} s"
        others = " ".join(name for name in each["fallbackFor"] if name != each["modelId"])
        table.add_row(
            each["modelId"], each["state"], "●" if each["active"] else "", each["runtime"], each["device"],
            size_text(each["memoryBytes"]), str(each["contextLength"] or ""), str(each["pid"] or ""), up, others,
        )  # fmt: skip
    out.print(table)


@app.command()
def usage(
    model_id: Annotated[str | None, typer.Argument(help="One model; all that were used where missing.")] = None,
    days: Annotated[int, typer.Option(min=1, max=30)] = 30,
    as_json: AsJson = False,
) -> None:
    """How often models were used, and how long their answers took."""
    path = f"/api/v1/models/{model_id}/usage" if model_id else "/api/v1/usage"
    told = Client().get(f"{path}?days={days}")
    if as_json:
        print_json(told)
        return
    table = Table("MODEL", "USES", "FAILED", "A DAY", "MEAN", "P95", "LAST USED (UTC)", box=None)
    for model in [told] if model_id else told["models"]:
        mean, p95 = (
            f"{each:.2f} s" if each is not None else "" for each in (model["meanSeconds"], model["p95Seconds"])
        )
        last = (model["lastUsedAt"] or "never")[:16].replace("T", " ")
        per_day = f"{model['usesPerDay']:.2g}"
        table.add_row(model["modelId"], str(model["uses"]), str(model["failures"]), per_day, mean, p95, last)
    out.print(table)


@app.command()
def fallback(
    model_id: ModelName,
    steps: Annotated[list[str] | None, typer.Argument(help=f"In order, such as {STEPS}.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="No steps: as it is, or not at all.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a model falls back to where it does not fit or does not load; shown where no step is named."""
    if strict and steps:
        raise typer.BadParameter("--strict is for no steps; name some, or --strict.")
    client, path = Client(), f"/api/v1/models/{model_id}"
    told = (
        client.put(f"{path}/fallback", {"steps": [_step(each) for each in steps or []]})
        if steps or strict
        else client.get(path)
    )
    if as_json:
        print_json(told)
        return
    out.print(" → ".join([model_id, *map(_step_text, told["fallback"])]) if told["fallback"] else f"{model_id}: strict")


def _step(text: str) -> dict[str, Any]:
    step: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        number = name in ("context", "gpu-layers")
        if name not in WORDS or not value or (number and not value.isdecimal()):
            raise typer.BadParameter(f"{part!r} is no step: {STEPS}.")
        step[WORDS[name]] = int(value) if number else value
    return step


def _step_text(step: dict[str, Any]) -> str:
    words = {ours: name for name, ours in WORDS.items()}
    return step.get("model") or ",".join(f"{words[name]}={value}" for name, value in step.items())


def _pinned(model: dict[str, Any], as_json: bool) -> None:
    where = "in memory" if model["loadState"] in ("starting", "ready") else "not in memory now"
    if model["pinned"] and model["loadState"] is None:
        where += f"; modelyard load {model['modelId']} brings it there, to stay"
    pinned = "pinned" if model["pinned"] else "not pinned"
    print_json(model) if as_json else out.print(f"{model['modelId']}: {pinned}, {where}")


@app.command()
def plan(
    action: Annotated[str, typer.Argument(help="switch, load or unload.")], model_id: ModelName, as_json: AsJson = False
) -> None:
    """What a change of memory would do, step by step; nothing is done."""
    told = Client().post("/api/v1/plan", {"action": action, "modelId": model_id})
    if as_json:
        print_json(told)
        return
    for way in told["tried"]:
        less = "".join(f", {_step_text({name: way[name]})}" for name in LESS if way.get(name) is not None)
        out.print(f"not {way['modelId']} with {way['contextLength']} tokens{less}: {way['message']}", style="yellow")
    for step in told["steps"]:
        waits = ", its requests wait from here" if step["requestsWait"] else ""
        out.print(f"{step['do']} {step['modelId']} {size_text(step['bytes'])}".rstrip() + waits)
    if told["need"] is not None:
        spread, free = size_text(told["spread"]), size_text(told["freeBefore"]) or "unknown"
        out.print(f"needs {size_text(told['need'])} ± {spread} ({told['basis']}), free {free}")
    if told.get("hostNeed") is not None:
        how = ", loaded piece by piece" if told["pieceByPiece"] else ""
        free = size_text(told["hostFree"]) or "unknown"
        out.print(f"needs {size_text(told['hostNeed'])} of the machine's memory, free {free}{how}")
    if told["seconds"] is not None:
        out.print(f"takes about {told['seconds']:.0f} s")
    if told["id"] is not None:
        out.print(f"modelyard switch {model_id} --plan {told['id']}", style="dim")
    elif action != "switch":
        out.print(f"modelyard {action} {model_id}", style="dim")
