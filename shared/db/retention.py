"""What the retention policy looks at, as rows; the policy as people changed it; and the steps of cleanups."""

import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import select as columns
from sqlalchemy import update
from sqlmodel import Session, col, delete, func, select

from shared.contracts import Bundle, Cleanup, Download
from shared.db import catalog, nodes, profiles, upkeep, usage
from shared.db.reports import CleanupStep, RetentionChange, StoreReport
from shared.db.session import now, serialise
from shared.db.tables import Installation, Job, LockedEntry, Model, Residency
from shared.errors import Conflict, Unavailable
from shared.queues import store_lane
from shared.retention import Decision, Disk, Hold, Policy, Share, Stored, fetch_seconds
from shared.settings import RetentionSettings
from shared.states import HELD, LIVE, Holder, JobState, StepState, priority_of

ROW = "policy"
USUAL_BYTES_PER_SECOND = 12_500_000.0
"""A line of 100 Mbit/s: what a source is taken to send until a download of it was measured."""
DOWNLOADS = 200
"""The last so many say how fast their sources are."""
WORTH_MEASURING = 1024**2
"""Bytes from which on a download says something about speed."""


class World(NamedTuple):
    """What the policy is a function of."""

    now: float
    disk: Disk | None
    models: list[Stored]
    shares: list[Share]


class References(NamedTuple):
    """Who needs a model."""

    fallback_of: list[str]
    """Models that fall back to it."""
    base_of: list[str]
    """Adapters that are made for it."""


NOBODY = References([], [])


# -- the policy ---------------------------------------------------------------------------------------------


def policy(session: Session, settings: RetentionSettings) -> Policy:
    """What counts now: the settings, and what people changed since."""
    row = session.get(RetentionChange, ROW)
    told = {name: getattr(settings, name) for name in Policy.model_fields}
    return Policy.model_validate({**told, **(row.changes if row is not None else {})})


def changes(session: Session) -> dict[str, Any]:
    """What of it people changed."""
    row = session.get(RetentionChange, ROW)
    return dict(row.changes) if row is not None else {}


def change(session: Session, wanted: dict[str, Any]) -> None:
    """From now on these values count in place of the settings', and no others."""
    serialise(session, "retention")
    session.merge(RetentionChange(name=ROW, changes=wanted, changed_at=session.exec(select(now())).one()))


# -- what there is ------------------------------------------------------------------------------------------


def look(session: Session, only: str | None = None, job_id: str | None = None, store: str | None = None) -> World:
    """All that Modelyard has put into its store, or one model of it, with what holds each.

    Args:
        job_id: the cleanup that asks, which is no reason to keep anything.
        store: only what lies in this one, where there are several.
    """
    clock = session.exec(select(now())).one()
    mine = (Model.id, Model.source, Model.created_at, Model.pinned, Model.priority)
    stored = (Installation.model_type, Installation.revision, Installation.size)
    when = (Installation.published_at, Installation.came_from)
    query = columns(*map(col, (*mine, *stored, *when)))  # thousands of entities would take a second
    query = query.join_from(Model, Installation, col(Installation.model_id) == col(Model.id))
    query = query.where(col(Installation.holder) == Holder.STORE, col(Installation.owned))
    if store is not None:
        query = query.where(nodes.lies_in(store))
    if only is not None:
        query = query.where(col(Model.id) == only)
    rows = session.connection().execute(query).all()
    report = _report(session, store)
    sizes = {entry["modelId"]: entry["size"] for entry in report.get("byModel", [])}
    alone: dict[str, int] | None = report.get("aloneBytes")
    used, last = usage.of_models(session, None if only is None else [only]), usage.last_used(session, only)
    holds, speeds = _holds(session, job_id), _speeds(session)
    models = []
    for one in rows:
        own = alone if one.id in sizes else None  # else it has come since the last look
        per_day = usage.per_day(used[one.id].uses if one.id in used else 0, clock - one.created_at)
        speed = speeds.get(one.source, USUAL_BYTES_PER_SECOND)
        models.append(Stored(
            model_id=one.id, model_type=one.model_type, revision=one.revision, size=sizes.get(one.id, one.size),
            alone=one.size if own is None else own.get(one.id, 0),
            came_at=one.published_at, last_used_at=last.get(one.id),
            uses_per_day=per_day, priority=priority_of(per_day, one.priority),
            fetch_seconds=fetch_seconds(one.size, speed, by_hand=one.came_from is not None),
            holds=frozenset(holds.get(one.id, ())) | ({Hold.PINNED} if one.pinned else frozenset()),
        ))  # fmt: skip
    shares = [Share(frozenset(share["models"]), share["size"]) for share in report.get("shares", [])]
    disk = Disk(report["diskTotal"], report["diskUsed"], report["trashFrees"]) if "trashFrees" in report else None
    return World(clock, disk, models, shares)


