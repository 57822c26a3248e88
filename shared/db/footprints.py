"""What models took when they were loaded, and what that tells of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, select

from shared import fit
from shared.db.reports import Footprint
from shared.db.session import now
from shared.db.tables import Installation

LEARNED_FROM = 50
"""The newest measurements of other models: enough for a median, and few to read."""


def record(session: Session, row: Footprint) -> None:
    """Keep a measurement in place of the one before."""
    row.measured_at = session.exec(select(now())).one()
    session.merge(row)


@dataclass(frozen=True)
class Learned:
    """What is known on a device of a model that runs in that runtime, and of others there."""

    installation: Installation
    own: Mapping[int, Footprint]
    """By length of context."""
    others: Sequence[fit.Footprint]

    def need(self, setting: fit.Setting) -> fit.Need:
        """What the model takes."""
        own = self.own.get(setting.context_length) if setting.lowered == fit.WHOLE else None
        facts, size = self.installation.facts, self.installation.size
        return fit.need(facts, size, setting, _seen(own) if own else None, self.others)

    def load_seconds(self, setting: fit.Setting) -> float | None:
        """How long its last load like this took; None where there was none."""
        own = self.own.get(setting.context_length) if setting.lowered == fit.WHOLE else None
        return own.load_seconds if own else None


def learned(session: Session, installation: Installation, device: str, runtime: str) -> Learned:
    """Read what was measured; the newest of other models."""
    there = select(Footprint).where(Footprint.runtime == runtime, Footprint.device == device)
    its = (col(Footprint.model_id) == installation.model_id) & (col(Footprint.revision) == installation.revision)
    own = session.exec(there.where(its)).all()
    newest = there.where(col(Footprint.model_id) != installation.model_id).order_by(col(Footprint.measured_at).desc())
    others = session.exec(newest.limit(LEARNED_FROM)).all()
    return Learned(installation, {row.context_length: row for row in own}, [_seen(row) for row in others])


def _seen(row: Footprint) -> fit.Footprint:
    return fit.Footprint(row.memory_bytes, row.predicted_bytes)
