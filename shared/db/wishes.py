"""The tables of what people want: of schedules, and as profiles.

Times are seconds since 1970 (UTC) by the database's clock.
"""

from typing import Any

from sqlalchemy import Column, Float
from sqlmodel import Field, SQLModel

from shared.db.tables import json_column


class ScheduleWish(SQLModel, table=True):
    """What people want of a schedule; None: what its table and the settings say, see `shared/schedules.py`."""

    __tablename__ = "schedules"

    name: str = Field(primary_key=True, max_length=64)
    enabled: bool | None = None
    every: float | None = Field(default=None, sa_column=Column(Float(53)))
    """Seconds."""
    window: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    """When it may have its turns: `days`, `start`, `end`, `time_zone`; None: at any time."""
    asked_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    """When somebody last wanted a turn at once."""


class ProfileRow(SQLModel, table=True):
    """A profile that was made over REST, or applied; see `shared/profiles.py`. The one applied last is in force."""

    __tablename__ = "profiles"

    name: str = Field(primary_key=True, max_length=64)
    content: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    in_file: bool = False
    """It is one of the folder, as it was when it was applied."""
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    updated_at: float = Field(sa_column=Column(Float(53), nullable=False))
    applied_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    applied: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    """Its content as it was then: what is in force, whatever it says by now."""
