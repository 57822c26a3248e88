"""Limits on downloads, as rows."""

from datetime import time
from typing import Any

from sqlmodel import Session, col, delete, exists, select

from shared.contracts import KINDS
from shared.db.session import now, serialise
from shared.db.tables import Job, LimitRow, Model
from shared.errors import NotFound
from shared.limits import Day, Fetch, Limit, Window, holding
from shared.refs import SourceKind
from shared.states import JobState, Priority

FETCHING = [kind for kind, contract in KINDS.items() if contract.fetches]
_ON_JOBS = select(exists().where(col(LimitRow.jobs).is_not(None)))
LIMIT_REACHED = "limit_reached"
"""Code of the error that a job shows while it waits for room."""


def every(session: Session) -> list[Limit]:
    """All of them, by name."""
    return [_limit(row) for row in session.exec(select(LimitRow).order_by(col(LimitRow.name))).all()]


def in_force(session: Session) -> list[Limit]:
    """Those that count now, by the database's clock."""
    found = every(session)
    return holding(found, session.exec(select(now())).one()) if found else []


def on_jobs(session: Session) -> bool:
    """Whether any limit is on how many may run, in force or not; every claim and every end asks."""
    return bool(session.connection().execute(_ON_JOBS).scalar_one())


def put(session: Session, limit: Limit) -> None:
    """From now on the limit of that name is this one."""
    serialise(session, "limits")
    window = limit.window
    session.merge(
        LimitRow(
            name=limit.name, source=limit.source, priority=None if limit.priority is None else int(limit.priority),
            bytes_per_second=limit.bytes_per_second, jobs=limit.jobs,
            days=None if window is None else list(window.days),
            starts=None if window is None else window.start.isoformat("minutes"),
            ends=None if window is None else window.end.isoformat("minutes"),
            time_zone=None if window is None else window.time_zone,
        )
    )  # fmt: skip


def clear(session: Session, name: str) -> None:
    """Raises: NotFound."""
    if session.exec(delete(LimitRow).where(col(LimitRow.name) == name)).rowcount == 0:
        raise NotFound("limit_not_found", "There is no limit of this name.", "`modelyard limits` lists them.")


def running(session: Session) -> list[Fetch]:
    """What is being fetched now; the least urgent first, and of those what started last."""
    query = _fetches().where(col(Job.state) == JobState.RUNNING)
    return [
        Fetch(*row) for row in session.exec(query.order_by(col(Job.urgency).desc(), col(Job.started_at).desc())).all()
    ]


def held(session: Session, job_id: str | None = None) -> list[Fetch]:
    """What waits for room under a limit, and this job with it, in the order of their turn."""
    return [Fetch(*row) for row in session.exec(_held(job_id)).all()]


def urgently_held(session: Session, again: float) -> Fetch | None:
    """The first CRITICAL or HIGH one that waits for room, if nobody has made way for it within `again` seconds."""
    unmade = col(Job.way_made_at).is_(None) | (col(Job.way_made_at) < now() - again)
    row = session.exec(_held().where(col(Job.priority) <= Priority.HIGH, unmade)).first()
    return None if row is None else Fetch(*row)


def _held(job_id: str | None = None) -> Any:
    waits = (col(Job.error)["code"].as_string() == LIMIT_REACHED) | (col(Job.id) == job_id)
    # One that made way has the urgency of whom it made way for, and is not to overtake it.
    turn = (col(Job.urgency), col(Job.priority), col(Job.created_at))
    return _fetches().where(col(Job.state) == JobState.QUEUED, waits).order_by(*turn)


def _fetches() -> Any:
    query = select(Job.id, Model.source, Job.priority).join(Model, col(Model.id) == col(Job.model_id))
    return query.where(col(Job.kind).in_(FETCHING))


def _limit(row: LimitRow) -> Limit:
    return Limit(
        name=row.name, source=None if row.source is None else SourceKind(row.source),
        priority=None if row.priority is None else Priority(row.priority),
        bytes_per_second=row.bytes_per_second, jobs=row.jobs, window=_window(row),
    )  # fmt: skip


def _window(row: LimitRow) -> Window | None:
    if row.days is None or row.starts is None or row.ends is None or row.time_zone is None:
        return None
    days = tuple(Day(day) for day in row.days)
    return Window(days, time.fromisoformat(row.starts), time.fromisoformat(row.ends), row.time_zone)
