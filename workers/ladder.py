"""How a model comes into memory for a job: as it is, or else by the steps that a person wrote down for it."""

from typing import Any, NamedTuple

from shared.db import catalog, jobs, residency
from shared.db.tables import Model, Residency
from shared.errors import Failed, ModelyardError, Unavailable
from shared.fallback import Rung, context_of, ladder
from shared.routing import ORIGIN
from shared.states import ResidencyState
from workers.job import Services, Work
from workers.jobs.verify import look_before_load
from workers.residency.manager import Manager, Ready

NUMBERS = ("needBytes", "freeBytes", "hostNeedBytes", "hostFreeBytes")
"""Of an error, those that say why a way does not fit."""


class Brought(NamedTuple):
    """What answers for a model now."""

    row: Residency
    started: bool
    """It was not in memory before."""
    woken: bool
    """It was asleep: no byte of it was read."""
    fell_back: bool
    tried: list[dict[str, Any]]
    """The ways that did not work, each with its reason and its numbers."""

    def told(self, model: Model) -> dict[str, Any]:
        """For the result of the job that was to bring in `model`."""
        row = self.row
        return {
            "modelId": model.id, "modelType": row.model_type, "device": row.device, "runtime": row.runtime,
            "loadSeconds": row.load_seconds if self.started else None, "memoryBytes": row.memory_bytes,
            "offloadedBytes": row.offloaded_bytes, "woken": self.woken,
            "servedBy": {"modelId": row.model_id, "contextLength": row.context_length, **row.lowered},
            "fallback": self.fell_back, "tried": self.tried,
        }  # fmt: skip

    def tell(self, services: Services) -> None:
        """Let everybody know who serves the type now."""
        row = self.row
        services.events.publish(
            "model.active", modelId=row.model_id, modelType=row.model_type, residencyId=row.id,
            fallbackFor=row.fallback_for,
        )  # fmt: skip


def bring(
    work: Work,
    manager: Manager,
    model: Model,
    plan_id: str | None = None,
    *,
    fresh: bool = False,
    set_aside: ResidencyState = ResidencyState.LOST,
) -> Brought:
    """Have the model, or what it falls back to, in memory and proved; see `Manager.ensure_ready`.

    Raises:
        ModelyardError: none of the ways worked; the error is that of the first. What may pass by itself is tried
            again, and is no reason to fall back.
    """
    with work.services.database.reading() as session:
        asked_by_request = jobs.get(session, work.job_id).origin == ORIGIN
    own = context_of(model.config, work.services.settings.runners.context_length)
    ways = ladder(model.id, model.fallback, own)
    tried: list[dict[str, Any]] = []
    errors: list[ModelyardError] = []
    for rung in ways:
        if asked_by_request and rung is not ways[-1] and manager.setbacks.rests(rung):
            why = "It failed to start a moment ago; requests try it again a little later."
            tried.append(_told(rung, "failed_lately", why))
            continue
        try:
            row, started, woken = _one(work, manager, rung, plan_id, fresh=fresh, set_aside=set_aside)
        except ModelyardError as error:
            if error.code == "plan_outdated" or isinstance(error, Unavailable) or len(ways) == 1:
                raise
            errors.append(error)
            tried.append(_failed(rung, error))
            if isinstance(error, Failed):  # it was begun, so the plan that people have seen is carried out by now
                plan_id = None
                manager.setbacks.note(rung)
            work.report(f"falling back: {error.code}")
            continue
        manager.setbacks.forget(rung)
        if started or tried:
            with work.services.database.session() as session:
                residency.stand_in(session, model.id, row.id if tried else None)
            others = [name for name in row.fallback_for if name != model.id]
            row.fallback_for = [*others, model.id] if tried else others
        return Brought(row, started, woken, model.id in row.fallback_for, tried)
    errors[0].details |= {"tried": tried}
    raise errors[0]


def _one(
    work: Work, manager: Manager, rung: Rung, plan_id: str | None, *, fresh: bool, set_aside: ResidencyState
) -> Ready:
    with work.services.database.reading() as session:
        model, installation = catalog.get_model(session, rung.model_id), catalog.installed(session, rung.model_id)
    look_before_load(work, installation)
    return manager.ensure_ready(model, installation, work, plan_id, way=rung, fresh=fresh, set_aside=set_aside)


def _told(rung: Rung, code: str, message: str) -> dict[str, Any]:
    return {**rung.told(), "code": code, "message": message}


def _failed(rung: Rung, error: ModelyardError) -> dict[str, Any]:
    numbers = {name: error.details[name] for name in NUMBERS if name in error.details}
    return _told(rung, error.code, error.message) | numbers
