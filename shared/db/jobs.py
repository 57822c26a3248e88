"""Finding jobs. Every change of a job is in `shared/jobs.py`."""

from collections import Counter
from collections.abc import Collection
from itertools import takewhile

from sqlalchemy import tuple_
from sqlmodel import Session, col, func, select

from shared.db.session import now
from shared.db.tables import Job, Model
from shared.errors import NotFound
from shared.states import ENDED, LIVE, Desired, JobState, Priority

SWITCH = "model.switch"
LOADS = (SWITCH, "model.load")
"""Kinds that bring a model into memory."""
UNLOAD = "model.unload"
FAILURES = 8
"""So many in a row are looked at."""
OUTDATED = "plan_outdated"
"""Says that a plan was not carried out, and nothing about the model."""


def get(session: Session, job_id: str) -> Job:
    """Raises: NotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(
            "job_not_found", "There is no job with this id.", "`modelyard jobs` (GET /api/v1/jobs) lists them."
        )
    return job


def these(session: Session, ids: list[str]) -> list[Job]:
    """The jobs with these ids, a few thousand at most; those that are unknown are missing."""
    return list(session.exec(select(Job).where(col(Job.id).in_(ids))).all())


def find(
    session: Session,
    *,
    state: str | None = None,
    kind: str | None = None,
    model_id: str | None = None,
    before: tuple[float, str] | None = None,
    limit: int = 50,
) -> list[Job]:
    """Newest first; `before` is the (created_at, id) of the last row seen."""
    query = select(Job).order_by(col(Job.created_at).desc(), col(Job.id).desc()).limit(limit)
    for column, value in ((Job.state, state), (Job.kind, kind), (Job.model_id, model_id)):
        if value is not None:
            query = query.where(col(column) == value)
    if before is not None:
        # As one value: an OR would read all rows from the newest on.
        query = query.where(tuple_(col(Job.created_at), col(Job.id)) < tuple_(*before))
    return list(session.exec(query).all())


def waiting(session: Session, most: int) -> int:
    """How many jobs are queued, counted up to `most`."""
    some = select(Job.id).where(col(Job.state) == JobState.QUEUED).limit(most).subquery()
    return session.exec(select(func.count()).select_from(some)).one()


def live(session: Session, model_ids: list[str]) -> list[Job]:
    """Live jobs of these models, oldest first."""
    query = select(Job).where(col(Job.model_id).in_(model_ids), col(Job.state).in_(LIVE))
    return list(session.exec(query.order_by(col(Job.created_at))).all())


def live_with_key(session: Session, unique_key: str | None) -> Job | None:
    """The live job that does the same work, if there is one."""
    return session.exec(select(Job).where(col(Job.unique_key) == unique_key, col(Job.state).in_(LIVE))).first()


def position(session: Session, job: Job) -> int:
    """Place of a queued job in its lane, counted from 1."""
    waiting = select(func.count()).where(col(Job.state) == JobState.QUEUED, col(Job.lane) == job.lane)
    sooner = waiting.where(col(Job.urgency) < job.urgency)
    earlier = waiting.where(col(Job.urgency) == job.urgency, col(Job.created_at) < job.created_at)
    return session.exec(sooner).one() + session.exec(earlier).one() + 1


def running(session: Session, lane: str) -> list[Job]:
    """What a lane works on now."""
    return list(session.exec(select(Job).where(col(Job.state) == JobState.RUNNING, col(Job.lane) == lane)).all())


def usual_seconds(session: Session, lane: str) -> float | None:
    """Mean run time of a lane's jobs among the last 500 that succeeded anywhere; None where there is none."""
    last = (
        select(Job.lane, Job.started_at, Job.finished_at)
        .where(col(Job.state) == JobState.SUCCEEDED)
        .order_by(col(Job.finished_at).desc())
        .limit(500)
        .subquery()
    )
    mean = session.exec(select(func.avg(last.c.finished_at - last.c.started_at)).where(last.c.lane == lane)).one()
    return None if mean is None else float(mean)


def kept_waiting(
    session: Session, lanes: Collection[str], patient: list[str], grace: float, again: float
) -> Job | None:
    """The most urgent CRITICAL or HIGH job of these lanes whose ticket has found no free slot.

    Args:
        patient: kinds for which no way is made.
        grace: seconds that a ticket is given to find one.
        again: seconds after which way is made for it once more.
    """
    query = select(Job).where(
        col(Job.state) == JobState.QUEUED, col(Job.lane).in_(lanes), col(Job.priority) <= Priority.HIGH,
        col(Job.kind).not_in(patient),
        col(Job.sent_at) < now() - grace, col(Job.not_before) <= now(),
        col(Job.way_made_at).is_(None) | (col(Job.way_made_at) < now() - again),
    )  # fmt: skip
    return session.exec(query.order_by(col(Job.urgency), col(Job.created_at)).limit(1)).first()


def least_urgent(session: Session, lanes: Collection[str], kinds: list[str], leaving: Collection[str]) -> Job | None:
    """The running job of these lanes that is to make way first: of the lowest class, the one that started last."""
    query = select(Job).where(
        col(Job.state) == JobState.RUNNING, col(Job.lane).in_(lanes), col(Job.desired) == Desired.RUN,
        col(Job.kind).in_(kinds), col(Job.id).not_in(leaving),
    )  # fmt: skip
    return session.exec(query.order_by(col(Job.urgency).desc(), col(Job.started_at).desc()).limit(1)).first()


