"""What is known of a page of models now."""

from sqlmodel import Session, col, func, select

from shared import health as policy
from shared.db import catalog, health, names, trust, usage
from shared.db.reports import ModelHealth, StoreReport
from shared.db.session import now
from shared.db.tables import Installation, Job, Model, Residency
from shared.states import LIVE, Availability, Health, Holder, InstallationState, JobState, Priority, priority_of

UPDATE = "model.update"
FETCHES = ("model.download", "model.repair", UPDATE)


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
        there = session.exec(select(StoreReport.there)).all()
        self._store_away = bool(there) and not any(there)
        self.residencies: dict[str, list[Residency]] = {}
        for residency in catalog.residencies(session, model_ids):
            self.residencies.setdefault(residency.model_id, []).append(residency)
        fetching = (col(Job.kind) + "").in_(FETCHES)  # an expression: else SQLite takes the index of the kind
        newest = (
            select(func.max(Job.created_at))
            .where(col(Job.model_id).in_(model_ids), fetching)
            .group_by(col(Job.model_id))
        )
        jobs = select(Job).where(col(Job.model_id).in_(model_ids), col(Job.created_at).in_(newest))
        self.fetches = {job.model_id: job for job in session.exec(jobs).all() if job.kind in FETCHES}

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
        if found is not None and found.holder == Holder.STORE and self._store_away:
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
        installation, fetch = self.installations.get(model_id), self.fetches.get(model_id)
        updating = fetch is not None and fetch.kind == UPDATE and installation is not None
        if updating and fetch is not None and fetch.state == JobState.RUNNING:
            return Availability.UPDATING
        if fetch is not None and fetch.state in LIVE and not updating:
            return {
                JobState.QUEUED: Availability.QUEUED,
                JobState.RUNNING: Availability.DOWNLOADING,
                JobState.PAUSED: Availability.PAUSED,
            }[JobState(fetch.state)]
        if installation is not None and installation.holder == Holder.STORE and self._store_away:
            return Availability.UNAVAILABLE
        if installation is not None:
            return {
                InstallationState.PUBLISHED: Availability.AVAILABLE,
                InstallationState.CORRUPT: Availability.CORRUPTED,
                InstallationState.GONE: Availability.MISSING,
                InstallationState.AWAY: Availability.UNAVAILABLE,
            }[InstallationState(installation.state)]
        return Availability.FAILED if fetch is not None and fetch.state == JobState.FAILED else Availability.MISSING
