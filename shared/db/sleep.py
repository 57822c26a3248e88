"""Rows of residencies that sleep: out of a device's memory, their weights still in the machine's."""

import uuid

from sqlalchemy import func, update
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from shared.db import catalog, residency
from shared.db.reports import Device
from shared.db.session import now, serialise
from shared.db.tables import Installation, Residency
from shared.states import IN_MEMORY, ResidencyState


def fall_asleep(session: Session, row: Residency, into: ResidencyState, memory_bytes: int) -> tuple[bool, str | None]:
    """A drained residency sleeps from now on. If it serves a type, a row without a runner takes its place there.

    Args:
        into: the state of that row, LOST or IDLE.
        memory_bytes: what the runner has of the machine's memory now.

    Returns:
        Whether it sleeps, and is not over; and the id of the row in its place.
    """
    serialise(session, f"route {row.model_type}")
    drained = (col(Residency.id) == row.id) & (col(Residency.state) == ResidencyState.DRAINING)
    serves = session.exec(select(Residency.active).where(drained)).first()
    values = {"state": ResidencyState.ASLEEP, "active": False, "memory_bytes": memory_bytes, "offloaded_bytes": None}
    fell = update(Residency).where(drained).values(started_at=now(), fallback_for=[], **values)
    if session.exec(fell.returning(col(Residency.id))).first() is None:
        return False, None
    if not serves:
        return True, None
    in_its_place = Residency(
        id=str(uuid.uuid4()), model_id=row.model_id, model_type=row.model_type, revision=row.revision,
        device=row.device, runtime=row.runtime, state=into, active=True, started_at=row.started_at,
        context_length=row.context_length, fallback_for=row.fallback_for,
    )  # fmt: skip
    session.add(in_its_place)
    return True, in_its_place.id


def keep(session: Session, row: Residency, node: str, weights: int, budget: int) -> None:
    """Note in the row of one that is about to start whether its weights stay in the machine's memory, so that it can
    sleep: not where those who are awake would have more there than sleepers may. A CPU's have them there anyhow."""
    serialise(session, f"sleep {node}")
    query = (
        select(func.coalesce(func.sum(col(Residency.kept_bytes)), 0))
        .join(Device, col(Device.id) == col(Residency.device))
        .where(col(Device.node) == node, col(Device.kind) == "gpu", col(Residency.state).in_(IN_MEMORY))
    )
    kept = int(session.exec(query).one() or 0)
    row.kept_bytes = weights if 0 < weights <= budget - kept else None


def make_room(session: Session, node: str, device: str, memory_bytes: int, budget: int) -> list[Residency] | None:
    """Have one more of a device find room within what sleepers of its machine may have, in the transaction in which it
    falls asleep; for it those of the same device are put out who slept longest.

    Returns:
        Those that are to be ended; None where there would be no room all the same, and nobody is touched.
    """
    serialise(session, f"sleep {node}")
    mine = list(session.exec(_of_device(device).with_for_update()).all())  # nobody wakes them until this is decided
    over = bytes_of_node(session, node) + memory_bytes - budget
    if over > sum(row.memory_bytes or 0 for row in mine):
        return None
    going = []
    while over > 0:
        going.append(mine.pop(0))
        over -= going[-1].memory_bytes or 0
    for row in going:
        put_out(session, row)
    return going


def wake_up(session: Session, row: Residency) -> bool:
    """It is about to be ready again, and a removal can no longer take its installation away unseen. False: it is over.

    Raises:
        NotFound, Conflict: the model or its installation is gone by now.
    """
    catalog.hold_model(session, row.model_id)
    if catalog.installed(session, row.model_id).revision != row.revision:
        return False
    asleep = (col(Residency.id) == row.id) & (col(Residency.state) == ResidencyState.ASLEEP)
    values = {"started_at": now(), "fallback_for": residency.stands_in_for(session, row.model_id)}
    woken = update(Residency).where(asleep).values(state=ResidencyState.STARTING, **values)
    return session.exec(woken.returning(col(Residency.id))).first() is not None


def put_out(session: Session, row: Residency) -> bool:
    """It is about to end, and nobody can wake it any more. False: somebody has, or it is over."""
    asleep = (col(Residency.id) == row.id) & (col(Residency.state) == ResidencyState.ASLEEP)
    ending = update(Residency).where(asleep).values(state=ResidencyState.DRAINING)
    return session.exec(ending.returning(col(Residency.id))).first() is not None


def asleep(session: Session, device: str) -> list[Residency]:
    """Those of a device; who fell asleep first is first."""
    return list(session.exec(_of_device(device)).all())


def bytes_of_node(session: Session, node: str) -> int:
    """What all sleepers of a machine have of its memory."""
    query = (
        select(func.coalesce(func.sum(col(Residency.memory_bytes)), 0))
        .join(Device, col(Device.id) == col(Residency.device))
        .where(col(Device.node) == node, col(Residency.state) == ResidencyState.ASLEEP)
    )
    return int(session.exec(query).one() or 0)


def outdated(session: Session, device: str) -> list[Residency]:
    """Those of a device whose revision is installed no more: nothing will wake them."""
    installed = select(Installation.revision).where(col(Installation.model_id) == col(Residency.model_id))
    mine = (col(Residency.device) == device) & (col(Residency.state) == ResidencyState.ASLEEP)
    return list(session.exec(select(Residency).where(mine, col(Residency.revision).not_in(installed))).all())


def _of_device(device: str) -> SelectOfScalar[Residency]:
    query = select(Residency).where(col(Residency.device) == device, col(Residency.state) == ResidencyState.ASLEEP)
    return query.order_by(col(Residency.started_at))
