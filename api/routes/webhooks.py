"""Webhooks: who is told what happens here, and what became of the telling."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.cursor import Cursor, decode_cursor, encode_cursor
from api.deps import FrontDep
from api.webhooks import DeliveryPage, DeliveryView, Removed, WebhookBody, WebhookChange, WebhooksView, WebhookView
from shared import webhooks
from shared.db import audit, deliveries
from shared.db import webhooks as rows
from shared.db.webhooks import Webhook

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


@router.get("", summary="List webhooks")
def list_webhooks(front: FrontDep) -> WebhooksView:
    """Each with what waits for it; and the types of events that there are."""
    with front.database.reading() as session:
        found, counts = rows.every(session), deliveries.counts(session)
    return WebhooksView(
        webhooks=[WebhookView.of(hook, counts.get(hook.id, {})) for hook in found], event_types=webhooks.EVENTS
    )


@router.post("", status_code=201, summary="Have another service told what happens here")
def add_webhook(front: FrontDep, body: WebhookBody, response: Response) -> WebhookView:
    """The answer has the secret that messages are signed with: it is shown now, and never again."""
    webhook_id = rows.new_id()
    audit.about(webhook_id)
    key = webhooks.secret(front.settings, webhook_id, 1)
    made = Webhook(id=webhook_id, secret_check=webhooks.check(key), wants="", created_at=0.0, **body.model_dump())
    with front.database.session() as session:
        hook = rows.add(session, made)
    response.headers["Location"] = f"/api/v1/webhooks/{webhook_id}"
    response.headers["Cache-Control"] = "no-store"
    return WebhookView.of(hook, {}, webhooks.shown(key))


@router.get("/{webhook_id}", summary="One webhook")
def get_webhook(front: FrontDep, webhook_id: str) -> WebhookView:
    """Without its secret."""
    with front.database.reading() as session:
        return WebhookView.of(
            rows.find(session, webhook_id), deliveries.counts(session, webhook_id).get(webhook_id, {})
        )


@router.patch("/{webhook_id}", summary="Change a webhook")
def change_webhook(front: FrontDep, webhook_id: str, body: WebhookChange, response: Response) -> WebhookView:
    """What is left out stays. A new address, or one that is enabled again, is tried at once."""
    given = body.model_dump(exclude_unset=True, exclude={"rotate_secret"})
    values = {name: value for name, value in given.items() if value is not None}
    secret = None
    with front.database.session() as session:
        hook = rows.change(session, webhook_id, **values)
        if body.rotate_secret:
            key = webhooks.secret(front.settings, webhook_id, hook.generation + 1)
            hook, secret = rows.rotate(session, webhook_id, webhooks.check(key)), webhooks.shown(key)
            response.headers["Cache-Control"] = "no-store"
        counts = deliveries.counts(session, webhook_id).get(webhook_id, {})
    return WebhookView.of(hook, counts, secret)


@router.delete("/{webhook_id}", summary="Remove a webhook")
def remove_webhook(front: FrontDep, webhook_id: str) -> Removed:
    """Its deliveries go with it."""
    with front.database.session() as session:
        rows.remove(session, webhook_id)
    return Removed(id=webhook_id)


@router.get("/{webhook_id}/deliveries", summary="What a receiver was told, and is to be told")
def list_deliveries(
    front: FrontDep,
    webhook_id: str,
    state: Annotated[Literal["pending", "delivered", "dead"] | None, Query(description="In this state.")] = None,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> DeliveryPage:
    """Newest first; each with its tries, the last answer's status, and why it failed."""
    before = _before(cursor)
    with front.database.reading() as session:
        found = deliveries.page(session, webhook_id, state=state, before=before, limit=limit)
    more = encode_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else None
    return DeliveryPage(deliveries=[DeliveryView.of(row) for row in found], next_cursor=more)


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay", summary="Send a delivery again")
def replay(front: FrontDep, webhook_id: str, delivery_id: str) -> DeliveryView:
    """The same message under the same `webhook-id`, with fresh tries; also one that was taken."""
    with front.database.session() as session:
        return DeliveryView.of(deliveries.replay(session, webhook_id, delivery_id))


@router.post("/{webhook_id}/test", status_code=202, summary="Send a receiver something to see that it works")
def test_webhook(front: FrontDep, webhook_id: str) -> DeliveryView:
    """A message of the type `webhook.test`; its delivery tells what came of it."""
    with front.database.session() as session:
        return DeliveryView.of(rows.ask_for_test(session, webhook_id))


def _before(cursor: str | None) -> tuple[float, str] | None:
    if cursor is None:
        return None
    created, own = decode_cursor(cursor, float, str)
    return created, own
