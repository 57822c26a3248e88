"""Devices that workers have reported, and where a model goes."""

from typing import Any

from sqlalchemy import ColumnElement, case
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from shared.db.reports import Device, Node
from shared.db.session import now
from shared.db.tables import Installation, Residency
from shared.errors import NotFound, Unavailable
from shared.queues import device_lane, store_lane
from shared.states import HELD, IN_MEMORY, ResidencyState

AWAY_SECONDS = 60
"""A device whose worker was silent so long is chosen only where there is no other, and a machine counts as away."""


def report(session: Session, device: Device) -> None:
    """A worker says that it serves this device, now."""
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    fixed = {
        "kind": device.kind,
        "name": device.name,
        "node": device.node,
        "memory_total": device.memory_total,
        "details": device.details,
    }
    statement = insert(Device).values(id=device.id, seen_at=now(), **fixed)
    session.exec(statement.on_conflict_do_update(index_elements=["id"], set_={**fixed, "seen_at": now()}))


def lanes(session: Session) -> list[str]:
    """The lanes of every device that was ever served, and of every store, their workers up or down."""
    stores = session.exec(select(Node.store).distinct()).all()
    return [*map(device_lane, session.exec(select(Device.id)).all()), *map(store_lane, stores)]


def place(session: Session, model_id: str) -> str:
    """The lane for a job on a device: that of `placed`.

    Raises:
        Unavailable: no device worker has ever reported here.
    """
    return device_lane(placed(session, model_id).id)


def placed(session: Session, model_id: str) -> Device:
    """Where a model goes: where it is already, else the largest GPU of those that reach its files, else such a CPU.

    Raises:
        Unavailable: no device worker has ever reported here.
    """
    there = (
        select(Device)
        .join(Residency, col(Residency.device) == col(Device.id))
        .where(col(Residency.model_id) == model_id, col(Residency.state).in_(HELD), ~_silent())
        .order_by(col(Residency.active).desc())
    )
    if found := session.exec(there.limit(1)).first() or best(session, model_id):
        return found
    raise _none()


def best(session: Session, model_id: str | None = None) -> Device | None:
    """The largest GPU that has a living worker, else such a CPU; None before a device worker has reported.

    Args:
        model_id: rather one whose machine has the store that this model is in.
    """
    order: list[Any] = [_silent(), col(Device.kind) == "cpu", col(Device.memory_total).desc()]
    if model_id is not None:
        store = select(Installation.store).where(col(Installation.model_id) == model_id).scalar_subquery()
        beside = select(Node.name).where(Node.store == store)
        order.insert(0, case((select(Node.name).where(Node.store == store).exists(), col(Device.node).not_in(beside))))
    return session.exec(select(Device).order_by(*order).limit(1)).first()


def away(session: Session) -> list[Device]:
    """Devices whose workers have been silent for too long."""
    return list(session.exec(select(Device).where(_silent())).all())


def is_away(session: Session, device_id: str) -> bool:
    """Has its worker been silent for too long?"""
    return session.exec(select(Device.id).where(col(Device.id) == device_id, _silent())).first() is not None


def _silent() -> ColumnElement[bool]:
    return col(Device.seen_at) < now() - AWAY_SECONDS


def all_of(session: Session) -> list[Device]:
    """Every device that was ever served, by id."""
    return list(session.exec(select(Device).order_by(col(Device.id))).all())


def reported(session: Session) -> list[Device]:
    """Every device that a worker has ever reported; GPUs first, the largest first.

    Raises:
        Unavailable: there is none.
    """
    order = (col(Device.kind).desc(), col(Device.memory_total).desc(), col(Device.id))
    found = list(session.exec(select(Device).order_by(*order)).all())
    if not found:
        raise _none()
    return found


def named(session: Session, device_id: str | None) -> Device:
    """The device of that id, the best one where there is no wish.

    Raises:
        Unavailable: no device worker has ever reported here.
        NotFound: code `unknown_device`.
    """
    found = reported(session)
    for device in found:
        if device_id in (None, device.id):
            return device
    known = ", ".join(device.id for device in found)
    raise NotFound("unknown_device", f"There is no device {device_id!r}.", f"There are: {known}.")


def residents(session: Session) -> list[Residency]:
    """Models in the memory of any device, asleep beside it, or on their way back to it."""
    there = (*IN_MEMORY, ResidencyState.ASLEEP, ResidencyState.LOST)
    return list(session.exec(select(Residency).where(col(Residency.state).in_(there))).all())


def clock(session: Session) -> float:
    """The database's time, in seconds since 1970."""
    return session.exec(select(now())).one()


def _none() -> Unavailable:
    return Unavailable(
        "no_device_worker", "No device worker has reported yet.",
        "Start one with `python -m workers device`, or wait a few seconds if it is starting.", None, 3,
    )  # fmt: skip
