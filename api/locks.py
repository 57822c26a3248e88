"""Locks of this place: written from its rows, compared with them, and carried out as changes of rows and as jobs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import Field

from api.deps import Front
from api.drift import Action, Drift, Here, Plan, Step, What, drift, plan
from api.views import JobView, View, view_job
from shared.contract import Contract
from shared.contracts import Download, Remove, Repair
from shared.db import catalog, locks, retention
from shared.db.session import serialise
from shared.errors import Conflict, ModelyardError, Unavailable
from shared.lock import Lock, LockedModel
from shared.states import Holder, InstallationState, Priority

LISTED_WITHIN = 60.0
"""Seconds after which a worker has written down what was published before it knew how."""


class LeftOut(View):
    """A model that the lock does not have, and why."""

    model_id: str
    code: str
    reason: str
    hint: str


class LockView(View):
    """`lock` is the content of `models.lock`; what could not be locked is told beside it."""

    lock: dict[str, Any] = Field(description="Goes into models.lock as it is.")
    left_out: list[LeftOut]


class Applied(View):
    """What was planned, and the jobs that carry it out; settings are in line already."""

    plan: Plan
    jobs: list[JobView]


def write(front: Front, model_ids: Collection[str]) -> LockView:
    """The lock of these models, or of all that can be locked.

    Raises:
        NotFound, Conflict: one that was named cannot be locked.
    """
    with front.database.reading() as session:
        for model_id in model_ids:
            catalog.get_model(session, model_id)
        standings = locks.standings(session, model_ids or None)
    entries: list[LockedModel] = []
    left_out: list[LeftOut] = []
    for standing in standings:
        try:
            entries.append(locks.entry_of(standing))
        except ModelyardError as error:
            if model_ids:
                raise
            told = {"code": error.code, "reason": error.message, "hint": error.hint}
            left_out.append(LeftOut(model_id=standing.model.id, **told))
    return LockView(lock=Lock.of(entries).to_dict(), left_out=left_out)


def planned(front: Front, lock: Lock, *, prune: bool) -> Plan:
    """What applying the lock would do now.

    Raises:
        Unavailable: code `files_unlisted`.
    """
    with front.database.reading() as session:
        standings = locks.standings(session)
        loaded, needs = catalog.loaded(session), retention.references(session)
    return plan(lock, _here(standings, loaded, needs), prune=prune)


def drifted(front: Front, lock: Lock) -> Drift:
    """In what this place differs from the lock.

    Raises:
        Unavailable: code `files_unlisted`.
    """
    with front.database.reading() as session:
        return drift(lock, _here(locks.standings(session)))


def apply(front: Front, lock: Lock, *, prune: bool, plan_id: str | None, priority: Priority | None) -> Applied:
    """Plan once more, and carry that out: rows at once and all together, the rest as jobs.

    Asked again, and cut off anywhere, it comes to the same: what is in line needs no step, a live job is joined.

    Args:
        plan_id: of the plan that somebody has seen; another one is not carried out.

    Raises:
        Conflict: `plan_changed`; `plan_blocked`, with the steps that somebody must decide. Nothing was done.
        Unavailable: code `files_unlisted`.
    """
    entries = {entry.model_id: entry for entry in lock.models}
    with front.database.session() as session:
        serialise(session, "lock")
        here = _here(locks.standings(session), catalog.loaded(session), retention.references(session))
        made = plan(lock, here, prune=prune)
        _check(made, plan_id)
        contracts: list[Contract] = []
        added: list[str] = []
        for step in made.steps:
            entry = entries.get(step.model_id)
            # The settings of a revision that still has to come are put in line together with it.
            if entry is not None and not step.has(What.REVISION, What.FILES) and locks.settle(session, entry):
                added.append(step.model_id)
            digest = locks.demand(session, entry) if entry is not None and step.fetches else None
            contracts += _work(step, digest)
    for model_id in added:
        front.ledger.events.publish("model.added", modelId=model_id)
    jobs = [front.ledger.submit(contract, origin="rest", priority=priority).job for contract in contracts]
    return Applied(plan=made, jobs=[view_job(job) for job in jobs])


def _work(step: Step, digest: str | None) -> Iterable[Contract]:
    """The job that carries a step out, if it needs one."""
    if step.fetches:
        yield Download(model_id=step.model_id, lock=digest)
    elif step.action is Action.REPAIR:
        yield Repair(model_id=step.model_id)
    elif step.action is Action.REMOVE:
        yield Remove(model_id=step.model_id)


def _check(made: Plan, plan_id: str | None) -> None:
    if plan_id not in (None, made.plan_id):
        hint = "Look at the plan again, then apply that: modelyard lock plan models.lock."
        raise Conflict("plan_changed", "By now applying the lock would do something else.", hint)
    blocked = [step for step in made.steps if step.action is Action.BLOCKED]
    if blocked:
        names = ", ".join(step.model_id for step in blocked[:5])
        raise Conflict(
            "plan_blocked", f"Somebody must decide about {names} first, so nothing was done.", blocked[0].hint,
            {"blocked": [step.model_dump(mode="json", by_alias=True) for step in blocked[:20]]},
        )  # fmt: skip


def _here(
    standings: Iterable[locks.Standing],
    loaded: Collection[str] = (),
    needs: Mapping[str, retention.References] = MappingProxyType({}),
) -> dict[str, Here]:
    return {
        standing.model.id: replace(
            _one(standing), in_memory=standing.model.id in loaded,
            needed=retention.why_needed(standing.model, needs.get(standing.model.id, retention.NOBODY)),
        )
        for standing in standings
    }  # fmt: skip


def _one(standing: locks.Standing) -> Here:
    model, row, listed = standing.model, standing.installation, standing.listed
    facts: dict[str, Any] = {
        "model_id": model.id, "stands_for": (model.type, model.source, model.source_url),
        "settings": locks.settings_of(model),
    }  # fmt: skip
    if row is None:
        return Here(**facts)
    if row.holder != Holder.STORE:
        return Here(**facts, revision=row.revision, elsewhere=True)
    if listed is None:
        why = f"The files of {model.id!r} are not written down yet."
        raise Unavailable("files_unlisted", why, "A worker does it within a minute.", None, LISTED_WITHIN)
    return Here(
        **facts, revision=row.revision, damaged=row.state == InstallationState.CORRUPT, size=row.size,
        digests=frozenset((file["name"], file["size"], file["sha256"]) for file in listed.files),
    )  # fmt: skip