def check_there(session: Session) -> None:
    """Make sure that the disk of the store was there at the last look.

    Raises:
        Unavailable: code `store_missing`, or `storage_unknown` before a worker has looked.
    """
    there = session.exec(select(StoreReport.there)).all()
    if not there:
        raise Unavailable(
            "storage_unknown", "No worker has looked at the store yet.",
            "An io worker does within a minute of its start.", None, 5.0,
        )  # fmt: skip
    if not any(there):
        raise Unavailable(
            "store_missing", "The store's disk is not there: nothing can be said about what may leave it.",
            "Mount the disk that MODELYARD_STORE__ROOT names; nothing was deleted, nothing needs a new download.",
            None, 60.0,
        )  # fmt: skip


def references(session: Session) -> dict[str, References]:
    """Of each model that another one needs, by whom it is needed."""
    found: dict[str, References] = {}
    needs = (func.json_array_length(col(Model.fallback)) > 0) | col(Model.base_model).is_not(None)
    query = select(Model.id, Model.fallback, Model.base_model).where(needs)
    for model_id, steps, base in session.exec(query.order_by(col(Model.id))).all():
        if base is not None and base != model_id:
            found.setdefault(base, References([], [])).base_of.append(model_id)
        for name in sorted({step["model"] for step in steps if "model" in step} - {model_id}):
            found.setdefault(name, References([], [])).fallback_of.append(model_id)
    return found


def why_needed(model: Model, needed: References) -> str:
    """In words; empty where nobody wants it, or needs it."""
    told = [
        *(["it is pinned"] if model.pinned else []),
        *([f"{_listed(needed.fallback_of)} may fall back to it"] if needed.fallback_of else []),
        *([f"{_listed(needed.base_of)} is made for it"] if needed.base_of else []),
    ]
    return ", and ".join(told)


def refuse_if_needed(session: Session, model_id: str) -> None:
    """Make sure that nobody wants a model, or needs it.

    Raises:
        NotFound
        Conflict: code `model_needed`; tells of its pin, and by whom it is needed.
    """
    model, needed = catalog.get_model(session, model_id), references(session).get(model_id, NOBODY)
    if told := why_needed(model, needed):
        pinned = model.pinned
        ways = [f"modelyard unpin {model_id}"] if pinned else []
        ways += [f"modelyard fallback {other} …" for other in needed.fallback_of[:1]]
        raise Conflict(
            "model_needed", f"{model_id!r} is needed: {told}.",
            f"See to that first ({'; '.join(ways)}), or remove it all the same: modelyard rm {model_id} --force."
            if ways else f"To remove it all the same: modelyard rm {model_id} --force.",
            {"pinned": pinned, "fallbackOf": needed.fallback_of, "baseOf": needed.base_of},
        )  # fmt: skip


def _listed(names: list[str], most: int = 5) -> str:
    rest = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*map(repr, names[:most]), *rest])


def _report(session: Session, store: str | None) -> dict[str, Any]:
    """What a worker last found in that store, or in any, if it is there."""
    found = (row.report for row in upkeep.reports(session) if row.there and store in (None, row.store))
    return next(found, {})


