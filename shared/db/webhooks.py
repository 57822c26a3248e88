"""Webhooks as rows: who is told, what happened, and what is still to be told.

Triggers write `webhook_events` in the transaction of what happened, as long as somebody wants to know; `fan_out` makes
a delivery of each for every receiver that wants it. So nothing is lost wherever a process dies.
"""

import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Float, Index, Integer, Text, insert, text, tuple_, update
from sqlmodel import Field, Session, SQLModel, col, delete, exists, func, select

from shared import webhooks
from shared.db.session import now, serialise
from shared.db.tables import json_column
from shared.errors import Conflict, Exhausted, NotFound

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
STATES = (PENDING, DELIVERED, DEAD)
MOST = 50
"""Webhooks."""
AT_ONCE = 200
_WAITS = text("state = 'pending'")


class Webhook(SQLModel, table=True):
    """A receiver. Its secret is in no row; see `shared/webhooks.py`."""

    __tablename__ = "webhooks"

    id: str = Field(primary_key=True, max_length=32)
    url: str
    events: list[str] = Field(sa_column=json_column())
    models: list[str] = Field(sa_column=json_column())
    wants: str
    """The events again, `,job.*,model.corrupted,`, for triggers."""
    description: str = ""
    enabled: bool = True
    disabled_because: str | None = None
    generation: int = 1
    """Of its secret; goes up with each new one."""
    secret_check: str = Field(max_length=32)
    rotated_at: float | None = Field(default=None, sa_column=Column(Float(53)))
    failures: int = 0
    """Tries in a row that failed; after each it is left alone for longer."""
    held_until: float = Field(default=0.0, sa_column=Column(Float(53), nullable=False))
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))


class WebhookEvent(SQLModel, table=True):
    """Something that happened, and of which no delivery has been made yet."""

    __tablename__ = "webhook_events"

    seq: int | None = Field(
        default=None, sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    )
    type: str = Field(max_length=64)
    model_id: str | None = None
    data: dict[str, Any] = Field(sa_column=json_column())
    at: float = Field(sa_column=Column(Float(53), nullable=False))


