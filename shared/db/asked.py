"""For whoever asks for a model: what would do in its place, and how long things took before."""

from statistics import median

from sqlmodel import Session, col, func, select

from shared.db import names
from shared.db.names import ModelName
from shared.db.reports import Footprint
from shared.db.tables import Installation, Job, Model, Residency
from shared.states import InstallationState, JobState, ResidencyState

LEARNED_FROM = 20
"""The newest of what was measured: enough for a median."""


def alternatives(session: Session, model: Model, most: int) -> list[tuple[Model, bool]]:
    """Other models of its type, with a mode of its where it has any, that can be used now; those in memory first."""
    mine = names.of_models(session, [model.id]).get(model.id, names.NO_NAMES).modes
    ready = (
        select(Residency.id)
        .where(col(Residency.model_id) == col(Model.id), col(Residency.state) == ResidencyState.READY)
        .exists()
    )
    query = (
        select(Model, ready)
        .join(Installation, col(Installation.model_id) == col(Model.id))
        .where(
            col(Model.type) == model.type, col(Model.id) != model.id, col(Model.enabled),
            col(Installation.state) == InstallationState.PUBLISHED,
        )
    )  # fmt: skip
    if mine:
        alike = (col(ModelName.model_id) == col(Model.id)) & col(ModelName.is_mode) & col(ModelName.name).in_(mine)
        query = query.where(select(ModelName.name).where(alike).exists())
    found = session.exec(query.order_by(ready.desc(), col(Installation.published_at).desc()).limit(most)).all()
    return [(other, bool(in_memory)) for other, in_memory in found]


def load_seconds(session: Session, model_id: str, size: int | None) -> float | None:
    """How long its last load took; else what loads of others took for a byte, times its bytes. None: nothing tells."""
    newest = col(Footprint.measured_at).desc()
    own = select(Footprint.load_seconds).where(Footprint.model_id == model_id).order_by(newest).limit(1)
    if (told := session.exec(own).first()) is not None:
        return told
    others = session.exec(select(Footprint).order_by(newest).limit(LEARNED_FROM)).all()
    rates = [row.load_seconds / row.memory_bytes for row in others if row.memory_bytes]
    return median(rates) * size if rates and size else None


def bytes_per_second(session: Session) -> float | None:
    """How fast downloads came that ended well; None where none did."""
    query = select(Job.bytes_total, Job.started_at, Job.finished_at).where(
        col(Job.kind) == "model.download", col(Job.state) == JobState.SUCCEEDED, col(Job.bytes_total) > 0
    )  # fmt: skip
    found = session.exec(query.order_by(col(Job.created_at).desc()).limit(LEARNED_FROM)).all()
    rates = [
        total / (finished - started)
        for total, started, finished in found
        if total and started is not None and finished is not None and finished > started
    ]
    return median(rates) if rates else None


def ahead(session: Session, lane: str, urgency: int) -> int:
    """How many waiting jobs of a lane would go before a new one of that class."""
    waiting = select(func.count()).where(
        col(Job.state) == JobState.QUEUED, col(Job.lane) == lane, col(Job.urgency) <= urgency
    )  # fmt: skip
    return session.exec(waiting).one()
