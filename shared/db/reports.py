"""The tables of what workers report: stores, devices, what models took there and how they are, what a cleanup did.

Times are seconds since 1970 (UTC) by the database's clock.
"""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float
from sqlmodel import Field, SQLModel

from shared.db.tables import json_column


class StoreReport(SQLModel, table=True):
    """What a worker last found in a store; the API, which may run elsewhere, tells it on."""

    __tablename__ = "store_reports"

    store: str = Field(primary_key=True, max_length=64)
    """The id in the store's marker."""
    node: str
    there: bool = True
    """False: its disk was not mounted at the last look, and the report is of before."""
    report: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    measured_at: float = Field(sa_column=Column(Float(53), nullable=False))


class Node(SQLModel, table=True):
    """A machine whose workers have reported, with their last signs of life."""

    __tablename__ = "nodes"

    name: str = Field(primary_key=True, max_length=63)
    machine: str
    """Differs between machines that bear the same name by mistake."""
    store: str
    """The id in the marker of the store that it works on."""
    seen_at: float = Field(sa_column=Column(Float(53), nullable=False))
    io_seen_at: float = Field(default=0.0, sa_column=Column(Float(53), nullable=False))
    """Of its io workers; 0 where it has none."""


class Device(SQLModel, table=True):
    """A device that a worker has claimed, with the worker's last sign of life."""

    __tablename__ = "devices"

    id: str = Field(primary_key=True, max_length=64)
    kind: str
    name: str
    node: str
    memory_total: int = Field(sa_column=Column(BigInteger, nullable=False))
    details: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """How it was at that moment, and what can run on it; see `workers/residency/details.py`."""
    seen_at: float = Field(sa_column=Column(Float(53), nullable=False))


class Footprint(SQLModel, table=True):
    """What a model took the last time that it was loaded like this, and what the formula had said."""

    __tablename__ = "footprints"

    model_id: str = Field(primary_key=True, max_length=96)
    revision: str = Field(primary_key=True, max_length=64)
    runtime: str = Field(primary_key=True, max_length=32)
    device: str = Field(primary_key=True, max_length=64)
    context_length: int = Field(primary_key=True)
    memory_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    predicted_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    load_seconds: float
    measured_at: float = Field(sa_column=Column(Float(53), nullable=False))


class UsageCount(SQLModel, table=True):
    """How many answers of one length a model gave on one day; see `shared/db/usage.py`."""

    __tablename__ = "usage_counts"

    model_id: str = Field(primary_key=True, max_length=96)
    day: int = Field(primary_key=True, index=True, sa_column_kwargs={"autoincrement": False})
    """Since 1970, in UTC."""
    length: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    """In steps of a tenth; 0 is a millisecond, and what is shorter."""
    uses: int
    failures: int
    seconds: float = Field(sa_column=Column(Float(53), nullable=False))
    """Of all of them."""
    last_used_at: float = Field(sa_column=Column(Float(53), nullable=False))


class RetentionChange(SQLModel, table=True):
    """What people want of the retention policy, other than its settings say; one row, or none."""

    __tablename__ = "retention"

    name: str = Field(primary_key=True, max_length=16)
    changes: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """By the names of `shared.retention.Policy`."""
    changed_at: float = Field(sa_column=Column(Float(53), nullable=False))


class CleanupStep(SQLModel, table=True):
    """One model that a cleanup has set out to put into the trash: what was promised, and what became of it."""

    __tablename__ = "cleanup_steps"

    job_id: str = Field(primary_key=True, max_length=128)
    place: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    """In the order of the plan."""
    model_id: str = Field(max_length=96)
    model_type: str
    revision: str
    """That was installed when it was planned: nothing else is touched."""
    came_at: float = Field(sa_column=Column(Float(53), nullable=False))
    """When that was published: the same revision, fetched again, is another one."""
    reason: str
    promised: int = Field(sa_column=Column(BigInteger, nullable=False))
    """Bytes, with those of the steps before it."""
    state: str = Field(index=True)
    """Of `StepState`."""
    revisions: list[str] = Field(default_factory=list, sa_column=json_column())
    """All that leave: the installed one, and the one that was kept for a rollback."""
    memo: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """The registry's entry, for a restore."""
    freed: int | None = Field(default=None, sa_column=Column(BigInteger))
    entries: list[str] = Field(default_factory=list, sa_column=json_column())
    """What each of these is called in the trash, which is settled right before it goes there."""
    told: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """Why it was left out: `code` and `message`, and what holds it."""


class ModelHealth(SQLModel, table=True):
    """What the checks of a model found; see `shared/health.py`. That its bytes are damaged says its installation."""

    __tablename__ = "model_health"

    model_id: str = Field(primary_key=True, max_length=96)
    published_at: float = Field(sa_column=Column(Float(53), nullable=False))
    """Of the installation that was checked: of one that came later nothing is known here."""
    state: str
    since: float = Field(sa_column=Column(Float(53), nullable=False))
    """When it took that state."""
    told: str | None = None
    """The health that the last event told."""
    outcomes: list[bool] = Field(default_factory=list, sa_column=json_column())
    """Whether each of its last answers was one; the newest last."""
    unsettled: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    """The newest of these contradicts the state."""
    reasons: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column())
    """What the last check that could tell found wrong, each with `code`, `message` and `hint`."""
    checked_at: float = Field(sa_column=Column(Float(53), nullable=False))
    due: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    """It is to be looked at, however long ago that was done."""
    live_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    """When it was last asked something."""
    checked_by: str | None = Field(default=None, max_length=128)
    """The job of the last check: another attempt at it counts once."""
    measured_on: str | None = None
    """Runtime, device and context; times that were measured on another one are forgotten."""
    answers: list[float] = Field(default_factory=list, sa_column=json_column())
    """Seconds of answers that were well; the newest last."""
    latest: list[float] = Field(default_factory=list, sa_column=json_column())
    """Seconds of the last few, slow ones too."""
    loads: list[float] = Field(default_factory=list, sa_column=json_column())
    loaded_as: str | None = Field(default=None, max_length=36)
    """The residency whose load was noted last."""
