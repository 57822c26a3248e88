"""Which processes make one instance, and their command lines. No secret is ever on one: those travel by environment."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.addresses import LOOPBACK
from deploy.redis_server import EmbeddedRedis

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
"""Where `api` and `workers` are found; children run here, so a stranger's folder of that name is never imported."""
PROBE_SECONDS = 60
"""Drivers of a machine with many GPUs take long to wake."""
_DEVICE = re.compile(r"^[a-z0-9][a-z0-9-]{0,63}$")


@dataclass(frozen=True)
class Program:
    """One supervised process."""

    name: str
    argv: tuple[str, ...]
    start_seconds: int = 5
    """A program that ends sooner is restarted with growing pauses; our imports alone take two of them."""
    stop_seconds: int = 8
    """After SIGTERM, before SIGKILL."""
    stops_last: bool = False
    """The others still need it while they stop."""


@dataclass(frozen=True)
class Plan:
    """What was decided about an instance before anything of it starts."""

    host: str
    port: int
    devices: tuple[str, ...]
    redis: EmbeddedRedis | None
    """None where the operator brought a Redis."""
    flower_port: int | None
    """None where Flower is not wanted."""
    flower_db: Path


def standard(plan: Plan) -> list[Program]:
    """Everything that `modelyard up` runs."""
    programs = [
        Program("api", _python("uvicorn", "api.app:create_app", "--factory", *_serving(plan)), stop_seconds=6),
        Program("io", _python("workers", "io")),
        Program("io-urgent", _python("workers", "io", "--urgent")),
        *(Program(f"device-{each}", _python("workers", "device", "--device", each)) for each in plan.devices),
        Program("beat", _python("workers", "beat")),
    ]
    if plan.redis is not None:
        programs.insert(0, Program("redis", plan.redis.argv, start_seconds=1, stop_seconds=3, stops_last=True))
    if plan.flower_port is not None:
        programs.append(Program("flower", _flower(plan.flower_port, plan.flower_db), stop_seconds=4))
    return programs


def find_devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Ids of the devices that get a worker, as the workers see them; the CPU where they cannot tell."""
    try:
        told = subprocess.run(
            _python("workers", "devices"),
            cwd=PROJECT,
            env=dict(environment),
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=True,
        )
        devices = json.loads(told.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("devices cannot be read, going on with the CPU alone (%s)", type(error).__name__)
        return ("cpu",)
    if not (isinstance(devices, list) and devices and all(isinstance(each, str) for each in devices)):
        log.warning("no devices were named, going on with the CPU alone")
        return ("cpu",)
    return tuple(each for each in devices if _DEVICE.match(each)) or ("cpu",)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _serving(plan: Plan) -> tuple[str, ...]:
    # Open event streams would hold uvicorn for ever; the limit stays under the program's stop_seconds.
    return (
        "--host", plan.host, "--port", str(plan.port), "--timeout-graceful-shutdown", "4", "--no-access-log",
        "--ws-max-size", "65536", "--http", "api.connections:Connection", "--no-server-header",
        "--no-proxy-headers",  # a setting of ours says which proxies
    )  # fmt: skip


def _flower(port: int, db: Path) -> tuple[str, ...]:
    return _python(
        "celery",
        "flower",
        f"--address={LOOPBACK}",
        f"--port={port}",
        "--read_only=True",
        "--persistent=True",
        f"--db={db}",
        "--state_save_interval=10000",
        "--purge_offline_workers=120",
        "--max_tasks=10000",
    )
