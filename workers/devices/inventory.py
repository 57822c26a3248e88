"""Which devices this machine offers us, and pinning this process to one of them."""

import os
import re
import sys
from collections.abc import Mapping

from shared.errors import Invalid
from shared.queues import is_cpu
from workers.devices import cpu, nvml
from workers.devices.base import CPU_ID, Device

VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_ID = re.compile(r"(gpu|mig)-[0-9a-f][0-9a-f/-]*")


def devices() -> tuple[list[Device], str | None]:
    """The CPU, then every GPU that `CUDA_VISIBLE_DEVICES` leaves us; and why GPUs are missing, for a person."""
    gpus, reason = nvml.read()
    left = visible(gpus, os.environ)
    if gpus and not left:
        reason = f"{VISIBLE}={os.environ[VISIBLE]!r} hides every GPU of this machine."
    return [cpu.read(), *left], reason


def memory_free(device_id: str) -> int | None:
    """Bytes that a new model could take on it now; None where the machine does not tell."""
    wanted = CPU_ID if is_cpu(device_id) else device_id
    found = next((device for device in devices()[0] if device.id == wanted), None)
    return None if found is None else found.memory_free


def visible(gpus: list[Device], environ: Mapping[str, str]) -> list[Device]:
    """The GPUs that CUDA would show, in its order: by index or by the start of a UUID, up to the first unknown one.

    Source of the rules: the environment variables chapter of the CUDA C++ programming guide.
    """
    if VISIBLE not in environ:
        return gpus
    chosen: list[Device] = []
    for entry in environ[VISIBLE].split(","):
        found = _find(gpus, entry.strip().lower())
        if found is None:
            break
        chosen.append(found)
    return chosen


def _find(gpus: list[Device], entry: str) -> Device | None:
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    matches = [gpu for gpu in gpus if gpu.id.startswith(entry)] if entry.startswith("gpu-") else []
    return matches[0] if len(matches) == 1 else None


def pin(device_id: str) -> None:
    """Show this process, and the runners it starts, this one device only.

    Raises:
        Invalid: code `unknown_device`; not an id that `devices()` gives.
        RuntimeError: torch is imported already, and may have seen other GPUs; a mistake in the program.
    """
    if device_id != CPU_ID and not GPU_ID.fullmatch(device_id):
        message = f"{device_id!r} is no device."
        raise Invalid("unknown_device", message, "Use `cpu` or a GPU's UUID; `python -m workers devices` lists them.")
    if "torch" in sys.modules:
        raise RuntimeError("pin() must come before torch is imported")
    prefix, _, rest = device_id.partition("-")
    os.environ[VISIBLE] = "" if device_id == CPU_ID else f"{prefix.upper()}-{rest}"
