"""Rows of residencies: which model is in which device's memory, and which one serves its type."""

from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col, select

from shared.db.session import now
from shared.db.tables import Residency
from shared.errors import Conflict
from shared.states import RESIDENT, ResidencyState

HELD = (*RESIDENT, ResidencyState.LOST)


def start(session: Session, row: Residency) -> None:
    """A runner is about to be started."""
    row.started_at = session.exec(select(now())).one()
    session.add(row)


def update_row(session: Session, residency_id: str, **values: object) -> None:
    session.exec(update(Residency).where(col(Residency.id) == residency_id).values(**values))


def resident(session: Session, model_id: str, device: str) -> Residency | None:
    """The ready residency of a model on a device."""
    query = select(Residency).where(
        col(Residency.model_id) == model_id,
        col(Residency.device) == device,
        col(Residency.state) == ResidencyState.READY,
    )
    return session.exec(query).first()


def flip(session: Session, new: Residency) -> list[Residency]:
    """Route a type to another residency, in the caller's one transaction. Answers those that served it before.

    Raises:
        Conflict: the new one is not ready any more; the route stays as it was.
    """
    before = select(Residency).where(
        col(Residency.model_type) == new.model_type, col(Residency.active), col(Residency.id) != new.id
    )
    served = list(session.exec(before).all())
    ids = [row.id for row in served]
    session.exec(update(Residency).where(col(Residency.id).in_(ids)).values(active=False))
    ready = (col(Residency.id) == new.id) & (col(Residency.state) == ResidencyState.READY)
    turned = session.exec(update(Residency).where(ready).values(active=True).returning(col(Residency.id)))
    if turned.one_or_none() is None:
        raise Conflict(
            "residency_gone", f"The runner of {new.model_id!r} ended before it could serve.", "Switch again."
        )
    return served


def clear(session: Session, model_id: str, device: str) -> list[Residency]:
    """Take a model off its route on a device. Answers its residencies there."""
    mine = (col(Residency.model_id) == model_id) & (col(Residency.device) == device)
    found = list(session.exec(select(Residency).where(mine, col(Residency.state).in_(HELD))).all())
    session.exec(update(Residency).where(col(Residency.id).in_([row.id for row in found])).values(active=False))
    return found


def lose(session: Session, lost: ColumnElement[bool]) -> list[Residency]:
    """These runners are gone: those that serve a type are marked lost and answered, the others are over."""
    held = lost & col(Residency.state).in_(HELD)
    gone = {"pid": None, "url": None}
    session.exec(update(Residency).where(held, col(Residency.active)).values(state=ResidencyState.LOST, **gone))
    session.exec(update(Residency).where(held, ~col(Residency.active)).values(state=ResidencyState.STOPPED, **gone))
    serving = lost & (col(Residency.state) == ResidencyState.LOST) & col(Residency.active)
    return list(session.exec(select(Residency).where(serving)).all())


def of_device(device: str) -> ColumnElement[bool]:
    return col(Residency.device) == device


def of_id(residency_id: str) -> ColumnElement[bool]:
    return col(Residency.id) == residency_id
