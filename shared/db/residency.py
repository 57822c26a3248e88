"""Rows of residencies: which model is in which device's memory, and which one serves its type."""

from sqlalchemy import ColumnElement, exists, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from shared.db import catalog
from shared.db.session import now, serialise
from shared.db.tables import Model, Residency
from shared.errors import Conflict
from shared.states import AWAY, HELD, IN_MEMORY, ResidencyState

COMING_BACK = (ResidencyState.LOST, ResidencyState.CRASH_LOOP)
"""They come back without a request."""
_AWAY_UNASKED = col(Residency.state).in_(COMING_BACK)


def start(session: Session, row: Residency) -> None:
    """A runner is about to be started, for an installation that a removal can no longer take away unseen.

    Raises:
        NotFound, Conflict: the model or its installation is gone by now.
    """
    catalog.hold_model(session, row.model_id)
    catalog.installed(session, row.model_id)
    row.started_at = session.exec(select(now())).one()
    row.fallback_for = stands_in_for(session, row.model_id)
    session.add(row)


def stands_in_for(session: Session, model_id: str) -> list[str]:
    """The other models that a model answers for as their fallback, by whatever is to be in memory of it."""
    rows = catalog.residencies(session, [model_id])
    return sorted({name for row in rows for name in row.fallback_for} - {model_id})


def update_row(session: Session, residency_id: str, **values: object) -> None:
    session.exec(update(Residency).where(col(Residency.id) == residency_id).values(**values))


def resident(session: Session, model_id: str, device: str) -> Residency | None:
    """The ready residency of a model on a device."""
    query = select(Residency).where(
        col(Residency.model_id) == model_id,
        col(Residency.device) == device,
        col(Residency.state) == ResidencyState.READY,
    )
    return session.exec(query.order_by(col(Residency.started_at).desc())).first()


def answering(session: Session, name: str, type_: str, *, is_model: bool) -> tuple[Residency | None, Residency | None]:
    """For the name of a model or of a type: what serves the type, if that is meant, or comes back by itself; and what
    answers now, if any does.

    Itself before a fallback of it, and what serves its type before another residency of the same model. Another model
    answers only where the model's steps, as they are now, name it.
    """
    named = [serving] if not is_model and (serving := catalog.active(session, name)) else []
    rows = catalog.residencies(session, [name]) if is_model else named
    active = next((row for row in rows if row.active), None) or _on_its_way(rows)
    ready = [row for row in rows if row.state == ResidencyState.READY]
    if not ready:
        wanted = name if active is None else active.model_id
        model = session.get(Model, wanted)
        steps = {step.get("model") for step in model.fallback} if model is not None else set()
        ready = [
            row for row in catalog.in_state(session, ResidencyState.READY)
            if row.model_type == type_ and row.model_id in steps and wanted in row.fallback_for
        ]  # fmt: skip
    return active, min(ready, key=lambda row: not row.active, default=None)


def _on_its_way(rows: list[Residency]) -> Residency | None:
    """One of a pinned model that serves no type and comes back by itself."""
    return next((row for row in rows if row.state in COMING_BACK), None)


def residents(session: Session, device: str) -> list[Residency]:
    """What is in a device's memory now; the oldest first."""
    query = select(Residency).where(of_device(device), col(Residency.state).in_(IN_MEMORY))
    return list(session.exec(query.order_by(col(Residency.started_at))).all())


def flip(session: Session, new: Residency) -> None:
    """Route a type to another residency, in the caller's one transaction; those before it drain from now on.

    One of another model that is pinned stays in memory, or comes back to it, without a type to serve.

    Raises:
        Conflict: the new one is not ready any more; the route stays as it was.
    """
    serialise(session, f"route {new.model_type}")
    others = (col(Residency.model_type) == new.model_type) & col(Residency.active) & (col(Residency.id) != new.id)
    mine = (col(Residency.model_id) == new.model_id) & (col(Residency.id) != new.id)
    pinned = col(Residency.model_id).in_(select(Model.id).where(col(Model.pinned), col(Model.id) != new.model_id))
    gone = (others | mine) & col(Residency.state).in_(AWAY) & ~(pinned & _AWAY_UNASKED)
    session.exec(update(Residency).where(gone).values(active=False, state=ResidencyState.STOPPED))
    session.exec(update(Residency).where(others, pinned).values(active=False))
    session.exec(update(Residency).where(others).values(active=False, state=ResidencyState.DRAINING))
    earlier = (col(Residency.model_id) == new.model_id) & of_device(new.device) & (col(Residency.id) != new.id)
    ready_too = earlier & (col(Residency.state) == ResidencyState.READY)
    session.exec(update(Residency).where(ready_too).values(state=ResidencyState.DRAINING))
    ready = (col(Residency.id) == new.id) & (col(Residency.state) == ResidencyState.READY)
    turned = session.exec(update(Residency).where(ready).values(active=True).returning(col(Residency.id)))
    if turned.one_or_none() is None:
        raise Conflict(
            "residency_gone", f"The runner of {new.model_id!r} ended before it could serve.", "Switch again."
        )
    new.active = True


