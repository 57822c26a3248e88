"""What a change of what is in memory would do, step by step, before anybody does it."""

from typing import Literal

from pydantic import ConfigDict, Field

from api.bodies import Body
from api.views import View
from shared import fit
from shared.contracts import ModelId
from shared.db import catalog, devices, footprints, residency
from shared.db.placement import Plan, free_bytes, plan
from shared.db.session import Database
from shared.db.tables import Residency
from shared.errors import Conflict


class PlanBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"action": "switch", "model_id": "qwen3-0.6b"}]})

    action: Literal["load", "switch", "unload"]
    model_id: ModelId


class StepView(View):
    """`do`: stop (its requests end first), start (and prove), route (requests of the type go to it)."""

    do: Literal["stop", "start", "route"]
    model_id: str
    bytes: int | None = Field(None, description="What stop gives back and start takes; about.")
    requests_wait: bool = Field(False, description="From here on requests of the type wait, until it is routed anew.")


class PlanView(View):
    """Sizes are bytes."""

    id: str | None = Field(description="For ?plan= of the switch: no other plan is carried out. Null for an unload.")
    action: str
    model_id: str
    device: str
    steps: list[StepView]
    need: int | None = None
    spread: int | None = Field(None, description="How far off `need` may be, either way.")
    basis: fit.Basis | None = None
    free_before: int | None = None
    free_after: int | None = None
    seconds: float | None = Field(
        None, description="What its last load took; the last requests of who leaves come on top. Null: never loaded."
    )


def planned(database: Database, body: PlanBody, context_length: int) -> PlanView:
    """By the function that a worker will carry it out by, on what the worker last reported of its device.

    Raises:
        NotFound: no such model.
        Conflict: it is not on disk, or not in memory; code `will_not_fit` or `no_runtime`.
        Unavailable: no device has been reported.
    """
    if body.action == "unload":
        return _unload(database, body.model_id)
    found, serving, seconds, there = _load(database, body.model_id, context_length)
    if there:
        steps = [StepView(do="route", model_id=body.model_id)]
        return PlanView(
            id=found.id, action=body.action, model_id=body.model_id, device=found.device, steps=steps,
            free_before=found.free, free_after=found.free, seconds=0.0,
        )  # fmt: skip
    leaving = [
        StepView(do="stop", model_id=row.model_id, bytes=row.memory_bytes, requests_wait=row.active)
        for row in found.evictions
    ]
    steps = [
        *leaving,
        StepView(do="start", model_id=body.model_id, bytes=found.need.total),
        StepView(do="route", model_id=body.model_id),
    ]
    gone = list(found.evictions)
    if serving is not None and serving.id not in {row.id for row in gone}:
        steps.append(StepView(do="stop", model_id=serving.model_id, bytes=serving.memory_bytes))
        gone.append(serving)
    after = None if found.free is None else found.free + sum(row.memory_bytes or 0 for row in gone) - found.need.total
    return PlanView(
        id=found.id, action=body.action, model_id=body.model_id, device=found.device, steps=steps,
        need=found.need.total, spread=found.need.spread, basis=found.need.basis,
        free_before=found.free, free_after=after, seconds=seconds,
    )  # fmt: skip


def _load(database: Database, model_id: str, context_length: int) -> tuple[Plan, Residency | None, float | None, bool]:
    """The plan, who serves the type, what its last load took, and whether it is in memory already."""
    with database.reading() as session:
        model = catalog.get_model(session, model_id)
        installation = catalog.installed(session, model_id)
        device = devices.placed(session, model_id)
        runtime = fit.RUNTIMES.get(installation.facts.get("format", ""))
        if runtime is None:
            raise Conflict(
                "no_runtime", f"No runtime here can run the files of {model_id!r}.",
                "Runnable are transformers folders of safetensors, and GGUF files.",
            )  # fmt: skip
        setting = fit.Setting(runtime, device.kind, context_length)
        residents = residency.residents(session, device.id)
        there = residency.resident(session, model_id, device.id)
        free = free_bytes(device.details.get("memoryFree"), device.details.get("memoryLimit"), residents)
        need = footprints.need(session, installation, device.id, setting)
        is_there = there is not None and there.revision == installation.revision
        found = plan(installation, device.id, setting, need, None if is_there else free, residents)
        serving = catalog.active(session, model.type)
        return found, serving, footprints.load_seconds(session, installation, device.id, setting), is_there


def _unload(database: Database, model_id: str) -> PlanView:
    with database.reading() as session:
        catalog.get_model(session, model_id)
        rows = catalog.residencies(session, [model_id])
        if not rows:
            raise Conflict("model_not_active", f"{model_id!r} is not in memory.", "modelyard devices shows what is.")
        device = devices.named(session, rows[0].device)
        free = free_bytes(
            device.details.get("memoryFree"), device.details.get("memoryLimit"), residency.residents(session, device.id)
        )
    back = sum(row.memory_bytes or 0 for row in rows)
    return PlanView(
        id=None, action="unload", model_id=model_id, device=device.id,
        steps=[StepView(do="stop", model_id=model_id, bytes=row.memory_bytes) for row in rows],
        free_before=free, free_after=None if free is None else free + back,
    )  # fmt: skip
