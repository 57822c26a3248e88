"""Webhooks and their deliveries, as requests say them and answers show them."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field

from api.bodies import Body
from api.views import View, moment
from shared.contract import ModelId
from shared.db.webhooks import DEAD, DELIVERED, PENDING, Delivery, Webhook
from shared.errors import ModelyardError
from shared.refs import check_url
from shared.storable import printable
from shared.webhooks import EVENTS, EVERYTHING, patterns


def _url(value: str) -> str:
    try:
        check_url(value)
    except ModelyardError as error:
        raise ValueError(f"{error.message} {error.hint}") from error
    return value


def _pattern(value: str) -> str:
    if value not in patterns():
        raise ValueError(f"there is no such event; there are {', '.join(patterns())}")
    return value


Url = Annotated[str, Field(max_length=2000), AfterValidator(_url)]
Events = Annotated[
    list[Annotated[str, AfterValidator(_pattern)]],
    Field(min_length=1, max_length=len(EVENTS), description="Types, families such as `job.*`, or `*`."),
]
Models = Annotated[list[ModelId], Field(max_length=100, description="Only what concerns these; all where empty.")]
Description = Annotated[str, Field(max_length=200), AfterValidator(printable)]


class WebhookBody(Body):
    """A receiver, and what it is to be told."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"url": "https://ops.example.com/modelyard", "events": ["job.failed", "model.*"], "models": ["qwen3-0.6b"]},
    ]})  # fmt: skip

    url: Url
    events: Annotated[Events, Field(default_factory=lambda: [EVERYTHING])]
    models: Annotated[Models, Field(default_factory=list)]
    description: Description = ""


class WebhookChange(Body):
    """What is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    url: Url | None = None
    events: Events | None = None
    models: Models | None = None
    description: Description | None = None
    enabled: bool | None = None
    rotate_secret: Annotated[
        bool, Field(description="Make a new secret, and answer it; the old one signs, too, for a day.")
    ] = False


class WebhookView(View):
    id: str
    url: str
    events: list[str]
    models: list[str]
    description: str
    enabled: bool
    disabled_because: str | None
    failures: int = Field(description="Tries in a row that its receiver did not take.")
    held_until: datetime | None = Field(description="Until then it is left alone.")
    pending: int
    delivered: int = Field(description="Of those that are kept.")
    dead: int
    created_at: datetime
    secret: str | None = Field(None, description="Once, when it is made; there is no other way to get it.")

    @classmethod
    def of(cls, hook: Webhook, counts: dict[str, int], secret: str | None = None) -> Self:
        return cls(
            id=hook.id, url=hook.url, events=hook.events, models=hook.models, description=hook.description,
            enabled=hook.enabled, disabled_because=hook.disabled_because, failures=hook.failures,
            held_until=moment(hook.held_until or None), pending=counts.get(PENDING, 0),
            delivered=counts.get(DELIVERED, 0), dead=counts.get(DEAD, 0), created_at=datetime_of(hook.created_at),
            secret=secret,
        )  # fmt: skip


class WebhooksView(View):
    webhooks: list[WebhookView]
    event_types: dict[str, str] = Field(description="What there is to be told.")


class Removed(View):
    id: str


class DeliveryView(View):
    id: str = Field(description="The same in the header `webhook-id` of every try.")
    event: str
    model_id: str | None
    state: Literal["pending", "delivered", "dead"]
    tries: int
    status: int | None = Field(description="Of the receiver's last answer; null where none came.")
    error: dict[str, Any] | None = Field(description="Why the last try failed.")
    next_at: datetime | None = Field(description="Of one that was tried: when it is tried again.")
    created_at: datetime
    ended_at: datetime | None
    payload: dict[str, Any] = Field(description="What is sent.")

    @classmethod
    def of(cls, row: Delivery) -> Self:
        return cls(
            id=row.id, event=row.event, model_id=row.model_id, state=row.state, tries=row.tries, status=row.status,
            error=row.error, next_at=moment(row.next_at) if row.state == PENDING and row.next_at else None,
            created_at=datetime_of(row.created_at), ended_at=moment(row.ended_at), payload=json.loads(row.body),
        )  # fmt: skip


class DeliveryPage(View):
    deliveries: list[DeliveryView]
    next_cursor: str | None = None


def datetime_of(seconds: float) -> datetime:
    found = moment(seconds)
    assert found is not None  # noqa: S101 - it is None for None only
    return found
