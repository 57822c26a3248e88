"""What is known of a page of models now."""

from typing import Any

from sqlalchemy import ColumnElement, text
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from shared import health as policy
from shared.db import catalog, health, names, nodes, trust, usage
from shared.db.reports import ModelHealth
from shared.db.session import now
from shared.db.tables import FETCH_KINDS, Installation, Job, Model, Residency
from shared.states import LIVE, Availability, Health, InstallationState, JobState, Priority, priority_of

Fetch = aliased(Job)
UPDATE = "model.update"
FETCHED = {
    JobState.QUEUED: Availability.QUEUED, JobState.RUNNING: Availability.DOWNLOADING,
    JobState.PAUSED: Availability.PAUSED,
}  # fmt: skip
"""What a model is while it is being fetched."""
STANDS = {
    InstallationState.PUBLISHED: Availability.AVAILABLE, InstallationState.CORRUPT: Availability.CORRUPTED,
    InstallationState.GONE: Availability.MISSING, InstallationState.AWAY: Availability.UNAVAILABLE,
}  # fmt: skip
"""And while it is not."""


def availability(fetch: tuple[str, str] | None, installed: str | None) -> Availability:
    """Can a model be used, and if not, what is under way?

    Args:
        fetch: kind and state of the newest job that brings it.
        installed: state of its installation; AWAY also where its store is out of reach.
    """
    if fetch is not None:
        kind, state = fetch[0], JobState(fetch[1])
        updates = kind == UPDATE and installed is not None
        if updates and state is JobState.RUNNING:
            return Availability.UPDATING
        if state in LIVE and not updates:
            return FETCHED[state]
    if installed is None:
        lost = fetch is not None and fetch[1] == JobState.FAILED
        return Availability.FAILED if lost else Availability.MISSING
    return STANDS[InstallationState(installed)]


def newest_fetch(what: Any) -> ColumnElement[str]:
    """That of `Fetch` which is the newest to bring a model, of the query around it; one look into an index."""
    mine = (col(Fetch.model_id) == col(Model.id), text(FETCH_KINDS))
    return select(what).where(*mine).order_by(col(Fetch.created_at).desc()).limit(1).correlate(Model).scalar_subquery()


class Facts:
    """What is known of a page of models, fetched with one query per table and not one per model."""

    def __init__(self, session: Session, model_ids: list[str]) -> None:
        self.at = session.exec(select(now())).one()
        self._checks = health.of_models(session, model_ids)
        self.usage = usage.of_models(session, model_ids)
        rows = session.exec(select(Installation).where(col(Installation.model_id).in_(model_ids))).all()
        self.installations = {row.model_id: row for row in rows}
        self.names = names.of_models(session, model_ids)
        self.trusted = trust.of_models(session, model_ids)
        self._away = nodes.away(session)
        self.residencies: dict[str, list[Residency]] = {}
        for residency in catalog.residencies(session, model_ids):
            self.residencies.setdefault(residency.model_id, []).append(residency)
        fetches = select(Model.id, Job).join(Job, col(Job.id) == newest_fetch(Fetch.id))
        self.fetches = dict(session.exec(fetches.where(col(Model.id).in_(model_ids))).all())

    def wanted(self, model: Model) -> bool:
        """Somebody entered it, or had it fetched, and no cleanup let it go; else it only stands in the catalogue."""
        if model.let_go_at is not None:
            return False
        return not model.from_catalogue or model.id in self.installations or model.id in self.fetches

    def uses_per_day(self, model: Model) -> float:
        """Over the days that are kept, or since it was entered where that is less."""
        found = self.usage.get(model.id)
        return usage.per_day(found.uses, self.at - model.created_at) if found else 0.0

    def priority(self, model: Model) -> Priority:
        """How much a model matters, as somebody said or as its uses tell."""
        return priority_of(self.uses_per_day(model), model.priority)

    def health(self, model_id: str) -> Health:
        """Is it whole, and does it answer as it should?"""
        found = self.installations.get(model_id)
        if found is not None and self._away.hold(found.holder, found.store):
            return Health.UNKNOWN
        return health.shown(found, self._checks.get(model_id))

    def checks_of(self, model_id: str) -> ModelHealth | None:
        """What its checks found; of an installation that is gone by now they say nothing."""
        row, there = self._checks.get(model_id), self.installations.get(model_id)
        return row if row and there and row.published_at == there.published_at else None

    def performance(self, model_id: str) -> float | None:
        """See `shared/health.py`."""
        row = self.checks_of(model_id)
        return policy.performance(row.answers, row.latest, row.loads) if row else None

    def availability(self, model_id: str) -> Availability:
        """Can it be used, and if not, what is under way?"""
        found, fetch = self.installations.get(model_id), self.fetches.get(model_id)
        away = found is not None and self._away.hold(found.holder, found.store)
        installed = InstallationState.AWAY if away else found.state if found is not None else None
        return availability((fetch.kind, fetch.state) if fetch else None, installed)
