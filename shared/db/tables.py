"""The tables of models and jobs; `reports.py` has those of what workers report.

Times are seconds since 1970 (UTC) by the database's clock.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, false, text
from sqlmodel import Field, SQLModel

from shared.states import Holder

LIVE_STATES = "state IN ('queued', 'running', 'paused')"
FETCHES = ("model.download", "model.repair", "model.update")
FETCH_KINDS = f"kind IN {FETCHES}"
"""As the index of them has it, word by word: so SQLite knows that it may take it."""


def json_column(*, nullable: bool = False, server_default: str | None = None) -> Any:
    """JSON; None is NULL in it, and not `null`."""
    return Column(JSON(none_as_null=True), nullable=nullable, server_default=server_default)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over some of the rows."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class Model(SQLModel, table=True):
    """A registry entry: what a model is and where it comes from."""

    __tablename__ = "models"
    __table_args__ = (
        Index("ix_models_lower_id", text("lower(id)"), unique=True),
        # For the lists, by id, and for the counts of the summary, which read nothing else.
        Index("ix_models_tier", "tier", "id"),
        Index("ix_models_counts", "type", "tier", "enabled"),
    )

    id: str = Field(primary_key=True, max_length=96)
    type: str = Field(index=True, max_length=32)
    name: str
    description: str = ""
    source: str
    source_url: str
    revision: str | None = None
    """The branch, tag or commit that was asked for; None follows the source's default."""
    file_size: int | None = Field(default=None, sa_column=Column(BigInteger))
    checksum: str | None = None
    requirements: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    tags: list[str] = Field(default_factory=list, sa_column=json_column())
    config: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    enabled: bool = True
    pinned: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    """It leaves memory only where somebody says so."""
    priority: int | None = None
    """How much it matters, where somebody said so; None: its uses tell, see `states.priority_of`."""
    fallback: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column(server_default="[]"))
    """Steps for where it does not fit or does not load; see `shared/fallback.py`."""
    tier: str | None = Field(default=None, max_length=16)
    """See `shared.states.Tier`: as somebody said, or as its files tell; None where neither does."""
    tier_set: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    """Somebody said so; what its files tell does not change it."""
    thinking: bool | None = None
    """It thinks before it answers, where it is asked to."""
    thinking_set: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    base_model: str | None = Field(default=None, max_length=96)
    """Of an adapter, the model of the registry that it is for."""
    from_catalogue: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    """It stands there because a catalogue has it, and not because somebody entered it."""
    remote: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    """What its source said when it was last asked whether it has it; see `workers/jobs/source_check.py`."""
    let_go_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    """When a cleanup put it into the trash; None once it is back. Nothing brings it by itself."""
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    updated_at: float = Field(sa_column=Column(Float(53), nullable=False))


class Installation(SQLModel, table=True):
    """The revision of a model that is there to be used: published in the store, or where somebody else keeps it."""

    __tablename__ = "installations"

    model_id: str = Field(primary_key=True, max_length=96, foreign_key="models.id")
    model_type: str
    """The type it was stored under; stays when the registry entry changes."""
    revision: str
    state: str
    holder: str = Holder.STORE
    owned: bool = True
    """We put it there, so a remove of ours may delete it."""
    store: str | None = Field(default=None, max_length=64)
    """The store whose machines can reach its files; None: it was there before stores were told apart."""
    path: str
    """Its folder, or its one file, on the machine that holds it; `ollama:name` where that is Ollama's business."""
    size: int = Field(sa_column=Column(BigInteger, nullable=False))
    files: int
    unverified: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    """Nothing told its length or its digest, so a part of it would look the same; no verify changes that."""
    integrity: float
    """Proven bytes / expected bytes at the last verify, 0 to 1."""
    problems: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    facts: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """What its files say about themselves: format, architecture, quantization, contextLength, parameterCount."""
    seen: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    """Of a model in place, how it looked at the last scan; see `workers/store/reference.py`."""
    previous_revision: str | None = None
    """The one that served before, kept in the store for a rollback."""
    latest_revision: str | None = None
    """What its source offered when it was last asked."""
    update_checked_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    scrubbed_to: str | None = None
    """The last file that a scrub, which then was interrupted, had found right."""
    came_from: str | None = None
    """The bundle that brought it; None: its source."""
    recorded_by: str | None = Field(default=None, max_length=128)
    """The job that put it there: another attempt at it finds its work done, instead of doing it twice."""
    published_at: float = Field(sa_column=Column(Float(53), nullable=False))
    verified_at: float = Field(sa_column=Column(Float(53), nullable=False))
    """When every byte was last proven."""


class FileList(SQLModel, table=True):
    """The files of what is installed in a store, as its manifest has them: the API may run where no store is.

    One row a model, which lists of models never read.
    """

    __tablename__ = "file_lists"

    model_id: str = Field(primary_key=True, max_length=96)
    revision: str
    files: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    """Each with its `name`, `size` in bytes and `sha256`."""


class LockedEntry(SQLModel, table=True):
    """What the lock that was applied last says of a model: the download that carries it out is held to that.

    A message names it by its digest and never carries it.
    """

    __tablename__ = "locked_entries"

    model_id: str = Field(primary_key=True, max_length=96)
    digest: str = Field(max_length=64)
    entry: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """See `shared/lock.py`."""
    applied_at: float = Field(sa_column=Column(Float(53), nullable=False))


