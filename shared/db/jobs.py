"""Finding jobs. Every change of a job is in `shared/jobs.py`."""

from sqlmodel import Session, col, func, select

from shared.db.session import now
from shared.db.tables import Job, Model
from shared.errors import NotFound
from shared.states import LIVE, JobState


def get(session: Session, job_id: str) -> Job:
    """Raises: NotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(
            "job_not_found", "There is no job with this id.", "`modelyard jobs` (GET /api/v1/jobs) lists them."
        )
    return job


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
        at, last = before
        query = query.where((col(Job.created_at) < at) | ((col(Job.created_at) == at) & (col(Job.id) < last)))
    return list(session.exec(query).all())


def live(session: Session, model_ids: list[str]) -> list[Job]:
    """Live jobs of these models, oldest first."""
    query = select(Job).where(col(Job.model_id).in_(model_ids), col(Job.state).in_(LIVE))
    return list(session.exec(query.order_by(col(Job.created_at))).all())


def live_with_key(session: Session, unique_key: str | None) -> Job | None:
    """The live job that does the same work, if there is one."""
    return session.exec(select(Job).where(col(Job.unique_key) == unique_key, col(Job.state).in_(LIVE))).first()


def position(session: Session, job: Job) -> int:
    """Place of a queued job in its lane, counted from 1."""
    sooner = (col(Job.priority) < job.priority) | (
        (col(Job.priority) == job.priority) & (col(Job.created_at) < job.created_at)
    )
    query = select(func.count()).where(col(Job.state) == JobState.QUEUED, col(Job.lane) == job.lane, sooner)
    return session.exec(query).one() + 1


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


def switching(session: Session, name: str) -> bool:
    """Is a live job about to load this model, or a model of this type?"""
    of_type = select(Model.id).where(col(Model.type) == name)
    wanted = (col(Job.model_id) == name) | col(Job.model_id).in_(of_type)
    query = select(Job.id).where(col(Job.kind) == "model.switch", col(Job.state).in_(LIVE), wanted)
    return session.exec(query.limit(1)).first() is not None
