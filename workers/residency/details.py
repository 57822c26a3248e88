"""What a worker tells of its device: how it is now, and what can run models on it."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from shared.db import devices
from shared.db.reports import Device as DeviceRow
from shared.errors import ModelyardError
from workers.devices import inventory
from workers.devices.base import CPU_ID, Device
from workers.job import Services
from workers.residency.spares import Spares
from workers.runtimes.base import Runtime


def report_chore(
    services: Services, device: Device, runtimes: Collection[Runtime], spares: Spares
) -> Callable[[], None]:
    """Tells the database that this device is served, how it is, and what can run on it."""

    def report() -> None:
        told = _details(device, runtimes, services.settings.runners.memory_limit, spares.memory_bytes)
        row = DeviceRow(
            id=device.id, kind=device.kind, name=device.name, node=services.settings.node,
            memory_total=device.memory_total or 0, details=told, seen_at=0.0,
        )  # fmt: skip
        with services.database.session() as session:
            devices.report(session, row)

    return report


def _details(device: Device, runtimes: Iterable[Runtime], limit: int | None, spare: int) -> dict[str, Any]:
    """As JSON; figures that the machine does not tell are left out.

    `memoryFree`, `memoryLimit` and a GPU's `hostFree` (of the machine's memory) in bytes, and `spareBytes`, which a
    runner without a model has and a load gets; `utilisation` 0 to 1, `temperature` in degrees Celsius, `power` in
    watts; `noGpu` says why this machine shows none, and `runtimes` of each its `version`, or what is missing and the
    `hint`.
    """
    there, no_gpu = inventory.devices()
    named = {runtime.name: runtime for runtime in runtimes}
    seen = next((found for found in there if found.id == device.id or found.kind == device.kind == "cpu"), None)
    if seen is None:
        told: dict[str, Any] = {"healthy": False, "reason": "The driver does not show it any more."}
    else:
        told = {
            "memoryFree": seen.memory_free, "utilisation": seen.utilisation, "temperature": seen.temperature,
            "power": seen.power, "driver": seen.driver, "computeCapability": seen.compute_capability,
            "healthy": seen.healthy, "reason": seen.reason,
        }  # fmt: skip
    host = next((found.memory_free for found in there if found.id == CPU_ID), None)
    told["hostFree" if device.kind == "gpu" else "memoryFree"] = None if host is None else host + spare
    told["spareBytes"] = spare or None
    told |= {"memoryLimit": limit, "noGpu": no_gpu, "runtimes": {name: _found(each) for name, each in named.items()}}
    return {name: value for name, value in told.items() if value is not None}


def _found(runtime: Runtime) -> dict[str, str]:
    try:
        return {"version": runtime.version()}
    except ModelyardError as error:
        return {"missing": error.message, "hint": error.hint}
