"""The tables of what workers report: their stores, their devices, and what models took there.

Times are seconds since 1970 (UTC) by the database's clock.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, Float
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