def _holds(session: Session, job_id: str | None) -> dict[str, set[Hold]]:
    found: dict[str, set[Hold]] = {}

    def hold(hold: Hold, model_ids: Iterable[str]) -> None:
        for model_id in model_ids:
            found.setdefault(model_id, set()).add(hold)

    hold(Hold.LOADED, session.exec(select(Residency.model_id).where(col(Residency.state).in_(HELD))).all())
    live = col(Job.state).in_(LIVE) & (col(Job.id) != (job_id or ""))
    on_one = select(Job.model_id).where(live, col(Job.model_id).is_not(None), col(Job.kind).not_in(upkeep.HARMLESS))
    hold(Hold.BUSY, [model_id for model_id in session.exec(on_one).all() if model_id is not None])
    for args in session.exec(select(Job.args).where(live, col(Job.kind) == Bundle.kind)).all():
        hold(Hold.BUSY, args.get("models", []))
    hold(Hold.PROFILE, profiles.wanted(session))
    hold(Hold.LOCKED, session.exec(select(LockedEntry.model_id)).all())
    needed = references(session)
    hold(Hold.FALLBACK, [model_id for model_id, by in needed.items() if by.fallback_of])
    hold(Hold.BASE, [model_id for model_id, by in needed.items() if by.base_of])
    return found


def _speeds(session: Session) -> dict[str, float]:
    """By source, the bytes per second of its last downloads, in the median."""
    query = (
        select(Model.source, Job.bytes_done, Job.started_at, Job.finished_at)
        .join(Model, col(Model.id) == col(Job.model_id))
        .where(col(Job.kind) == Download.kind, col(Job.state) == JobState.SUCCEEDED)
        .where(col(Job.bytes_done) >= WORTH_MEASURING)
        .order_by(col(Job.finished_at).desc())
        .limit(DOWNLOADS)
    )
    measured: dict[str, list[float]] = {}
    for source, done, started, finished in session.exec(query).all():
        if done and started and finished and finished > started:
            measured.setdefault(source, []).append(done / (finished - started))
    return {source: statistics.median(speeds) for source, speeds in measured.items()}


# -- the steps of a cleanup ---------------------------------------------------------------------------------


def plan(session: Session, job_id: str, decision: Decision) -> None:
    """Write down what a cleanup sets out to do, so that another attempt goes on with that and nothing else."""
    for place, each in enumerate(decision.leave):
        model = each.verdict.model
        session.add(CleanupStep(
            job_id=job_id, place=place, model_id=model.model_id, model_type=model.model_type, revision=model.revision,
            came_at=model.came_at, reason=each.reason, promised=each.frees, state=StepState.PLANNED,
        ))  # fmt: skip


def let_go(session: Session, model_id: str) -> None:
    """From now on there is nothing to load, and nothing that brings it by itself."""
    catalog.uninstall(session, model_id)
    session.exec(update(Model).where(col(Model.id) == model_id).values(let_go_at=now()))


def steps(session: Session, job_id: str) -> list[CleanupStep]:
    """Of a cleanup, in their order."""
    query = select(CleanupStep).where(col(CleanupStep.job_id) == job_id)
    return list(session.exec(query.order_by(col(CleanupStep.place))).all())


def entries(session: Session, step: CleanupStep) -> list[str]:
    """What its revisions are called in the trash, as the last attempt at it wrote down; before the first: none."""
    mine = (col(CleanupStep.job_id) == step.job_id) & (col(CleanupStep.place) == step.place)
    return list(session.exec(select(CleanupStep.entries).where(mine)).one())


def move(session: Session, step: CleanupStep, before: StepState, state: StepState, **values: Any) -> bool:
    """It is one step further; False: another attempt was faster."""
    mine = (col(CleanupStep.job_id) == step.job_id) & (col(CleanupStep.place) == step.place)
    moved = update(CleanupStep).where(mine, col(CleanupStep.state) == before).values(state=state, **values)
    return session.exec(moved).rowcount == 1


def abandoned(session: Session, store: str) -> list[CleanupStep]:
    """Models of a store that were taken off the registry's list by a cleanup that has ended since, and are not in the
    trash."""
    ours = col(Job.lane).not_in([store_lane(other) for other in nodes.stores(session) - {store}])
    not_mine = select(Job.id).where(col(Job.state).in_(LIVE) | ~ours)
    query = select(CleanupStep).where(
        col(CleanupStep.state) == StepState.LEAVING, col(CleanupStep.job_id).not_in(not_mine)
    )  # fmt: skip
    return list(session.exec(query).all())


def prune(session: Session) -> int:
    """Forget the steps of cleanups whose jobs are forgotten; how many that were."""
    known = select(Job.id).where(col(Job.kind) == Cleanup.kind)
    done = col(CleanupStep.state) != StepState.LEAVING
    return int(session.exec(delete(CleanupStep).where(done, col(CleanupStep.job_id).not_in(known))).rowcount)