def take_over(session: Session, new: Residency) -> list[Residency]:
    """Put a residency in the place of those that its model has on its device, in the caller's one transaction.

    It serves the type if one of them does, or one that has no runner, wherever that was.

    Returns:
        Those that are to be let go.

    Raises:
        Conflict: the new one is not ready any more.
    """
    serialise(session, f"route {new.model_type}")
    here = of_device(new.device) | col(Residency.state).in_(AWAY)
    mine = (col(Residency.model_id) == new.model_id) & here & (col(Residency.id) != new.id)
    before = list(session.exec(select(Residency).where(mine, col(Residency.state).in_(HELD))).all())
    if any(row.active for row in before):
        flip(session, new)
    going = of_ids([row.id for row in before if row.state in IN_MEMORY])
    session.exec(update(Residency).where(going).values(state=ResidencyState.DRAINING))
    came_back = mine & ~col(Residency.active) & col(Residency.state).in_(AWAY)
    session.exec(update(Residency).where(came_back).values(state=ResidencyState.STOPPED))
    return [row for row in before if row.state in IN_MEMORY]


def stand_in(session: Session, model_id: str, residency_id: str | None) -> None:
    """From now on only this residency answers in the place of a model, as a fallback; None: nobody does."""
    serialise(session, "fallbacks")
    for row in session.exec(select(Residency).where(col(Residency.state).in_(HELD))).all():
        wanted = [name for name in row.fallback_for if name != model_id]
        if row.id == residency_id:
            wanted.append(model_id)
        if wanted != row.fallback_for:
            update_row(session, row.id, fallback_for=wanted)


def draining(session: Session, model_type: str) -> list[Residency]:
    """Residencies of a type that have lost their route and are to be let go."""
    query = select(Residency).where(
        col(Residency.model_type) == model_type, col(Residency.state) == ResidencyState.DRAINING
    )
    return list(session.exec(query).all())


def lost(session: Session, device: str) -> list[Residency]:
    """Residencies whose runner is gone and that are to come back, also those that are lost again and again: they serve
    a type, or are of a pinned model. One for each model."""
    rows = session.exec(select(Residency).where(of_device(device), _AWAY_UNASKED)).all()
    return list({row.model_id: row for row in sorted(rows, key=lambda row: row.active)}.values())


def over(session: Session, ids: list[str]) -> list[str]:
    """Those of these that nobody counts on any more."""
    there = (*IN_MEMORY, ResidencyState.ASLEEP)
    return list(session.exec(select(Residency.id).where(of_ids(ids), col(Residency.state).not_in(there))).all())


def stop_unpinned(session: Session, device: str) -> None:
    """What is lost, serves no type and is of a model that is not pinned any more does not come back."""
    pinned = select(Model.id).where(col(Model.pinned))
    over = of_device(device) & _AWAY_UNASKED & ~col(Residency.active) & col(Residency.model_id).not_in(pinned)
    session.exec(update(Residency).where(over).values(state=ResidencyState.STOPPED))


def shown(session: Session, seconds: float) -> list[Residency]:
    """What is in memory or meant to be, and what failed within `seconds` and was not started again; by model."""
    later = aliased(Residency)
    again = exists().where(
        col(later.model_id) == col(Residency.model_id), col(later.started_at) > col(Residency.started_at)
    )
    failed = (col(Residency.state) == ResidencyState.FAILED) & (col(Residency.started_at) > now() - seconds) & ~again
    query = select(Residency).where(col(Residency.state).in_(HELD) | failed)
    return list(session.exec(query.order_by(col(Residency.model_id), col(Residency.started_at))).all())


def clear(session: Session, model_id: str, device: str) -> list[Residency]:
    """Take a model off its route on a device. Answers its residencies there."""
    mine = (col(Residency.model_id) == model_id) & (col(Residency.device) == device)
    found = list(session.exec(select(Residency).where(mine, col(Residency.state).in_(HELD))).all())
    session.exec(update(Residency).where(col(Residency.id).in_([row.id for row in found])).values(active=False))
    return found


def lose(session: Session, which: ColumnElement[bool], into: ResidencyState = ResidencyState.LOST) -> None:
    """These runners are gone: those that serve a type are marked lost, or idle; those of a pinned model that were in
    memory lost; the others are over."""
    gone = which & col(Residency.state).in_((*IN_MEMORY, ResidencyState.ASLEEP))
    pinned = col(Residency.model_id).in_(select(Model.id).where(col(Model.pinned)))
    was_there = col(Residency.state).in_((ResidencyState.READY, ResidencyState.DRAINING))
    nothing = dict.fromkeys(("pid", "url", "known_as", "memory_bytes", "offloaded_bytes"))
    session.exec(update(Residency).where(gone, col(Residency.active)).values(state=into, **nothing))
    kept = gone & pinned & was_there & ~col(Residency.active)
    session.exec(update(Residency).where(kept).values(state=ResidencyState.LOST, **nothing))
    session.exec(update(Residency).where(gone, ~col(Residency.active)).values(state=ResidencyState.STOPPED, **nothing))


def give_up(session: Session, device: str) -> None:
    """Nobody counts any more on what is in memory there; what its server is called stays known, so that a worker that
    comes back there ends what is left of it."""
    rows = session.exec(select(Residency.id, Residency.pid, Residency.known_as).where(of_device(device))).all()
    lose(session, of_device(device))
    for residency_id, pid, known_as in rows:
        if pid is not None or known_as is not None:
            update_row(session, residency_id, pid=pid, known_as=known_as)


def left_behind(session: Session, device: str) -> list[Residency]:
    """What was given up there and not ended."""
    known = col(Residency.pid).is_not(None) | col(Residency.known_as).is_not(None)
    over = col(Residency.state).not_in((*IN_MEMORY, ResidencyState.ASLEEP))
    return list(session.exec(select(Residency).where(of_device(device), known, over)).all())


def of_device(device: str) -> ColumnElement[bool]:
    return col(Residency.device) == device


def of_ids(ids: list[str]) -> ColumnElement[bool]:
    return col(Residency.id).in_(ids)
