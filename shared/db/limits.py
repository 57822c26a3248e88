"""Limits on downloads, as rows."""

from datetime import time

from sqlmodel import Session, col, delete, select

from shared.db.session import now
from shared.db.tables import LimitRow
from shared.errors import NotFound
from shared.limits import Day, Limit, Window, holding
from shared.refs import SourceKind
from shared.states import Priority


def every(session: Session) -> list[Limit]:
    """All of them, by name."""
    return [_limit(row) for row in session.exec(select(LimitRow).order_by(col(LimitRow.name))).all()]


def in_force(session: Session) -> list[Limit]:
    """Those that count now, by the database's clock."""
    found = every(session)
    return holding(found, session.exec(select(now())).one()) if found else []


def put(session: Session, limit: Limit) -> None:
    """From now on the limit of that name is this one."""
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