class Residency(SQLModel, table=True):
    """A model in a device's memory: one row per runner that was ever started there."""

    __tablename__ = "residencies"
    __table_args__ = (_partial("ix_residencies_active", "model_type", where="active", unique=True),)

    id: str = Field(primary_key=True, max_length=36)
    model_id: str = Field(index=True)
    model_type: str
    revision: str
    device: str = Field(index=True)
    runtime: str
    state: str = Field(index=True)
    active: bool = False
    """It serves its type. Stays true on a lost residency until another one takes over."""
    url: str | None = None
    pid: int | None = None
    known_as: str | None = None
    """What requests call it where a server holds it that is not ours, which gets no key; None: a runner, by its id."""
    memory_bytes: int | None = Field(default=None, sa_column=Column(BigInteger))
    offloaded_bytes: int | None = Field(default=None, sa_column=Column(BigInteger))
    """What lies in the host's memory though its device is a GPU; None where its server does not tell."""
    kept_bytes: int | None = Field(default=None, sa_column=Column(BigInteger))
    """Weights that stay in the machine's memory so that it can sleep; None where they do not."""
    load_seconds: float | None = None
    context_length: int | None = None
    """Tokens that it serves with; None where its server does not tell."""
    lowered: dict[str, Any] = Field(default_factory=dict, sa_column=json_column(server_default="{}"))
    """What it has less of by a step of its fallback, beside its tokens; see `fit.Lowered`."""
    fallback_for: list[str] = Field(default_factory=list, sa_column=json_column(server_default="[]"))
    """Models that it answers for as a fallback; its own id where it has less than it is to have."""
    started_at: float = Field(sa_column=Column(Float(53), nullable=False))


class Job(SQLModel, table=True):
    """The ledger: one row per job, the only truth about it."""

    __tablename__ = "jobs"
    __table_args__ = (
        _partial("ix_jobs_live_key", "unique_key", where=LIVE_STATES, unique=True),
        _partial("ix_jobs_unsent", "not_before", where="state = 'queued' AND sent_at IS NULL"),
        _partial("ix_jobs_waiting", "lane", "urgency", "created_at", where="state = 'queued'"),
        _partial("ix_jobs_running", "lease_until", where="state = 'running'"),
        Index("ix_jobs_finished", "state", "finished_at"),
        # For the lists: newest first, with and without one filter.
        Index("ix_jobs_created", "created_at", "id"),
        Index("ix_jobs_state", "state", "created_at", "id"),
        Index("ix_jobs_kind", "kind", "created_at", "id"),
        Index("ix_jobs_model_id", "model_id", "created_at", "id"),
        # For what is known of models: the newest of each, without a look at any row.
        _partial("ix_jobs_fetches", "model_id", "created_at", "kind", "state", where=FETCH_KINDS),
    )

    id: str = Field(primary_key=True, max_length=128)
    kind: str = Field(max_length=64)
    unique_key: str | None = None
    lane: str
    priority: int
    urgency: int
    """The class of queue its ticket goes to: its priority, or better where it made way or waited too long."""
    aged: bool = False
    """It waited so long that it goes with the HIGH ones; one live job per lane at a time."""
    model_id: str | None = None
    args: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    origin: str
    """Who asked: `rest`, `foreign`, `request`, `idle`, `recovery` (a lost runner), `switch` (on another device)."""

    state: str
    desired: str
    attempt: int = 0
    """Claims so far; the number of the present claim is the fence that its writes carry."""
    lost: int = 0
    """Workers that died under it."""
    retries: int = 0
    ticket: int = 1
    """Number of the Celery message that may claim it; a message with an older number finds nothing to do."""
    sent_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    """When that message went out, None while it waits in this outbox."""
    not_before: float = Field(default=0.0, sa_column=Column(Float(53), nullable=False))
    way_made_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    """When a running job was last told to give its slot to this one."""
    traceparent: str | None = Field(default=None, max_length=64)
    """What asked for it, where that is traced; see `shared/tracing.py`."""
    lease_owner: str | None = None
    lease_until: float | None = Field(default=None, sa_column=Column(Float(53)))

    phase: str | None = None
    progress: float | None = None
    bytes_done: int | None = Field(default=None, sa_column=Column(BigInteger))
    bytes_total: int | None = Field(default=None, sa_column=Column(BigInteger))
    bytes_per_second: float | None = None
    parts: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    result: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    error: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))

    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    started_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    finished_at: float | None = Field(default=None, sa_column=Column(Float(53)))


class IdempotencyKey(SQLModel, table=True):
    """A caller's own name for one ask, so that the same ask sent again finds the same job. Goes with its job."""

    __tablename__ = "idempotency_keys"

    key: str = Field(primary_key=True, max_length=255)
    fingerprint: str
    """SHA-256 of what was asked for."""
    job_id: str = Field(index=True, max_length=128)
    created: bool
    """The ask made the job; False: it joined one."""


class ScheduleRun(SQLModel, table=True):
    """What must happen once per slot of time, or once ever; the primary key lets only one process do it."""

    __tablename__ = "schedule_runs"

    name: str = Field(primary_key=True, max_length=128)
    slot: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    ran_at: float = Field(sa_column=Column(Float(53), nullable=False))
    finished_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    outcome: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    """`jobs` that a turn of a schedule asked for, its `result`, or its `error`."""


class LimitRow(SQLModel, table=True):
    """A limit on downloads; see `shared/limits.py`. Its window is there whole or not at all."""

    __tablename__ = "limits"

    name: str = Field(primary_key=True, max_length=64)
    source: str | None = None
    priority: int | None = None
    bytes_per_second: int | None = Field(default=None, sa_column=Column(BigInteger))
    jobs: int | None = None
    days: list[str] | None = Field(default=None, sa_column=json_column(nullable=True))
    starts: str | None = None
    ends: str | None = None
    time_zone: str | None = None
