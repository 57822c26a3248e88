"""What `modelyard doctor` looks at: the service, and this machine."""

from collections.abc import Iterator
from typing import Any

from api.cli import machine
from api.cli.client import Client, Refused
from api.cli.machine import Finding, somebody_listens
from shared.errors import ModelyardError
from shared.settings import load
from shared.states import Availability

FIXES = {
    "ioWorker": "Start one: python -m workers io. `modelyard up` does; its log is logs/io.log in the data folder.",
    "deviceWorker": "Start one: python -m workers device. `modelyard up` does; its log is logs/device-….log there.",
    "database": "See MODELYARD_DATABASE_URL of the service, and its log.",
    "redis": "See MODELYARD_REDIS__URL of the service, and its log.",
}  # fmt: skip
"""By part of the service's readiness."""


def examine(client: Client) -> list[dict[str, Any]]:
    """Findings in the order in which to mend them: `{what, ok, fix, needed}`; of what is well no fix is told."""
    found = [*_service(client), *machine.examine(load())]
    return [{**one._asdict(), "fix": "" if one.ok else one.fix} for one in found]


def _service(client: Client) -> Iterator[Finding]:
    try:
        parts = client.ready()["parts"]
    except (ModelyardError, KeyError, TypeError) as error:
        yield _away(client, error)
        return
    for name, part in parts.items():
        yield Finding(f"{name}: {part['detail']}", part["ok"], FIXES.get(name, "See the log of the service."))
    try:
        yield from _devices(client)
        yield from _nodes(client)
        yield from _models(client)
    except Refused as refused:
        yield Finding(f"The service at {client.url}: {refused.message}", False, refused.hint)


def _away(client: Client, error: Exception) -> Finding:
    if somebody_listens(client.url):
        fix = "Stop it, or start Modelyard on another port: modelyard up --port PORT, and MODELYARD_URL for clients."
        return Finding(f"Another program listens at {client.url}", False, fix)
    told = error if isinstance(error, ModelyardError) else None
    return Finding(f"The service at {client.url}: {told.message if told else error}", False, told.hint if told else "")


def _devices(client: Client) -> Iterator[Finding]:
    try:
        told = client.get("/api/v1/system/hardware/profile")
    except Refused as refused:
        if refused.code != "no_device_worker":
            raise
        return  # readiness has said so
    for device in told["devices"]:
        if not device["healthy"]:
            fix = "nvidia-smi shows what the driver says; a reboot of the machine often helps."
            yield Finding(f"{device['id']} on {device['node']}: {device['reason']}", False, fix)
    if (why := told["noGpu"]) and not why.startswith("No NVIDIA driver is installed"):
        fix = "nvidia-smi shows what the driver says; then start the device worker again."
        yield Finding(f"No GPU: {why}", False, fix, needed=False)


def _nodes(client: Client) -> Iterator[Finding]:
    for node in client.get("/api/v1/system/nodes")["nodes"]:
        if not node["alive"]:
            fix = f"Start the workers of {node['node']} again; {node['waitingJobs']} jobs wait for it."
            yield Finding(f"The machine {node['node']} is away since {node['seenAt']}", False, fix, needed=False)


def _models(client: Client) -> Iterator[Finding]:
    """Models that cannot be used although somebody wanted them."""
    for model in client.get("/api/v1/models", status=Availability.CORRUPTED, limit=500)["models"]:
        yield Finding(f"{model['modelId']} is damaged", False, f"modelyard repair {model['modelId']}")
    for model in client.get("/api/v1/models", status=Availability.FAILED, limit=500)["models"]:
        name = model["modelId"]
        fix = f"modelyard pull {name} tries again and says why; modelyard rm {name} forgets it"
        yield Finding(f"{name}: download failed", False, fix, needed=False)
