"""What models took when they were loaded, and what that tells of others."""

from sqlmodel import Session, col, select

from shared import fit
from shared.db.session import now
from shared.db.tables import Footprint, Installation

LEARNED_FROM = 50
"""The newest measurements of other models: enough for a median, and few to read."""


def record(session: Session, row: Footprint) -> None:
    """Keep a measurement in place of the one before."""
    row.measured_at = session.exec(select(now())).one()
    session.merge(row)


def need(session: Session, installation: Installation, device: str, setting: fit.Setting) -> fit.Need:
    """What the model takes on that device, with what was learned there."""
    own = _own(session, installation, device, setting)
    others = session.exec(
        select(Footprint)
        .where(
            Footprint.runtime == setting.runtime,
            Footprint.device == device,
            col(Footprint.model_id) != installation.model_id,
        )
        .order_by(col(Footprint.measured_at).desc())
        .limit(LEARNED_FROM)
    ).all()
    return fit.need(
        installation.facts, installation.size, setting, _seen(own) if own else None, [_seen(row) for row in others]
    )


def load_seconds(session: Session, installation: Installation, device: str, setting: fit.Setting) -> float | None:
    """How long its last load like this took; None where there was none."""
    own = _own(session, installation, device, setting)
    return own.load_seconds if own else None


def _own(session: Session, installation: Installation, device: str, setting: fit.Setting) -> Footprint | None:
    key = (installation.model_id, installation.revision, setting.runtime, device, setting.context_length)
    return session.get(Footprint, key)


def _seen(row: Footprint) -> fit.Footprint:
    return fit.Footprint(row.memory_bytes, row.predicted_bytes)
