"""`webhook.deliver`: tell one receiver what waits for it, one after another, signed, at least once."""

import time
from typing import Any

import structlog

from shared import webhooks
from shared.contracts import Deliver
from shared.db import webhooks as rows
from shared.db.webhooks import Delivery, Webhook
from shared.errors import Failed, ModelyardError
from shared.jobs import error_body
from shared.settings import Settings
from workers.job import Work, backoff, job
from workers.sources.wire.policy import HostPolicy
from workers.sources.wire.post import Answer, Poster
from workers.sources.wire.route import Route

log = structlog.get_logger()

AT_ONCE = 200
NOTED_AT_ONCE = 20
"""What was taken is written down for so many together: at most these are sent again where the worker is killed."""
TURN_SECONDS = 30.0
"""After so long another job may have the slot; what is left is asked for again."""
GONE = 410
"""A receiver's way to say that it wants nothing any more."""


@job(Deliver)
def deliver(args: Deliver, work: Work) -> dict[str, Any]:
    """A try that failed ends the turn: its receiver is left alone for a while, longer each time."""
    told = {"delivered": 0, "failed": 0}
    until = time.monotonic() + TURN_SECONDS
    work.report("delivering")
    going = True
    while going and time.monotonic() < until:
        with work.services.database.reading() as session:
            found, moment = rows.due(session, args.webhook_id, AT_ONCE), rows.clock(session)
        if found is None or not found[1]:
            break
        going = _tell(work, *found, moment, told)
    return told


def _tell(work: Work, hook: Webhook, deliveries: list[Delivery], moment: float, told: dict[str, int]) -> bool:
    """Send these; False where the receiver did not take one."""
    settings, taken = work.services.settings, list[tuple[Delivery, int]]()
    poster = Poster(_route(settings, hook.url), work.checkpoint, settings.webhooks.timeout_seconds)
    began = time.monotonic()
    try:
        for delivery in deliveries:
            work.checkpoint()
            answer, error = _try(poster, settings, hook, delivery, moment + time.monotonic() - began)
            if error is not None or answer is None:
                _note(work, hook, taken)
                _failed(work, hook, delivery, answer, error, 0 if told["delivered"] else hook.failures)
                told["failed"] += 1
                return False
            taken.append((delivery, answer.status))
            told["delivered"] += 1
            if len(taken) >= NOTED_AT_ONCE:
                _note(work, hook, taken)
    finally:
        poster.close()
        _note(work, hook, taken)
    return True


def _note(work: Work, hook: Webhook, taken: list[tuple[Delivery, int]]) -> None:
    """Write down what was taken, and begin anew."""
    if taken:
        with work.services.database.session() as session:
            rows.delivered(session, hook.id, taken)
        taken.clear()


def _try(
    poster: Poster, settings: Settings, hook: Webhook, delivery: Delivery, moment: float
) -> tuple[Answer | None, ModelyardError | None]:
    """One try at one delivery: what was answered, and why that is no success."""
    answer = None
    try:
        body = delivery.body.encode()
        answer = poster.send(body, webhooks.signed(_keys(settings, hook, moment), delivery.id, int(moment), body))
        return answer, _refusal(answer)
    except ModelyardError as refused:
        return answer, refused


def _failed(
    work: Work, hook: Webhook, delivery: Delivery, answer: Answer | None, error: ModelyardError | None, before: int
) -> None:
    """Write down a try that failed; `before` it so many others did, one after another."""
    settings = work.services.settings.webhooks
    asked = (answer.retry_after if answer is not None else None) or 0.0
    gone = answer is not None and answer.status == GONE
    last = gone or delivery.tries + 1 >= settings.tries
    first, most = settings.backoff_seconds, settings.backoff_cap_seconds
    delay = None if last else max(asked, backoff(delivery.tries, first, most))
    told = error_body(error) if error is not None else {}
    with work.services.database.session() as session:
        rows.failed(
            session, delivery, told, status=answer.status if answer is not None else None, delay=delay,
            hold=max(asked, backoff(before, first, most)),
        )  # fmt: skip
        if gone:
            rows.disable(session, hook.id, "Its receiver answered 410: it wants nothing any more.")
    log.warning("webhook.failed", webhook=hook.id, delivery=delivery.id, code=told.get("code"), dead=last)


def _refusal(answer: Answer) -> ModelyardError | None:
    """Why an answer is none to be content with."""
    if 200 <= answer.status < 300:  # noqa: PLR2004 - the statuses of success
        return None
    if 300 <= answer.status < 400:  # noqa: PLR2004 - redirects
        return Failed(
            "webhook_redirected", f"The receiver answered {answer.status}, and redirects are not followed.",
            "Give the webhook the address that it leads to.",
        )  # fmt: skip
    return Failed("webhook_refused", f"The receiver answered {answer.status}.", "Its log may say why.")


def _keys(settings: Settings, hook: Webhook, moment: float) -> list[bytes]:
    """The secret, and the one before it while receivers may still have that.

    Raises:
        Failed: code `webhook_secret_changed`.
    """
    key = webhooks.secret(settings, hook.id, hook.generation)
    if webhooks.check(key) != hook.secret_check:
        raise Failed(
            "webhook_secret_changed", "The secret of this installation is not the one that the webhook was made with.",
            f"Put it back (MODELYARD_SECRET), or make a new one: modelyard webhooks rotate {hook.id}.",
        )  # fmt: skip
    keys = [key]
    if hook.rotated_at is not None and moment < hook.rotated_at + webhooks.ROTATION_SECONDS:
        keys.append(webhooks.secret(settings, hook.id, hook.generation - 1))
    return keys


def _route(settings: Settings, url: str) -> Route:
    """The way to a receiver: the policy of sources, with hosts of its own."""
    own = settings.webhooks
    wire = settings.sources.model_copy(
        update={
            "allowed_hosts": own.allowed_hosts, "hf_endpoint": "", "read_timeout": own.timeout_seconds,
            "connect_timeout": min(settings.sources.connect_timeout, own.timeout_seconds),
        }
    )  # fmt: skip
    policy = HostPolicy(wire, listed_in="MODELYARD_WEBHOOKS__ALLOWED_HOSTS")
    return Route(url, {}, policy, wire)
