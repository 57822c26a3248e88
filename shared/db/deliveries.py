"""Deliveries of webhooks as people look at them: listed, replayed, counted, forgotten."""

from typing import Any

from sqlalchemy import tuple_, update
from sqlmodel import Session, col, delete, func, select

from shared.db import webhooks
from shared.db.session import now
from shared.db.webhooks import DEAD, PENDING, Delivery, Webhook
from shared.errors import Conflict, NotFound

GAVE_UP = {
    "code": "gave_up", "message": "The receiver took nothing for too long.", "retryable": True,
    "hint": "Once it does: modelyard webhooks replay.",
}  # fmt: skip


def find(session: Session, webhook_id: str, delivery_id: str) -> Delivery:
    """Raises: NotFound."""
    webhooks.find(session, webhook_id)
    found = session.get(Delivery, delivery_id)
    if found is None or found.webhook_id != webhook_id:
        hint = f"`modelyard webhooks deliveries {webhook_id}` lists them."
        raise NotFound("delivery_not_found", "There is no such delivery.", hint)
    return found


def page(
    session: Session, webhook_id: str, *, state: str | None, before: tuple[float, str] | None, limit: int
) -> list[Delivery]:
    """Newest first.

    Raises:
        NotFound
    """
    webhooks.find(session, webhook_id)
    created, own = col(Delivery.created_at), col(Delivery.id)
    query = select(Delivery).where(col(Delivery.webhook_id) == webhook_id)
    if state is not None:
        query = query.where(col(Delivery.state) == state)
    if before is not None:
        query = query.where(tuple_(created, own) < before)
    return list(session.exec(query.order_by(created.desc(), own.desc()).limit(limit)).all())


def replay(session: Session, webhook_id: str, delivery_id: str) -> Delivery:
    """Send the same message again, as if it had never been tried.

    Raises:
        NotFound
        Conflict: `delivery_pending`, it is still to be sent.
    """
    find(session, webhook_id, delivery_id)
    ended = (col(Delivery.id) == delivery_id) & (col(Delivery.state) != PENDING)
    fresh: dict[str, Any] = {
        "state": PENDING,
        "tries": 0,
        "next_at": 0.0,
        "error": None,
        "ended_at": None,
        "since": now(),
    }
    if session.exec(update(Delivery).where(ended).values(**fresh)).rowcount == 0:
        raise Conflict("delivery_pending", "It is still to be sent.", "It goes by itself.")
    session.exec(update(Webhook).where(col(Webhook.id) == webhook_id).values(held_until=0.0))
    session.expire_all()
    return find(session, webhook_id, delivery_id)


def counts(session: Session, webhook_id: str | None = None) -> dict[str, dict[str, int]]:
    """By webhook and state; of one webhook, or of all."""
    query = select(Delivery.webhook_id, Delivery.state, func.count())
    if webhook_id is not None:
        query = query.where(col(Delivery.webhook_id) == webhook_id)
    query = query.group_by(col(Delivery.webhook_id), col(Delivery.state))
    found: dict[str, dict[str, int]] = {}
    for one, state, count in session.exec(query).all():
        found.setdefault(one, {})[state] = count
    return found


def give_up(session: Session, seconds: float) -> int:
    """What waits for so long is dead; how many that were."""
    old = (col(Delivery.state) == PENDING) & (col(Delivery.since) < now() - seconds)
    values: dict[str, Any] = {"state": DEAD, "error": GAVE_UP, "ended_at": now()}
    return int(session.exec(update(Delivery).where(old).values(**values)).rowcount)


def prune(session: Session, seconds: float) -> int:
    """Forget what ended so long ago; how many that were."""
    old = (col(Delivery.state) != PENDING) & (col(Delivery.ended_at) < now() - seconds)
    return int(session.exec(delete(Delivery).where(old)).rowcount)
