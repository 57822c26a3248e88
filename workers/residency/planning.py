"""How a model is to be loaded: by which runtime, and in whose place; and when it is worth waiting for a better plan."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared import fit
from shared.db import footprints, sleep
from shared.db.placement import Plan, beside_free, free_bytes, occupants, plan
from shared.db.tables import Installation, Model
from shared.errors import Conflict, Failed, Snooze
from shared.fallback import Rung
from shared.states import ResidencyState, output_of
from workers.devices import cpu, inventory
from workers.devices.base import Device
from workers.job import Services
from workers.runtimes.base import Runtime

DRAIN_LOOK_SECONDS = 2.0


def plan_for(
    services: Services, device: Device, installation: Installation, runtime: str, way: Rung, spare: int, stay: float
) -> Plan:
    """What the model will take here, and who has to leave for it; nothing is touched.

    Args:
        way: how it is to run.
        spare: bytes of the machine's memory that end, or become a part of it.
        stay: seconds that a model may stay at least.

    Raises:
        Conflict: code `will_not_fit`, `nothing_lower`.
        Snooze: it will fit once those have gone that leave already, or who is there has been for `stay` seconds.
    """
    settings = services.settings.runners
    setting = fit.Setting(runtime, device.kind, way.context_length, way.lowered)
    with services.database.reading() as session:
        need = footprints.learned(session, installation, device.id, runtime).need(setting)
        asleep = sleep.asleep(session, device.id)
    residents = occupants(services.database, services.leases, device.id)
    seen = inventory.memory_free(device.id)
    if seen is not None and device.kind == "cpu":
        seen += spare
    free = free_bytes(seen, settings.memory_limit, residents, asleep)
    about = (installation, device.id, setting, need)
    host_free = beside_free((cpu.read().memory_free or 0) + spare, device.kind, asleep)
    try:
        return plan(*about, free, residents, stay, host_free)
    except Conflict:
        leaving = sum(one.row.memory_bytes or 0 for one in residents if one.row.state == ResidencyState.DRAINING)
        if free is not None and leaving:
            with suppress(Conflict):
                plan(*about, free + leaving, residents, host_free=host_free)
                raise Snooze(
                    DRAIN_LOOK_SECONDS, "Who makes room for it still has requests.", "memory_in_use",
                    "It goes on by itself.",
                ) from None  # fmt: skip
        plan(*about, free, residents, host_free=host_free)  # or it never will
    left = min(stay - one.age for one in residents if one.age < stay)
    raise Snooze(
        left + 0.1, "Who has to leave for it has just come.", "memory_in_use",
        "It goes on by itself; MODELYARD_RUNNERS__MIN_RESIDENCE_SECONDS is for how long a model stays at least.",
    )  # fmt: skip


def runtime_for(runtimes: Iterable[Runtime], folder: Path, model: Model, facts: Mapping[str, Any]) -> Runtime:
    """The first that makes of these files what the model's type is for.

    Raises:
        Failed: code `no_runtime`.
    """
    output = output_of(model.type)
    for runtime in runtimes:
        if runtime.output is output and runtime.accepts(folder):
            return runtime
    message = f"No runtime here can run the files of {model.id!r} as {model.type!r}."
    raise Failed("no_runtime", message, fit.runnable(facts, model.type))
