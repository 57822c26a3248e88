"""Pages of the registry, and counts over all of it: what `Facts` tells of one model, asked the other way round.

Jobs are looked at by state, so that what is asked costs what it finds, and never one query a model.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, or_, select

from shared.db.facts import FETCHES, UPDATE
from shared.db.names import ModelName
from shared.db.reports import ModelHealth, StoreReport
from shared.db.tables import Installation, Job, Model, Residency
from shared.states import HELD, LIVE, Availability, Health, Holder, InstallationState, JobState

BRINGS = tuple(kind for kind in FETCHES if kind != UPDATE)
IN_ENTRY = ("type", "source", "tier", "enabled", "thinking")
"""Filters that are columns of a model."""
LOOKS = {
    JobState.QUEUED: Availability.QUEUED, JobState.RUNNING: Availability.DOWNLOADING,
    JobState.PAUSED: Availability.PAUSED,
}  # fmt: skip
"""What a model is while it is being fetched."""
STANDS = {
    InstallationState.PUBLISHED: Availability.AVAILABLE, InstallationState.CORRUPT: Availability.CORRUPTED,
    InstallationState.GONE: Availability.MISSING, InstallationState.AWAY: Availability.UNAVAILABLE,
}  # fmt: skip
"""And while it is not."""


@dataclass(frozen=True)
class Wanted:
    """Which models; None: whatever."""

    type: str | None = None
    status: Availability | None = None
    tier: str | None = None
    source: str | None = None
    enabled: bool | None = None
    thinking: bool | None = None
    mode: str | None = None
    text: str | None = None


def page(session: Session, wanted: Wanted, after: str | None = None, limit: int = 100) -> list[Model]:
    """By id; `after` is the last id seen."""
    query = select(Model).order_by(col(Model.id)).limit(limit)
    for name in (field.name for field in fields(wanted) if field.name in IN_ENTRY):
        if (value := getattr(wanted, name)) is not None:
            query = query.where(getattr(Model, name) == value)
    if wanted.text:
        pattern = f"%{wanted.text.replace('%', '').replace('_', '')}%"
        query = query.where(col(Model.id).ilike(pattern) | col(Model.name).ilike(pattern))
    if wanted.mode is not None:
        has = (col(ModelName.model_id) == col(Model.id)) & (col(ModelName.name) == wanted.mode)
        query = query.where(select(ModelName.model_id).where(has, col(ModelName.is_mode)).exists())
    if wanted.status is not None:
        query = query.where(_is(wanted.status, store_away=_store_away(session)))
    if after is not None:
        query = query.where(col(Model.id) > after)
    return list(session.exec(query).all())


def _store_away(session: Session) -> bool:
    there = session.exec(select(StoreReport.there)).all()
    return bool(there) and not any(there)


def _is(status: Availability, *, store_away: bool) -> ColumnElement[bool]:
    """A model has that availability; see `Facts.availability`, which says what each means."""
    installed = _installed()
    fetched = {Availability.QUEUED, Availability.DOWNLOADING, Availability.PAUSED}
    if status in fetched:
        state = next(state for state, look in LOOKS.items() if look is status)
        return _in(_newest([state], BRINGS)) | (_in(_newest([state], [UPDATE])) & ~installed)
    updating = _in(_newest([JobState.RUNNING], [UPDATE])) & installed
    if status is Availability.UPDATING:
        return updating
    if status is Availability.FAILED:
        return _in(_newest([JobState.FAILED], FETCHES)) & ~installed
    busy = _in(_newest(LIVE, BRINGS)) | (_in(_newest(LIVE, [UPDATE])) & ~installed) | updating
    states = [state for state, stands in STANDS.items() if stands is status]
    in_store = col(Installation.holder) == Holder.STORE
    stands: ColumnElement[bool] = col(Installation.state).in_(states)
    if store_away:
        stands = or_(in_store, stands) if status is Availability.UNAVAILABLE else stands & ~in_store
    there = _installed(stands)
    if status is Availability.MISSING:
        there |= ~installed & ~_in(_newest([JobState.FAILED], FETCHES))
    return there & ~busy


def _in(models: Any) -> ColumnElement[bool]:
    return col(Model.id).in_(models)


def _installed(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    return select(Installation.model_id).where(col(Installation.model_id) == col(Model.id), *which).exists()


def _newest(states: Collection[str], kinds: Collection[str]) -> Select[Any]:
    """Models of which the newest job that fetches them is of these kinds, and in one of these states."""
    return select(Job.model_id).where(*_are_newest(states, kinds))


def _are_newest(states: Collection[str], kinds: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    later = aliased(Job)
    again = select(later.id).where(
        col(later.model_id) == col(Job.model_id), col(later.created_at) > col(Job.created_at),
        (col(later.kind) + "").in_(FETCHES),
    )  # fmt: skip
    mine = (col(Job.kind) + "").in_(kinds)  # an expression: else SQLite takes the index of the kind
    return col(Job.state).in_(states), mine, ~again.exists()


class Counts(NamedTuple):
    """Over the whole registry."""

    models: int
    enabled: int
    by_status: Counter[Availability]
    by_type: Counter[str]
    by_tier: Counter[str]
    in_memory: int
    active: int
    updates_available: int
    installed_bytes: int
    """As their files are long; what several share is counted for each."""
    lowest_integrity: float | None
    unhealthy: int
    """Whole, and their last answers were none, or came far too late."""


def counts(session: Session) -> Counts:
    """How many models there are, and how they are; a handful of queries, whatever their number."""
    kinds = (col(Model.type), col(Model.tier), col(Model.enabled))
    rows = session.exec(select(*kinds, func.count()).group_by(*kinds)).all()
    total = sum(count for *_, count in rows)
    by_type, by_tier = Counter[str](), Counter[str]()
    for type_, tier, _, count in rows:
        by_type[type_] += count
        if tier is not None:
            by_tier[tier] += count
    newer = col(Installation.latest_revision) != col(Installation.revision)
    sums = session.exec(
        select(func.count().filter(newer), func.sum(Installation.size), func.min(Installation.integrity))
    ).one()
    held = session.exec(
        select(func.count(func.distinct(Residency.model_id)), func.count().filter(col(Residency.active)))
        .where(col(Residency.state).in_(HELD))
    ).one()  # fmt: skip
    checked = (col(ModelHealth.model_id) == col(Installation.model_id)) & (
        col(ModelHealth.published_at) == col(Installation.published_at)
    )
    ill = select(func.count()).select_from(ModelHealth).join(Installation, checked).where(
        col(ModelHealth.state) == Health.UNHEALTHY, col(Installation.state) == InstallationState.PUBLISHED
    )  # fmt: skip
    return Counts(
        models=total, enabled=sum(count for *_, enabled, count in rows if enabled),
        by_status=_by_status(session, total), by_type=by_type, by_tier=by_tier, in_memory=held[0], active=held[1],
        updates_available=sums[0], installed_bytes=int(sums[1] or 0), lowest_integrity=sums[2],
        unhealthy=session.exec(ill).one(),
    )  # fmt: skip


def _by_status(session: Session, total: int) -> Counter[Availability]:
    away = _store_away(session)
    found: Counter[Availability] = Counter()

    def stands(state: str, holder: str) -> Availability:
        return Availability.UNAVAILABLE if away and holder == Holder.STORE else STANDS[InstallationState(state)]

    there = select(Installation.state, Installation.holder, func.count())
    for state, holder, count in session.exec(there.group_by(Installation.state, Installation.holder)).all():
        found[stands(state, holder)] += count
    not_there = total - found.total()
    row = Installation
    for kinds in (BRINGS, (UPDATE,)):
        live = (
            select(Job.state, row.state, row.holder, func.count())
            .join(Model, col(Model.id) == col(Job.model_id))
            .join(row, col(row.model_id) == col(Job.model_id), isouter=True)
            .where(*_are_newest(LIVE, kinds))
            .group_by(Job.state, row.state, row.holder)
        )
        for state, standing, holder, count in session.exec(live).all():
            look = _while(JobState(state), updates=kinds == (UPDATE,) and standing is not None)
            if look is None:
                continue
            found[look] += count
            if standing is None:
                not_there -= count
            else:
                found[stands(standing, holder)] -= count
    lost = select(func.count()).select_from(Model).where(_is(Availability.FAILED, store_away=away))
    found[Availability.FAILED] = session.exec(lost).one()
    found[Availability.MISSING] += not_there - found[Availability.FAILED]
    return found


def _while(state: JobState, *, updates: bool) -> Availability | None:
    """What a model is while such a job is under way; None: what it would be without."""
    if updates:
        return Availability.UPDATING if state is JobState.RUNNING else None
    return LOOKS[state]
