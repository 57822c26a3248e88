"""What a change of what is in memory would do, step by step, before anybody does it."""

from collections.abc import Sequence, Set
from typing import Annotated, Any, Literal, Self

from fastapi import Query
from pydantic import ConfigDict, Field, model_validator

from api.bodies import Body
from api.views import View
from shared import fit
from shared.contract import ModelId
from shared.db import catalog, devices, footprints, residency, sleep
from shared.db.placement import Occupant, beside_free, free_bytes, occupants, plan
from shared.db.reports import Device
from shared.db.session import Database
from shared.db.tables import Installation, Residency
from shared.errors import Conflict, ModelyardError, NotFound
from shared.fallback import Rung, context_of, ladder
from shared.progress import Leases
from shared.states import ResidencyState

PlanId = Annotated[
    str | None,
    Query(pattern="^[0-9a-f]{32}$", description="Id of the plan that you have seen: no other one is carried out."),
]


class PlanBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [
        {"action": "switch", "model_id": "qwen3-0.6b"}, {"action": "apply-profile", "profile": "development"},
    ]})  # fmt: skip

    action: Literal["load", "switch", "unload", "apply-profile"]
    model_id: Annotated[ModelId, Field(description="Of a load, switch or unload.")] = ""
    profile: Annotated[str | None, Field(max_length=64, description="Of apply-profile.")] = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        named = {"profile": self.profile, "model_id": self.model_id}
        wanted = "profile" if self.action == "apply-profile" else "model_id"
        other = ({"profile", "model_id"} - {wanted}).pop()
        if not named[wanted] or named[other]:
            raise ValueError(f"{self.action} names a {wanted}, and nothing else")
        return self


class StepView(View):
    """`do`: stop (its requests end first), start (and prove), route (requests of the type go to it)."""

    do: Literal["stop", "start", "route"]
    model_id: str
    bytes: int | None = Field(None, description="What stop gives back and start takes; about.")
    requests_wait: bool = Field(False, description="From here on requests of the type wait, until it is routed anew.")


class TriedView(View):
    """A way that does not work now; the next one is a step that was written down for it."""

    model_id: str
    context_length: int
    gpu_layers: int | None = None
    device: str | None = None
    precision: str | None = None
    code: str
    message: str


class PlanView(View):
    """Sizes are bytes."""

    id: str | None = Field(
        description="For ?plan= of the switch: no other plan is carried out. Null of others, and where nothing loads."
    )
    action: str
    model_id: str
    served_by: str | None = Field(None, description="Who will answer for it: itself, or a model that it falls back to.")
    context_length: int | None = Field(None, description="Tokens that it is started with.")
    lowered: dict[str, Any] = Field({}, description="What it has less of by a step: gpuLayers, device, precision.")
    tried: list[TriedView] = Field([], description="The ways before this one, and why they do not work now.")
    device: str
    steps: list[StepView]
    need: int | None = None
    spread: int | None = Field(None, description="How far off `need` may be, either way.")
    basis: fit.Basis | None = None
    free_before: int | None = None
    free_after: int | None = None
    host_need: int | None = Field(None, description="Of the machine's memory, where the device is a GPU.")
    host_free: int | None = None
    piece_by_piece: bool = Field(
        False, description="Its weights go to the GPU so, as the machine has no room for all at once; it cannot sleep."
    )
    seconds: float | None = Field(
        None, description="What its last load took; the last requests of who leaves come on top. Null: never loaded."
    )


def planned(database: Database, leases: Leases, body: PlanBody, context_length: int) -> PlanView:
    """By the function that a worker will carry it out by, on what the worker last reported of its device.

    Raises:
        NotFound: no such model.
        Conflict: it is not on disk, or not in memory; code `will_not_fit` or `no_runtime`.
        Unavailable: no device has been reported.
    """
    if body.action == "unload":
        return _unload(database, leases, body.model_id)
    with database.reading() as session:
        model = catalog.get_model(session, body.model_id)
    ways = ladder(model.id, model.fallback, context_of(model.config, context_length))
    tried: list[TriedView] = []
    errors: list[ModelyardError] = []
    for rung in ways:
        try:
            found = _planned(database, leases, body.action, rung)
        except (Conflict, NotFound) as error:
            errors.append(error)
            tried.append(TriedView.model_validate({**rung.told(), "code": error.code, "message": error.message}))
        else:
            return found.model_copy(update={"model_id": body.model_id, "tried": tried})
    raise errors[0]