class Delivery(SQLModel, table=True):
    """What one receiver is told; stays the same message however often it is sent."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_pending", "webhook_id", "next_at", sqlite_where=_WAITS, postgresql_where=_WAITS),
        Index("ix_webhook_deliveries_created", "webhook_id", "created_at", "id"),
        Index("ix_webhook_deliveries_ended", "state", "ended_at"),
    )

    id: str = Field(primary_key=True, max_length=64)
    webhook_id: str = Field(max_length=32)
    event: str = Field(max_length=64)
    model_id: str | None = None
    body: str = Field(sa_column=Column(Text, nullable=False))
    """The bytes that are signed and sent."""
    state: str = PENDING
    tries: int = 0
    next_at: float = Field(default=0.0, sa_column=Column(Float(53), nullable=False))
    status: int | None = None
    """Of the last answer."""
    error: dict[str, Any] | None = Field(default=None, sa_column=json_column(nullable=True))
    created_at: float = Field(sa_column=Column(Float(53), nullable=False))
    since: float = Field(sa_column=Column(Float(53), nullable=False))
    """When it was to be sent first, or was asked for again."""
    ended_at: float | None = Field(default=None, sa_column=Column(Float(53)))


_DELIVERIES = SQLModel.metadata.tables[str(Delivery.__tablename__)]


# -- receivers ----------------------------------------------------------------------------------------------


def new_id() -> str:
    return f"wh_{secrets.token_hex(8)}"


def add(session: Session, hook: Webhook) -> Webhook:
    """Raises: Exhausted, when there are too many."""
    serialise(session, "webhooks")
    if session.exec(select(func.count()).select_from(Webhook)).one() >= MOST:
        raise Exhausted("too_many_webhooks", f"There are {MOST} webhooks already.", "Remove one: modelyard webhooks.")
    hook.wants, hook.created_at = _wants(hook.events), session.exec(select(now())).one()
    session.add(hook)
    session.flush()
    return hook


def every(session: Session) -> list[Webhook]:
    return list(session.exec(select(Webhook).order_by(col(Webhook.created_at), col(Webhook.id))).all())


def find(session: Session, webhook_id: str) -> Webhook:
    """Raises: NotFound."""
    hook = session.get(Webhook, webhook_id)
    if hook is None:
        raise NotFound("webhook_not_found", "There is no such webhook.", "`modelyard webhooks` lists them.")
    return hook


def change(session: Session, webhook_id: str, **values: Any) -> Webhook:
    """Raises: NotFound."""
    hook = find(session, webhook_id)
    if {"url", "enabled"} & values.keys():
        values |= {"failures": 0, "held_until": 0.0, "disabled_because": None}
    for name, value in values.items():
        setattr(hook, name, value)
    hook.wants = _wants(hook.events)
    session.add(hook)
    session.flush()
    return hook


def rotate(session: Session, webhook_id: str, secret_check: str) -> Webhook:
    """Its secret is the one of the next generation from now on."""
    hook = find(session, webhook_id)
    clock = session.exec(select(now())).one()
    return change(
        session, webhook_id, generation=hook.generation + 1, secret_check=secret_check, rotated_at=clock,
        failures=0, held_until=0.0,
    )  # fmt: skip


def remove(session: Session, webhook_id: str) -> None:
    """Raises: NotFound."""
    serialise(session, "webhooks")  # what is being handed out to it goes with it
    session.delete(find(session, webhook_id))
    session.exec(delete(Delivery).where(col(Delivery.webhook_id) == webhook_id))


def _wants(events: Sequence[str]) -> str:
    return f",{','.join(events)},"


# -- what is to be told -------------------------------------------------------------------------------------


def fan_out(session: Session) -> int:
    """Make deliveries of what happened, some hundred at a time; how many events that were."""
    serialise(session, "webhooks")
    happened = session.exec(select(WebhookEvent).order_by(col(WebhookEvent.seq)).limit(AT_ONCE)).all()
    hooks = [hook for hook in every(session) if hook.enabled] if happened else []
    made = [
        _message(hook, event.type, event.model_id, event.data, event.at)
        for event in happened
        for hook in hooks
        if hook.created_at <= event.at and webhooks.wanted(event.type, event.model_id, hook.events, hook.models)
    ]
    if made:  # as values: the session would take ten times as long over them, and hold up other writers
        session.connection().execute(insert(_DELIVERIES), [each.model_dump() for each in made])
    # These alone: one with a smaller number may be committed only now.
    session.exec(delete(WebhookEvent).where(col(WebhookEvent.seq).in_([event.seq for event in happened])))
    return len(happened)


def happened(session: Session) -> bool:
    """Whether there is something to make deliveries of."""
    return session.exec(select(WebhookEvent.seq).limit(1)).first() is not None


def ask_for_test(session: Session, webhook_id: str) -> Delivery:
    """A delivery of its own, due at once.

    Raises:
        NotFound
        Conflict: `webhook_disabled`.
    """
    hook = _enabled(session, webhook_id)
    hook.held_until = 0.0
    session.add(hook)
    delivery = _message(hook, webhooks.TEST, None, {"webhookId": hook.id}, session.exec(select(now())).one())
    session.add(delivery)
    return delivery


def _message(hook: Webhook, event: str, model_id: str | None, data: dict[str, Any], at: float) -> Delivery:
    moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return Delivery(
        id=f"msg_{secrets.token_hex(16)}", webhook_id=hook.id, event=event, model_id=model_id, created_at=at, since=at,
        body=json.dumps({"type": event, "timestamp": moment, "data": data}, separators=(",", ":")),
    )  # fmt: skip


def _enabled(session: Session, webhook_id: str) -> Webhook:
    hook = find(session, webhook_id)
    if not hook.enabled:
        raise Conflict(
            "webhook_disabled", "This webhook is disabled.", f"Enable it: modelyard webhooks enable {webhook_id}."
        )
    return hook


# -- deliveries ---------------------------------------------------------------------------------------------


def waiting(session: Session) -> list[str]:
    """Webhooks that have something to be told now."""
    mine = exists().where(
        col(Delivery.webhook_id) == col(Webhook.id), col(Delivery.state) == PENDING, col(Delivery.next_at) <= now()
    )
    query = select(Webhook.id).where(col(Webhook.enabled), col(Webhook.held_until) <= now(), mine)
    return list(session.exec(query).all())


def due(session: Session, webhook_id: str, limit: int) -> tuple[Webhook, list[Delivery]] | None:
    """What it is to be told now: what was not tried yet first, in its order. None where it is to be left alone."""
    ready = (col(Webhook.id) == webhook_id) & col(Webhook.enabled) & (col(Webhook.held_until) <= now())
    hook = session.exec(select(Webhook).where(ready)).first()
    if hook is None:
        return None
    mine = (col(Delivery.webhook_id) == webhook_id) & (col(Delivery.state) == PENDING)
    query = select(Delivery).where(mine, col(Delivery.next_at) <= now())
    order = (col(Delivery.tries), col(Delivery.created_at), col(Delivery.id))
    return hook, list(session.exec(query.order_by(*order).limit(limit)).all())


def clock(session: Session) -> float:
    """Seconds since 1970 by the database."""
    return float(session.exec(select(now())).one())


def delivered(session: Session, webhook_id: str, taken: Sequence[tuple[Delivery, int]]) -> None:
    """These were taken, each with that status; whoever sent one of them at the same time finds that."""
    told = 0
    for status in {status for _, status in taken}:
        alike = [(delivery.id, delivery.tries) for delivery, its in taken if its == status]
        same = tuple_(col(Delivery.id), col(Delivery.tries)).in_(alike) & (col(Delivery.state) == PENDING)
        values = {"state": DELIVERED, "status": status, "error": None, "ended_at": now()}
        told += session.exec(update(Delivery).where(same).values(tries=col(Delivery.tries) + 1, **values)).rowcount
    if told:
        well = (col(Webhook.id) == webhook_id) & (col(Webhook.failures) > 0)
        session.exec(update(Webhook).where(well).values(failures=0, held_until=0.0))


def failed(
    session: Session, delivery: Delivery, error: dict[str, Any], *, status: int | None, delay: float | None, hold: float
) -> None:
    """It was not taken.

    Args:
        delay: seconds until the next try; None gives it up.
        hold: seconds for which the receiver is left alone.
    """
    end = {"next_at": now() + delay} if delay is not None else {"state": DEAD, "ended_at": now()}
    if _tried(session, delivery, status=status, error=error, **end):
        values = {"failures": col(Webhook.failures) + 1, "held_until": now() + hold}
        session.exec(update(Webhook).where(col(Webhook.id) == delivery.webhook_id).values(**values))


def _tried(session: Session, delivery: Delivery, **values: Any) -> bool:
    same = (
        (col(Delivery.id) == delivery.id) & (col(Delivery.state) == PENDING) & (col(Delivery.tries) == delivery.tries)
    )  # fmt: skip
    return session.exec(update(Delivery).where(same).values(tries=delivery.tries + 1, **values)).rowcount == 1


def disable(session: Session, webhook_id: str, because: str) -> None:
    """Its receiver does not want to be told any more."""
    values = {"enabled": False, "disabled_because": because}
    session.exec(update(Webhook).where(col(Webhook.id) == webhook_id).values(**values))
