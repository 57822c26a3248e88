"""The detailed status of models: what people look at to see whether it can be used, and what would have to be done."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from api.views import ErrorView, PriorityName, View, eta_seconds, moment
from shared.db import bases, catalog, listing
from shared.db.bases import Fit
from shared.db.facts import Facts
from shared.db.reports import ModelHealth
from shared.db.session import Database
from shared.db.tables import Installation, Job, Model
from shared.states import IN_MEMORY, Availability, Health, JobState, ResidencyState, Tier

MOST_NAMED = 100
"""Missing or damaged files that are named; how many there are is told of all."""
MISSING = "file_missing"
PAUSABLE = (JobState.QUEUED, JobState.RUNNING)


class FetchView(View):
    """The job that brings it, or did."""

    job_id: str
    kind: str
    status: JobState
    progress: float | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    error: ErrorView | None = None


class BaseFit(View):
    """Whether an adapter fits the model that it is for."""

    base_model: str | None
    matches: bool | None = Field(description="Null: nothing tells.")
    why: str


class RemoteView(View):
    """What its source said when it was last asked; POST /models/{id}/source/check asks it now."""

    exists: bool | None = Field(description="Null: it does not tell whoever may not read it, or cannot be asked.")
    gated: bool | None = None
    accessible: bool = Field(description="It would be fetched now.")
    size: int | None = Field(None, description="Bytes that a download would bring.")
    files: int | None = None
    revision: str | None = None
    problem: ErrorView | None = None
    checked_at: datetime


class ModelStatus(View):
    """Everything that says whether a model can be used, and what would have to be done."""

    model_id: str
    model_type: str
    name: str
    availability: Availability
    available: bool = Field(description="It is whole on disk, and may be loaded.")
    load_state: str | None = Field(
        None, description="Of what is in memory of it: starting, ready, …; null: nothing is."
    )
    loaded: bool = Field(description="It answers now.")
    active: bool = Field(description="It serves its type.")
    enabled: bool
    wanted: bool
    size: int | None = Field(description="Bytes on disk; of one that is not there, what is known of it.")
    progress: float | None = Field(None, description="Of what brings it now, 0 to 1.")
    eta_seconds: float | None = Field(None, description="Absent when unknown, never guessed.")
    can_pause: bool
    can_resume: bool
    fetch: FetchView | None = None
    missing_files: list[str] = Field([], description="By the last verify.")
    damaged_files: list[str] = Field([], description="Damaged, or not of the model.")
    corruption_detected: bool
    integrity_score: float | None = Field(None, description="Proven bytes / expected bytes at the last verify.")
    verified_at: datetime | None = None
    health: Health
    performance_score: float | None = Field(
        None, description="How fast it is beside how fast it usually is, 0 to 1; null before anything was measured."
    )
    last_health_check: datetime | None = Field(None, description="Of any kind; GET /models/{id}/health tells more.")
    priority: PriorityName
    priority_set: bool
    usage_frequency: float = Field(description="Uses a day, within 30 days.")
    last_used_at: datetime | None = None
    average_generation_seconds: float | None = Field(None, description="Of its answers within 30 days.")
    current_version: str | None = None
    latest_version: str | None = Field(None, description="What its source offered when it was last asked.")
    update_available: bool
    update_checked_at: datetime | None = None
    tier: Tier | None = None
    thinking: bool | None = None
    modes: list[str] = Field([], description="Of generation.")
    adapter: BaseFit | None = Field(None, description="Of an adapter.")
    source: RemoteView | None = Field(None, description="Null: its source was never asked.")


class StatusPage(View):
    models: list[ModelStatus]
    next_cursor: str | None = None


def statuses(database: Database, wanted: listing.Wanted, after: str | None, limit: int) -> list[ModelStatus]:
    """A page of them; a bounded number of queries, however many there are."""
    with database.reading() as session:
        models = listing.page(session, wanted, after, limit)
        facts = Facts(session, [model.id for model in models])
        fits = bases.judged(session, models, facts.installations)
    return list(_views(models, facts, fits))


def status_of(database: Database, model_id: str) -> ModelStatus:
    """Raises: NotFound."""
    with database.reading() as session:
        model = catalog.get_model(session, model_id)
        facts = Facts(session, [model_id])
        fits = bases.judged(session, [model], facts.installations)
    return next(_views([model], facts, fits))


def _views(models: Sequence[Model], facts: Facts, fits: Mapping[str, Fit]) -> Iterator[ModelStatus]:
    for model in models:
        row, fetch = facts.installations.get(model.id), facts.fetches.get(model.id)
        used = facts.usage.get(model.id)
        availability, held = facts.availability(model.id), facts.residencies.get(model.id, [])
        best = min(held, key=lambda each: (each.state not in IN_MEMORY, not each.active), default=None)
        live = fetch is not None and fetch.state in (*PAUSABLE, JobState.PAUSED)
        yield ModelStatus(
            model_id=model.id, model_type=model.type, name=model.name, availability=availability,
            available=availability in (Availability.AVAILABLE, Availability.UPDATING),
            load_state=best.state if best is not None else None,
            loaded=any(each.state == ResidencyState.READY for each in held), active=any(each.active for each in held),
            enabled=model.enabled, wanted=facts.wanted(model),
            size=row.size if row is not None else _expected(model),
            progress=fetch.progress if fetch is not None and live else None,
            eta_seconds=eta_seconds(fetch) if fetch is not None else None,
            can_pause=fetch is not None and fetch.state in PAUSABLE,
            can_resume=fetch is not None and fetch.state == JobState.PAUSED,
            fetch=_fetch(fetch) if fetch is not None and (live or fetch.state == JobState.FAILED) else None,
            **_on_disk(row),
            health=facts.health(model.id), performance_score=facts.performance(model.id),
            last_health_check=_checked(row, facts.checks_of(model.id)),
            priority=facts.priority(model).name, priority_set=model.priority is not None,
            usage_frequency=facts.uses_per_day(model), last_used_at=moment(used.last_used_at) if used else None,
            average_generation_seconds=used.mean_seconds if used else None,
            tier=Tier(model.tier) if model.tier else None, thinking=model.thinking,
            modes=facts.names[model.id].modes if model.id in facts.names else [],
            adapter=_adapter(fits.get(model.id)), source=view_remote(model.remote),
        )  # fmt: skip


def _expected(model: Model) -> int | None:
    return (model.remote or {}).get("size") or model.file_size


def _on_disk(row: Installation | None) -> dict[str, Any]:
    if row is None:
        return {"corruption_detected": False, "update_available": False}
    named: dict[bool, list[str]] = {True: [], False: []}
    for problem in row.problems:
        named[problem["code"] == MISSING].append(problem["name"])
    return {
        "missing_files": named[True][:MOST_NAMED], "damaged_files": named[False][:MOST_NAMED],
        "corruption_detected": bool(row.problems), "integrity_score": row.integrity if row.verified_at else None,
        "verified_at": moment(row.verified_at or None), "current_version": row.revision,
        "latest_version": row.latest_revision, "update_checked_at": moment(row.update_checked_at),
        "update_available": row.latest_revision not in (None, row.revision),
    }  # fmt: skip


def _fetch(job: Job) -> FetchView:
    running = job.state == JobState.RUNNING
    return FetchView(
        job_id=job.id, kind=job.kind, status=JobState(job.state), progress=job.progress, bytes_done=job.bytes_done,
        bytes_total=job.bytes_total, bytes_per_second=job.bytes_per_second if running else None,
        eta_seconds=eta_seconds(job), error=ErrorView.model_validate(job.error) if job.error else None,
    )  # fmt: skip


def _checked(row: Installation | None, checks: ModelHealth | None) -> datetime | None:
    """When its files were proven last, or it was looked at."""
    return moment(max(checks.checked_at if checks else 0.0, row.verified_at if row else 0.0) or None)


def _adapter(fit: Fit | None) -> BaseFit | None:
    return None if fit is None else BaseFit(base_model=fit.base, matches=fit.matches, why=fit.why)


def view_remote(told: Mapping[str, Any] | None) -> RemoteView | None:
    if told is None:
        return None
    return RemoteView.model_validate({**told, "checkedAt": datetime.fromtimestamp(told["checkedAt"], UTC)})
