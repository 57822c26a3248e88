"""The statements that every job passes, built once: SQLAlchemy takes longer to build one than a database to run it.

What is bound here has names that no column has: a value bound under a column's name is set in it.
"""

from typing import Any

from sqlalchemy import Executable, Float, String, bindparam, case, exists, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import SQLModel

from shared.db.limits import FETCHING, LIMIT_REACHED
from shared.db.session import now
from shared.db.tables import Job, LimitRow
from shared.states import LIVE, Desired, JobState

JOBS = SQLModel.metadata.tables[str(Job.__tablename__)]
"""The table itself: a statement on it costs half of one on the class."""
ROW = JOBS.c
LIMITS = SQLModel.metadata.tables[str(LimitRow.__tablename__)]

HOLD_SECONDS = 3600.0
"""It is let in long before; after so long it looks by itself."""

_LEASE_END: Any = now() + bindparam("lease_seconds", type_=Float(53))
_FENCE = (
    (ROW.id == bindparam("job_id")) & (ROW.attempt == bindparam("fence")) & (ROW.state == JobState.RUNNING.value)
)  # fmt: skip
_MINE = (ROW.lane == func.coalesce(bindparam("my_lane", type_=String), ROW.lane)) | (
    ROW.lane == bindparam("lane_beside", type_=String)
)
_KNOWN = func.coalesce(ROW.progress, 0.0)
_FRACTION: Any = bindparam("fraction", type_=Float(53))


def entering(dialect: str) -> Executable:
    """A new row, if none stands in its way; answers its `created_at` and `sent_at`.

    `sent` is 0 where its message is at hand already, and NULL, as the sum is then, where it has still to be sent.
    """
    insert = sqlite_insert if dialect == "sqlite" else postgresql_insert
    entry = insert(JOBS).values(created_at=now(), sent_at=now() + bindparam("sent", type_=Float(53)))
    return entry.on_conflict_do_nothing().returning(ROW.created_at, ROW.sent_at)


IN_THE_WAY = (
    select(*ROW)
    .where((ROW.id == bindparam("job_id")) | ((ROW.unique_key == bindparam("its_key")) & ROW.state.in_(LIVE)))
    .order_by((ROW.id == bindparam("job_id")).desc())
)
"""Why a new row was not entered: its own id is there, or a live job for the same work; the former first."""

_DUE = (
    (ROW.id == bindparam("job_id")) & (ROW.state == JobState.QUEUED.value) & (ROW.desired == Desired.RUN.value)
    & (ROW.ticket == bindparam("its_ticket")) & (ROW.not_before <= now()) & _MINE
)  # fmt: skip
CLAIM_WITH_ROOM = (
    update(JOBS)
    .where(_DUE)
    .values(
        state=JobState.RUNNING.value, attempt=ROW.attempt + 1, lease_owner=bindparam("owner"), lease_until=_LEASE_END,
        started_at=func.coalesce(ROW.started_at, now()), phase="starting", error=None,
    )
    .returning(*ROW)
)  # fmt: skip
"""Takes a job that has room under every limit on jobs."""
CLAIM = CLAIM_WITH_ROOM.where(ROW.kind.not_in(FETCHING) | ~exists().where(LIMITS.c.jobs.is_not(None)))
"""Takes a job that no limit on jobs can concern."""
HOLD = (
    update(JOBS)
    .where(_DUE)
    .values(
        ticket=ROW.ticket + 1, sent_at=None, not_before=now() + HOLD_SECONDS,
        error={
            "code": LIMIT_REACHED, "message": "A limit lets no more downloads run at a time.", "retryable": True,
            "hint": "It starts as soon as one ends; `modelyard limits` shows the limits.",
        },
    )
    .returning(*ROW)
)  # fmt: skip
"""Has a job without room wait for it: it costs no attempt and no slot, and keeps its place."""
LET_IN = (
    update(JOBS)
    .where(ROW.id == bindparam("job_id"), ROW.state == JobState.QUEUED.value, ROW.not_before > now())
    .values(ticket=ROW.ticket + 1, sent_at=None, not_before=0.0)
    .returning(*ROW)
)
"""Sends a job on that has room now. It shows what it waited for until it is claimed, and so keeps its place."""

RENEW = update(JOBS).where(_FENCE).values(lease_until=_LEASE_END).returning(ROW.desired)
"""A heartbeat; what is bound under names of columns is stored with it."""
REPORT = RENEW.values(progress=case((_KNOWN > _FRACTION, _KNOWN), else_=_FRACTION))
"""A heartbeat with a fraction, which never goes back."""

END = update(JOBS).where(_FENCE).values(lease_until=None, finished_at=now()).returning(*ROW)
"""Ends a run with what is bound under names of columns."""

THESE = tuple_(ROW.id, ROW.ticket).in_(bindparam("these", expanding=True))
"""Jobs by id, as far as their tickets are still the same. A few hundred at most."""

NOTE_SENT = update(JOBS).where(THESE, ROW.sent_at.is_(None)).values(sent_at=now())
RESEND = (
    update(JOBS).where(THESE, ROW.state == JobState.QUEUED.value).values(ticket=ROW.ticket + 1, sent_at=None)
)  # fmt: skip
