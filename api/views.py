"""What answers look like, in camelCase."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from shared.db.facts import Facts
from shared.db.names import NO_NAMES
from shared.db.tables import Job, Model, Residency
from shared.refs import SourceKind
from shared.states import AWAY, Availability, Health, Holder, JobState, Priority, ResidencyState, Tier

PriorityName = Literal["CRITICAL", "HIGH", "MEDIUM", "LOW"]


class View(BaseModel):
    """An answer."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


def moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


# -- jobs ---------------------------------------------------------------------------------------------------


class ErrorView(View):
    code: str
    message: str
    hint: str
    retryable: bool = False
    retry_at: datetime | None = None
    details: dict[str, Any] | None = None

    @field_validator("retry_at", mode="before")
    @classmethod
    def _from_seconds(cls, value: Any) -> Any:
        return moment(value) if isinstance(value, int | float) else value


class JobView(View):
    """One job of any kind."""

    id: str
    kind: str
    status: JobState
    phase: str | None = None
    priority: PriorityName
    model_id: str | None = None
    origin: str
    progress: float | None = Field(None, description="0 to 1, of the whole job; never goes back.")
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = Field(None, description="Absent when unknown, never guessed.")
    parts: list[dict[str, Any]] = []
    queue_position: int | None = Field(None, description="Place in its lane, counted from 1; of one waiting job.")
    predicted_start: datetime | None = Field(None, description="Of one waiting job; absent when unknown.")
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: dict[str, Any] | None = None
    error: ErrorView | None = None


def eta_seconds(job: Job) -> float | None:
    """Seconds until the last byte of a running job, None where they cannot be told."""
    if job.state != JobState.RUNNING or not job.bytes_total or not job.bytes_per_second:
        return None
    return (job.bytes_total - (job.bytes_done or 0)) / job.bytes_per_second


def view_job(job: Job, position: int | None = None, predicted_start: float | None = None) -> JobView:
    running = job.state == JobState.RUNNING
    return JobView(
        id=job.id, kind=job.kind, status=JobState(job.state), phase=job.phase if running else None,
        priority=Priority(job.priority).name, model_id=job.model_id, origin=job.origin,
        progress=job.progress, bytes_done=job.bytes_done, bytes_total=job.bytes_total,
        bytes_per_second=job.bytes_per_second if running else None, eta_seconds=eta_seconds(job),
        parts=job.parts or [], queue_position=position, predicted_start=moment(predicted_start), attempt=job.attempt,
        created_at=datetime.fromtimestamp(job.created_at, UTC),
        started_at=moment(job.started_at), finished_at=moment(job.finished_at), result=job.result,
        error=ErrorView.model_validate(job.error) if job.error else None,
    )  # fmt: skip


class Accepted(View):
    """Long work was taken on: follow the job."""

    job: JobView
    links: dict[str, str]

    @classmethod
    def of(cls, job: JobView) -> "Accepted":
        path = f"/api/v1/jobs/{job.id}"
        return cls(job=job, links={"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"})


class JobPage(View):
    jobs: list[JobView]
    next_cursor: str | None = None


# -- models -------------------------------------------------------------------------------------------------


class TrustView(View):
    """What somebody allowed one revision to bring along."""

    revision: str
    allow_pickle: bool
    allow_remote_code: bool
    allow_unverified: bool
    granted_by: str
    granted_at: datetime


