"""What is done by the clock, as rows: what people want of it, and what came of each turn."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, func, or_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete, select

from shared.db.session import now
from shared.db.tables import ScheduleRun
from shared.db.wishes import ScheduleWish

KEPT_TURNS = 100
"""Of each schedule, for people to look at."""
SHORTEST_KEEP_SECONDS = 3600.0
ABANDONED_SECONDS = 300.0
"""A turn of which nothing was noted for so long is somebody else's: whoever had it was killed, or noted nothing."""


def wish(session: Session, name: str) -> ScheduleWish:
    """What people want of a schedule; nothing in particular where nobody said so."""
    return session.get(ScheduleWish, name) or ScheduleWish(name=name)


def put_wish(session: Session, name: str, **changes: Any) -> None:
    """From now on this is wanted of it; what is not named stays."""
    if not changes:
        return
    insert = _insert(session, ScheduleWish).values(name=name, **changes)
    session.exec(insert.on_conflict_do_update(index_elements=["name"], set_=changes))


def ask_now(session: Session, name: str) -> None:
    """A turn of it is wanted at once, wherever it is done."""
    put_wish(session, name, asked_at=now())


def newest_slot(session: Session, turn: str) -> int | None:
    """The last turn that the clock gave, but for one that was abandoned."""
    mine = col(ScheduleRun.name) == turn
    return session.exec(select(func.max(ScheduleRun.slot)).where(mine, ~_abandoned())).one()


def take(session: Session, turn: str, slot: int, seconds: float) -> bool:
    """True for one caller, over all processes.

    Args:
        turn: the schedule's name, and where it is done place by place, that of the place after a space.
        slot: in ms since 1970; below 0 that of a turn that somebody asked for.
        seconds: between two turns; what is a hundred of them old is forgotten.
    """
    insert = _insert(session, ScheduleRun).values(name=turn, slot=slot, ran_at=now())
    mine = {"index_elements": ["name", "slot"], "set_": {"ran_at": now()}, "where": _abandoned()}
    if session.exec(insert.on_conflict_do_update(**mine).returning(ScheduleRun)).one_or_none() is None:
        return False
    keep = max(KEPT_TURNS * seconds, SHORTEST_KEEP_SECONDS)
    session.exec(delete(ScheduleRun).where(col(ScheduleRun.name) == turn, col(ScheduleRun.ran_at) < now() - keep))
    return True


def note(session: Session, turn: str, slot: int, outcome: dict[str, Any]) -> None:
    """What came of a turn: `jobs` that it asked for, its `result`, or its `error`."""
    this = (col(ScheduleRun.name) == turn, col(ScheduleRun.slot) == slot)
    session.exec(update(ScheduleRun).where(*this).values(finished_at=now(), outcome=outcome))


def last(session: Session, names: Iterable[str]) -> dict[str, ScheduleRun]:
    """The last turn of each of these schedules, by its name; the table has other rows beside turns."""
    newest = select(ScheduleRun.name, func.max(ScheduleRun.ran_at).label("ran_at"))
    each = newest.where(or_(*map(_of, names))).group_by(col(ScheduleRun.name)).subquery()
    query = select(ScheduleRun).join(
        each, (col(ScheduleRun.name) == each.c.name) & (col(ScheduleRun.ran_at) == each.c.ran_at)
    )
    rows = session.exec(query.order_by(col(ScheduleRun.ran_at))).all()
    return {row.name.partition(" ")[0]: row for row in rows}


def turns(session: Session, name: str, limit: int) -> list[ScheduleRun]:
    """The last turns of a schedule at all its places, newest first."""
    query = select(ScheduleRun).where(_of(name)).order_by(col(ScheduleRun.ran_at).desc())
    return list(session.exec(query.limit(limit)))


def _of(name: str) -> ColumnElement[bool]:
    """The turns of a schedule at all its places."""
    return (col(ScheduleRun.name) == name) | col(ScheduleRun.name).startswith(f"{name} ", autoescape=True)


def _abandoned() -> ColumnElement[bool]:
    return col(ScheduleRun.finished_at).is_(None) & (col(ScheduleRun.ran_at) < now() - ABANDONED_SECONDS)


def _insert(session: Session, table: type[Any]) -> Any:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
