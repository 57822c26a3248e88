"""Pages of the registry, and counts over all of it: what `Facts` tells of one model, asked the other way round.

Jobs are looked at through an index of those that fetch, newest first: never one query a model.
"""

from collections import Counter
from dataclasses import dataclass, fields
from itertools import product
from typing import NamedTuple

from sqlalchemy import ColumnElement, case
from sqlmodel import Session, col, func, select

from shared.db import nodes
from shared.db.facts import Fetch, availability, newest_fetch
from shared.db.names import ModelName
from shared.db.reports import ModelHealth
from shared.db.tables import FETCHES, Installation, Model, Residency
from shared.states import HELD, Availability, Health, InstallationState, JobState

IN_ENTRY = ("type", "source", "tier", "enabled", "thinking")
"""Filters that are columns of a model."""
THEIRS = col(Installation.model_id) == col(Model.id)


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
        meant = [text_ for text_, status in MEANINGS.items() if status is wanted.status]
        query = query.join(Installation, THEIRS, isouter=True).where(_standing(session).in_(meant))
    if after is not None:
        query = query.where(col(Model.id) > after)
    return list(session.exec(query).all())


def _standing(session: Session) -> ColumnElement[str]:
    """What decides a model's availability, as one text: the newest job that fetches it, and its installation."""
    newest = newest_fetch(col(Fetch.kind) + " " + col(Fetch.state))
    away, state = nodes.away(session), col(Installation.state)
    held = case((away.of_installations(), InstallationState.AWAY.value), else_=state) if away else state
    return func.coalesce(newest, "") + "/" + func.coalesce(held, "")


MEANINGS = {
    f"{' '.join(fetch or ())}/{installed or ''}": availability(fetch, installed)
    for fetch, installed in product([None, *product(FETCHES, JobState)], [None, *InstallationState])
}
"""Every such text → what it means."""


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
        by_status=_by_status(session), by_type=by_type, by_tier=by_tier, in_memory=held[0], active=held[1],
        updates_available=sums[0], installed_bytes=int(sums[1] or 0), lowest_integrity=sums[2],
        unhealthy=session.exec(ill).one(),
    )  # fmt: skip


def _by_status(session: Session) -> Counter[Availability]:
    standing = _standing(session).label("standing")
    each = select(standing).select_from(Model).join(Installation, THEIRS, isouter=True).subquery()
    found: Counter[Availability] = Counter()
    for text_, count in session.exec(select(each.c.standing, func.count()).group_by(each.c.standing)).all():
        found[MEANINGS[text_]] += count
    return found