class ModelView(View):
    """A registry entry with what is known of it now."""

    model_id: str
    model_type: str
    name: str
    description: str
    source: SourceKind
    source_url: str
    revision: str | None = Field(None, description="What was asked for; null follows the source's default.")
    file_size: int | None = None
    checksum: str | None = None
    requirements: dict[str, Any]
    tags: list[str]
    config: dict[str, Any]
    enabled: bool
    tier: Tier | None = Field(None, description="As somebody said, or as its size tells; null where nothing does.")
    tier_set: bool = Field(description="Somebody said so.")
    thinking: bool | None = Field(None, description="It can think before it answers; by its chat template, or as set.")
    thinking_set: bool = Field(description="Somebody said so.")
    aliases: list[str] = Field([], description="Other names of it.")
    modes: list[str] = Field([], description="Of generation, such as t2v.")
    base_model: str | None = Field(None, description="Of an adapter, the model that it is for.")
    wanted: bool = Field(description="Somebody entered or fetched it; false: it only stands in the catalogue.")
    pinned: bool = Field(description="It leaves memory only where somebody says so.")
    priority: PriorityName = Field(
        description="HIGH for more than one use a day, MEDIUM for more than 0.1, else LOW; or as it was set."
    )
    priority_set: bool = Field(description="Somebody set the priority; false: it follows from the uses.")
    uses_per_day: float = Field(description="Within 30 days, or since it was entered where that is less.")
    last_used_at: datetime | None = Field(None, description="Within 30 days.")
    fallback: list[dict[str, Any]] = Field(
        [], description="Steps for where it does not fit or does not load: {model}, or less of itself; none: strict."
    )
    status: Availability
    active: bool = Field(description="It serves its type.")
    load_state: str | None = Field(
        None, description="Of its residency: starting, ready, draining, lost, idle; null when not in memory."
    )
    installed_revision: str | None = None
    size: int | None = Field(None, description="Bytes on disk.")
    integrity: float | None = Field(None, description="Proven bytes / expected bytes at the last verify.")
    unverified: bool = Field(
        False, description="Its server told neither length nor digest: it may be cut off, and is not loaded unasked."
    )
    held_by: Holder | None = Field(None, description="store: downloaded here; folder: where you keep it; ollama.")
    facts: dict[str, Any] = Field({}, description="What its files say: format, architecture, quantization, …")
    local_path: str | None = None
    came_from: str | None = Field(None, description="The bundle that brought it; null: its source.")
    health: Health = Field(description="Whether it is whole, and answers as it should, by its last checks.")
    health_checked_at: datetime | None = None
    performance: float | None = Field(None, description="0 to 1, beside how fast it usually is.")
    trusted: list[TrustView] = Field([], description="Allowed exceptions from the trust gate, newest first.")
    verified_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


class ModelPage(View):
    models: list[ModelView]
    next_cursor: str | None = None


def view_model(model: Model, facts: Facts) -> ModelView:
    installation = facts.installations.get(model.id)
    residencies: list[Residency] = facts.residencies.get(model.id, [])
    serving = next((row for row in residencies if row.active), None)
    near = next((row for row in residencies if row.state == ResidencyState.ASLEEP), None)
    used, checks = facts.usage.get(model.id), facts.checks_of(model.id)
    called = facts.names.get(model.id, NO_NAMES)
    loaded = near if near and serving and serving.state in AWAY else serving or next(iter(residencies), None)
    return ModelView(
        model_id=model.id, model_type=model.type, name=model.name, description=model.description,
        source=SourceKind(model.source), source_url=model.source_url, revision=model.revision,
        file_size=model.file_size, checksum=model.checksum, requirements=model.requirements, tags=model.tags,
        config=model.config, enabled=model.enabled, pinned=model.pinned, fallback=model.fallback,
        tier=Tier(model.tier) if model.tier else None, tier_set=model.tier_set, thinking=model.thinking,
        thinking_set=model.thinking_set, base_model=model.base_model, **called._asdict(),
        wanted=facts.wanted(model),
        priority=facts.priority(model).name, priority_set=model.priority is not None,
        uses_per_day=facts.uses_per_day(model), last_used_at=moment(used.last_used_at) if used else None,
        status=facts.availability(model.id),
        active=serving is not None,
        load_state=loaded.state if loaded else None,
        installed_revision=installation.revision if installation else None,
        size=installation.size if installation else None,
        integrity=installation.integrity if installation and installation.verified_at else None,
        unverified=installation.unverified if installation else False,
        held_by=Holder(installation.holder) if installation else None,
        facts=installation.facts if installation else {},
        came_from=installation.came_from if installation else None,
        local_path=installation.path if installation and installation.holder != Holder.OLLAMA else None,
        health=facts.health(model.id), health_checked_at=moment(checks.checked_at) if checks else None,
        performance=facts.performance(model.id),
        trusted=[TrustView.model_validate(row, from_attributes=True) for row in facts.trusted.get(model.id, [])],
        verified_at=moment(installation.verified_at or None) if installation else None,
        created_at=datetime.fromtimestamp(model.created_at, UTC),
        updated_at=datetime.fromtimestamp(model.updated_at, UTC),
    )  # fmt: skip


class ActiveView(View):
    """Who serves a type."""

    model_type: str
    model_id: str
    revision: str
    device: str
    runtime: str
    state: str
    memory_bytes: int | None = None
    load_seconds: float | None = None
    context_length: int | None = Field(None, description="Tokens that it serves with.")
    lowered: dict[str, Any] = Field({}, description="What it has less of: gpuLayers, device (cpu), precision.")
    fallback_for: list[str] = Field(
        [], description="Models that it answers for as their fallback; itself where it has less than it is to have."
    )


class Part(View):
    """One part of the service."""

    ok: bool
    detail: str


class Readiness(View):
    status: Literal["ready", "not_ready"]
    parts: dict[str, Part]