def overdue(session: Session, seconds: float) -> list[Job]:
    """For each lane without a live job that was lifted for its age: its oldest waiting one, if that old."""
    lifted = select(Job.lane).where(col(Job.aged), col(Job.state).in_([JobState.QUEUED, JobState.RUNNING]))
    oldest = (
        select(Job.lane, func.min(Job.created_at).label("created_at"))
        .where(
            col(Job.state) == JobState.QUEUED, col(Job.urgency) > Priority.HIGH, col(Job.not_before) <= now(),
            col(Job.created_at) < now() - seconds, col(Job.lane).not_in(lifted),
        )
        .group_by(Job.lane)
        .subquery()
    )  # fmt: skip
    same = (col(Job.lane) == oldest.c.lane) & (col(Job.created_at) == oldest.c.created_at)
    query = select(Job).join(oldest, same).where(col(Job.state) == JobState.QUEUED, col(Job.urgency) > Priority.HIGH)
    return list({job.lane: job for job in session.exec(query).all()}.values())


def unsent(session: Session, limit: int = 500) -> list[Job]:
    """Queued jobs that are due and whose ticket has not gone out, most urgent first."""
    query = select(Job).where(
        col(Job.state) == JobState.QUEUED, col(Job.sent_at).is_(None), col(Job.not_before) <= now()
    )
    return list(session.exec(query.order_by(col(Job.priority), col(Job.created_at)).limit(limit)).all())


def sent_before(session: Session, seconds: float) -> list[Job]:
    """Queued jobs whose ticket went out that long ago and was not used."""
    query = select(Job).where(col(Job.state) == JobState.QUEUED, col(Job.sent_at) < now() - seconds)
    return list(session.exec(query).all())


def silent(session: Session) -> list[Job]:
    """Running jobs whose worker let the lease run out."""
    query = select(Job).where(col(Job.state) == JobState.RUNNING, col(Job.lease_until) < now())
    return list(session.exec(query).all())


def surplus_before(session: Session, keep: int) -> float:
    """The time of end of the first ended job that is one too many, counted from the newest; 0 where none is."""
    ended = select(Job.finished_at).where(col(Job.state).in_(ENDED)).order_by(col(Job.finished_at).desc())
    return session.exec(ended.offset(keep).limit(1)).first() or 0.0


def ended_before(session: Session, state: JobState, seconds: float, moment: float) -> list[str]:
    """Ids of up to 1,000 jobs that ended in this state `seconds` ago, or at that moment or before."""
    at = col(Job.finished_at)
    query = select(Job.id).where(col(Job.state) == state, (at < now() - seconds) | (at <= moment))
    return list(session.exec(query.limit(1000)).all())


def switching(session: Session, name: str) -> bool:
    """Is a live job about to load this model, or a model of this type?"""
    of_type = select(Model.id).where(col(Model.type) == name)
    loads = col(Job.kind).in_(LOADS) & (col(Job.model_id) == name)
    switches = (col(Job.kind) == SWITCH) & col(Job.model_id).in_(of_type)  # a load routes no type
    query = select(Job.id).where(col(Job.state).in_([JobState.QUEUED, JobState.RUNNING]), loads | switches)
    return session.exec(query.limit(1)).first() is not None


def unloading(session: Session, model_id: str) -> bool:
    """Is a live job about to take this model out of memory?"""
    return any(job.kind == UNLOAD for job in live(session, [model_id]))


def load_failed(session: Session, model_id: str, first: float, longest: float) -> tuple[Job, float] | None:
    """The last job that was to load the model, if it did not and it is too soon to try again; and seconds until then.

    Args:
        first: seconds to wait after one that failed or was cancelled, doubled for each one before it that did too.
        longest: seconds to wait at most.
    """
    changed = select(Model.updated_at).where(col(Model.id) == model_id).scalar_subquery()  # it may load now
    mine = (col(Job.model_id) == model_id) & col(Job.kind).in_(LOADS) & (col(Job.created_at) > changed)
    query = select(Job, now() - col(Job.finished_at)).where(mine)
    newest = session.exec(query.order_by(col(Job.created_at).desc(), col(Job.id).desc()).limit(FAILURES)).all()
    failed = list(takewhile(lambda found: found[0].state in (JobState.FAILED, JobState.CANCELLED), newest))
    if not failed or (failed[0][0].error or {}).get("code") == OUTDATED:
        return None
    left = min(first * 2 ** (len(failed) - 1), longest) - failed[0][1]
    return (failed[0][0], left) if left > 0 else None


def priorities(session: Session, ids: list[str]) -> dict[str, Priority]:
    """What each of these jobs has now."""
    found = session.exec(select(Job.id, Job.priority).where(col(Job.id).in_(ids))).all()
    return {job_id: Priority(priority) for job_id, priority in found}


def counts(session: Session, seconds: float) -> Counter[str]:
    """How many jobs are in each live state; and how many failed within so many seconds."""
    live_now = select(Job.state, func.count()).where(col(Job.state).in_(LIVE)).group_by(Job.state)
    failed = select(func.count()).where(
        col(Job.state) == JobState.FAILED, col(Job.finished_at) > now() - seconds
    )  # fmt: skip
    found = Counter(dict(session.exec(live_now).all()))
    found[JobState.FAILED] = session.exec(failed).one()
    return found