def _planned(database: Database, leases: Leases, action: str, rung: Rung) -> PlanView:
    with database.reading() as session:
        model, installation = catalog.get_model(session, rung.model_id), catalog.installed(session, rung.model_id)
        device, serving = devices.placed(session, model.id), catalog.active(session, model.type)
        kept = (
            serving is not None and serving.model_id != model.id and catalog.get_model(session, serving.model_id).pinned
        )
        setting = fit.Setting(_runtime(installation), device.kind, rung.context_length, rung.lowered)
        there = residency.resident(session, model.id, device.id)
        known = footprints.learned(session, installation, device.id, setting.runtime)
        asleep = sleep.asleep(session, device.id)
    residents = occupants(database, leases, device.id)
    free, host_free = _free(device, residents, asleep), beside_free(device.details.get("hostFree"), device.kind, asleep)
    about: dict[str, Any] = {
        "action": action, "model_id": model.id, "device": device.id, "free_before": free, "served_by": model.id,
        "context_length": rung.context_length, "lowered": rung.lowered.told(),
    }  # fmt: skip
    comes_back = serving is not None and serving.model_id == model.id
    routed = [StepView(do="route", model_id=model.id)] if action == "switch" or comes_back else []
    pinned = {serving.id} if serving is not None and kept else set()
    if there is not None and there.revision == installation.revision:
        replaced = _replaced(serving, {there.id, *pinned}) if routed else []
        after = _after(free, replaced, device.id, 0)
        return PlanView(**about, id=None, steps=[*routed, *map(_stop, replaced)], free_after=after, seconds=0.0)
    found = plan(installation, device.id, setting, known.need(setting), free, residents, host_free=host_free)
    replaced = _replaced(serving, pinned.union(row.id for row in found.evictions)) if routed else []
    start = StepView(do="start", model_id=model.id, bytes=found.need.total)
    first = [_stop(row, waits=row.active) for row in found.evictions]
    return PlanView(
        **about, id=found.id if routed else None, steps=[*first, start, *routed, *map(_stop, replaced)],
        need=found.need.total, spread=found.need.spread, basis=found.need.basis, seconds=known.load_seconds(setting),
        free_after=_after(free, [*found.evictions, *replaced], device.id, found.need.total),
        host_need=found.host_bytes or None, host_free=host_free, piece_by_piece=found.piece_by_piece,
    )  # fmt: skip


def _replaced(serving: Residency | None, but: Set[str]) -> list[Residency]:
    """Who serves the type until the route has moved, and leaves then; unless it is one of these."""
    if serving is None or serving.state != ResidencyState.READY:
        return []
    return [] if serving.id in but else [serving]


def _after(free: int | None, gone: Sequence[Residency], device: str, need: int) -> int | None:
    back = sum(row.memory_bytes or 0 for row in gone if row.device == device)
    return None if free is None else free + back - need


def _stop(row: Residency, *, waits: bool = False) -> StepView:
    return StepView(do="stop", model_id=row.model_id, bytes=row.memory_bytes, requests_wait=waits)


def _runtime(installation: Installation) -> str:
    """Raises: Conflict: code `no_runtime`."""
    found = fit.runtime_of(installation.facts, installation.holder, installation.model_type)
    if not found:
        raise Conflict(
            "no_runtime", f"No runtime here can run the files of {installation.model_id!r}.",
            fit.runnable(installation.facts, installation.model_type),
        )  # fmt: skip
    return found


def _free(device: Device, residents: list[Occupant], asleep: list[Residency]) -> int | None:
    return free_bytes(device.details.get("memoryFree"), device.details.get("memoryLimit"), residents, asleep)


def _unload(database: Database, leases: Leases, model_id: str) -> PlanView:
    with database.reading() as session:
        catalog.get_model(session, model_id)
        rows = catalog.residencies(session, [model_id])
        if not rows:
            raise Conflict("model_not_active", f"{model_id!r} is not in memory.", "modelyard devices shows what is.")
        device = devices.named(session, rows[0].device)
        asleep = sleep.asleep(session, device.id)
    free = _free(device, occupants(database, leases, device.id), asleep)
    gone = [row for row in rows if row.state != ResidencyState.ASLEEP]
    return PlanView(
        id=None, action="unload", model_id=model_id, device=device.id,
        steps=[_stop(row) for row in rows],
        free_before=free, free_after=_after(free, gone, device.id, 0),
    )  # fmt: skip
