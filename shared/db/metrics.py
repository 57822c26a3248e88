"""What is counted and measured of the rows: a bounded number of queries, whatever there is of jobs and models."""

from collections import Counter
from typing import Any, NamedTuple

from sqlalchemy import case, text, tuple_
from sqlalchemy import select as pick
from sqlmodel import Session, col, func, select

from shared.db import health, listing, upkeep
from shared.db.listing import Counts
from shared.db.reports import Device, ModelHealth, StoreReport
from shared.db.session import now
from shared.db.tables import Installation, Job, Residency, ScheduleRun
from shared.db.webhooks import PENDING, STATES, Delivery
from shared.states import HELD, LIVE, Health, JobState


class Waiting(NamedTuple):
    """What is queued of one urgency in one lane."""

    lane: str
    urgency: int
    jobs: int
    age: float
    """Seconds that the oldest which could start has waited; 0 where there is none."""


class Levels(NamedTuple):
    """How it is now."""

    now: float
    jobs: dict[tuple[str, str], int]
    """By kind and live state."""
    waiting: list[Waiting]
    speeds: dict[str, float]
    """Bytes per second of running jobs, by kind."""
    devices: list[Device]
    residencies: list[Residency]
    """In memory, or meant to be, or near it."""
    models: Counts
    health: Counter[Health]
    """Of what is installed."""
    stores: list[StoreReport]
    deliveries: dict[str, int]
    pending_age: float
    turns: dict[str, float]
    """When each schedule had its last turn."""


class Ended(NamedTuple):
    """A job that ended."""

    id: str
    kind: str
    attempt: int
    lost: int
    retries: int
    bytes_done: int | None
    result: dict[str, Any] | None
    started_at: float | None
    finished_at: float


def levels(session: Session) -> Levels:
    """All of it, in one transaction."""
    moment = session.exec(select(now())).one()
    kinds = select(Job.kind, Job.state, func.count()).where(col(Job.state).in_(LIVE)).group_by(Job.kind, Job.state)
    speeds = (
        select(Job.kind, func.sum(Job.bytes_per_second)).where(col(Job.state) == JobState.RUNNING).group_by(Job.kind)
    )
    deliveries = session.exec(select(Delivery.state, func.count()).group_by(Delivery.state)).all()
    oldest = session.exec(select(func.min(Delivery.since)).where(col(Delivery.state) == PENDING)).one()
    held = select(Residency).where(col(Residency.state).in_(HELD))
    return Levels(
        now=moment, jobs={(kind, state): count for kind, state, count in session.exec(kinds).all()},
        waiting=_waiting(session, moment),
        speeds={kind: float(speed or 0.0) for kind, speed in session.exec(speeds).all()},
        devices=list(session.exec(select(Device).order_by(col(Device.id))).all()),
        residencies=list(session.exec(held).all()), models=listing.counts(session), health=_health(session),
        stores=upkeep.reports(session), deliveries={**dict.fromkeys(STATES, 0), **dict(deliveries)},
        pending_age=max(0.0, moment - oldest) if oldest is not None else 0.0, turns=_turns(session),
    )  # fmt: skip


def _waiting(session: Session, moment: float) -> list[Waiting]:
    due_at = case((col(Job.not_before) > col(Job.created_at), col(Job.not_before)), else_=col(Job.created_at))
    since = func.min(func.coalesce(col(Job.sent_at), due_at)).filter(col(Job.not_before) <= moment)
    # Spelled out, because SQLite uses an index over some rows only where it sees that the condition is the same.
    query = select(Job.lane, Job.urgency, func.count(), since).where(text("state = 'queued'"))
    rows = session.exec(query.group_by(col(Job.lane), col(Job.urgency))).all()
    return [
        Waiting(lane, urgency, count, max(0.0, moment - oldest) if oldest is not None else 0.0)
        for lane, urgency, count, oldest in rows
    ]


def _health(session: Session) -> Counter[Health]:
    """As `health.shown` says it of each."""
    checked = (col(ModelHealth.model_id) == col(Installation.model_id)) & (
        col(ModelHealth.published_at) == col(Installation.published_at)
    )
    proven = col(Installation.verified_at) > 0
    groups = (col(Installation.state), proven, col(ModelHealth.state))
    query = select(*groups, func.count()).select_from(Installation).outerjoin(ModelHealth, checked).group_by(*groups)
    found: Counter[Health] = Counter()
    for state, is_proven, told, count in session.exec(query).all():
        found[health.shown_as(state, bool(is_proven), told)] += count
    return found


def _turns(session: Session) -> dict[str, float]:
    query = select(ScheduleRun.name, func.max(ScheduleRun.ran_at)).group_by(ScheduleRun.name)
    found: dict[str, float] = {}
    for name, ran_at in session.exec(query).all():
        schedule = name.partition(" ")[0]  # the rest is the place where it was done
        found[schedule] = max(found.get(schedule, 0.0), ran_at or 0.0)
    return found


def ended(session: Session, state: JobState, after: tuple[float, str], limit: int) -> list[Ended]:
    """Jobs that ended in this state after that moment, or at it with a later id; the earliest first."""
    at, own = col(Job.finished_at), col(Job.id)
    columns: tuple[Any, ...] = (
        own, Job.kind, Job.attempt, Job.lost, Job.retries, Job.bytes_done, Job.result, Job.started_at, at,
    )  # fmt: skip
    query = pick(*columns).where(col(Job.state) == state, at >= after[0], tuple_(at, own) > after)
    return [Ended(*row) for row in session.connection().execute(query.order_by(at, own).limit(limit))]
