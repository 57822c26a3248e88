"""How models are, as rows: what a check found, what is shown of it, and who is to be looked at next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, update
from sqlmodel import Session, col, or_, select

from shared.contracts import HealthCheck
from shared.db import catalog, nodes
from shared.db.reports import ModelHealth
from shared.db.session import now, serialise
from shared.db.tables import Installation, Job, Residency
from shared.health import LATEST, SAMPLES, WINDOW, settle, unsettled
from shared.states import Health, InstallationState, ResidencyState

NEW_SECONDS = 300.0
"""What was proven, or probed, within so long needs no check yet."""
SOON_SECONDS = 60.0
"""Between two checks of a model whose last answer contradicts what is told of it."""
TRIED_SECONDS = 600.0
"""Between two tries to check a model of which nothing could be told."""
RESTART_SECONDS = 600.0
"""After a start all models are looked at, but those that were within so long."""


@dataclass(frozen=True)
class Found:
    """What one check found."""

    job_id: str
    outcomes: tuple[bool, ...] = ()
    """Whether its answer was one; none where it was not asked, or where what came says nothing about it."""
    reasons: Sequence[dict[str, Any]] = ()
    seconds: float | None = None
    """Until its answer, where one came."""
    asked: bool = False
    resident: Residency | None = None
    """What was, or could have been, asked."""


def of_models(session: Session, model_ids: list[str]) -> dict[str, ModelHealth]:
    """What the checks of these found, in one query."""
    rows = session.exec(select(ModelHealth).where(col(ModelHealth.model_id).in_(model_ids))).all()
    return {row.model_id: row for row in rows}


def shown(installation: Installation | None, row: ModelHealth | None) -> Health:
    """How a model is: its bytes by the last verify, its answers by its checks.

    One that was published after its last check is as healthy as its proof says.
    """
    if installation is None:
        return Health.UNKNOWN
    told = row.state if row is not None and row.published_at == installation.published_at else None
    return shown_as(installation.state, bool(installation.verified_at), told)


def shown_as(state: str, proven: bool, told: str | None) -> Health:
    """The same of an installation in this state.

    Args:
        proven: its bytes were proven once.
        told: what the checks of this very installation say; None where there was none.
    """
    if state in (InstallationState.GONE, InstallationState.AWAY):
        return Health.UNKNOWN
    if state == InstallationState.CORRUPT:
        return Health.CORRUPTED
    if told is not None:
        return Health(told)
    return Health.HEALTHY if proven else Health.UNKNOWN


def _proven(installation: Installation) -> Health:
    return Health.HEALTHY if installation.verified_at else Health.UNKNOWN


def record(session: Session, before: Installation, found: Found) -> tuple[Health, Health] | None:
    """Write down what a check of that installation found.

    Returns:
        What was told of the model, and what is from now on; None where it has been removed or replaced meanwhile.
    """
    serialise(session, f"health {before.model_id}")
    installation = session.get(Installation, before.model_id, populate_existing=True)
    if installation is None or installation.published_at != before.published_at:
        return None
    moment = session.exec(select(now())).one()
    row = session.get(ModelHealth, before.model_id, populate_existing=True)
    if row is None or row.published_at != installation.published_at:
        row = session.merge(_new(installation, row, moment))
    state, outcomes = Health(row.state), row.outcomes
    if row.checked_by != found.job_id:
        outcomes = [*outcomes, *found.outcomes][-WINDOW:]
    settled = settle(state, outcomes)
    if settled is Health.UNKNOWN and not found.outcomes:
        settled = Health.HEALTHY
    if settled is not state:
        row.state, row.since = settled, moment
    row.due = False
    row.outcomes, row.unsettled, row.checked_at, row.checked_by = (
        outcomes, unsettled(settled, outcomes), moment, found.job_id,
    )  # fmt: skip
    if found.reasons or (settled is not Health.UNHEALTHY and not row.unsettled):
        row.reasons = list(found.reasons)
    _measure(row, found, moment)
    told, health = Health(row.told) if row.told else _proven(installation), shown(installation, row)
    row.told = health
    session.add(row)
    return told, health


def _new(installation: Installation, row: ModelHealth | None, moment: float) -> ModelHealth:
    """Of one that was published anew all that was known is forgotten, but not what was told."""
    return ModelHealth(
        model_id=installation.model_id, published_at=installation.published_at, state=_proven(installation),
        since=moment, told=row.told if row else None, checked_at=moment,
    )  # fmt: skip


def _measure(row: ModelHealth, found: Found, moment: float) -> None:
    there = found.resident
    if there is None:
        return
    on = f"{there.runtime} {there.device} {there.context_length}"
    if row.measured_on != on:
        row.measured_on, row.answers, row.latest, row.loads, row.loaded_as = on, [], [], [], None
    if there.load_seconds is not None and row.loaded_as != there.id:
        row.loads, row.loaded_as = [*row.loads, there.load_seconds][-SAMPLES:], there.id
    if found.asked:
        row.live_at = moment
    if found.seconds is not None:
        row.latest = [*row.latest, found.seconds][-LATEST:]
        if all(found.outcomes):
            row.answers = [*row.answers, found.seconds][-SAMPLES:]


def look_again(session: Session) -> None:
    """The service starts: whatever was not looked at within the last minutes is due."""
    before = col(ModelHealth.checked_at) < now() - RESTART_SECONDS
    session.exec(update(ModelHealth).where(before).values(due=True))


def next_to_look_at(session: Session, seconds: float, limit: int) -> list[str]:
    """Installed models whose last look is so long ago, or that are due; those never looked at first."""
    row, there = ModelHealth, Installation
    before = col(row.checked_at)
    new = col(row.model_id).is_(None) & (col(there.published_at) < now() - NEW_SECONDS)
    query = (
        select(there.model_id)
        .join(row, _same(there), isouter=True)
        .where(col(there.state).in_([InstallationState.PUBLISHED, InstallationState.CORRUPT]))
        .where(or_(new, before < now() - seconds, col(row.due)), ~_tried(min(seconds, TRIED_SECONDS)))
    )
    if out_of_reach := nodes.away(session):
        query = query.where(~out_of_reach.of_installations())
    return list(session.exec(query.order_by(before.is_not(None), before, col(there.model_id)).limit(limit)).all())


def next_to_ask(session: Session, seconds: float, limit: int) -> list[str]:
    """Models in memory whose last answer is so long ago, or has to be seen again; the longest ago first."""
    row, there = ModelHealth, Installation
    asked = col(row.live_at)
    late = (asked.is_(None) | (asked < now() - seconds)) & ~_tried(min(seconds, TRIED_SECONDS))
    surprising = col(row.unsettled) & (asked < now() - SOON_SECONDS) & ~_tried(SOON_SECONDS)
    served = (col(Residency.model_id) == col(there.model_id)) & (col(Residency.revision) == col(there.revision))
    query = (
        select(there.model_id)
        .join(Residency, served)
        .join(row, _same(there), isouter=True)
        .where(col(there.state) == InstallationState.PUBLISHED)
        .where(col(Residency.state) == ResidencyState.READY, col(Residency.started_at) < now() - NEW_SECONDS)
        .where(or_(late, surprising))
    )
    found = session.exec(query.order_by(asked.is_not(None), asked, col(there.model_id)).limit(limit)).all()
    return list(dict.fromkeys(found))


def _same(there: type[Installation]) -> ColumnElement[bool]:
    """What is known of a model is known of this installation."""
    row = ModelHealth
    return (col(row.model_id) == col(there.model_id)) & (col(row.published_at) == col(there.published_at))


def _tried(seconds: float) -> ColumnElement[bool]:
    """A check was asked for within so long, whatever came of it: what cannot be told is not asked on and on."""
    job = (col(Job.model_id) == col(Installation.model_id)) & (col(Job.kind) == HealthCheck.kind)
    return exists().where(job, col(Job.created_at) > now() - seconds)


def resident(session: Session, installation: Installation) -> tuple[list[Residency], Residency | None]:
    """What is, or should be, in memory of a model; and of these what answers from this installation, rather what
    serves its type."""
    rows = catalog.residencies(session, [installation.model_id])
    ready = [row for row in rows if row.state == ResidencyState.READY and row.revision == installation.revision]
    return rows, min(ready, key=lambda row: not row.active, default=None)
