"""What stands between Redis and a worker: no message, however odd or hostile, stops it or makes it do more than a job.

Stock Celery dies on a JSON body that is no three-item list, again at every restart; runs callbacks that a message
carries along; holds a message with a distant ETA in memory. Here a message is read once with bounds: what is no job is
put aside, counted and logged; what is one is handed on with its arguments and nothing else.
"""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from queue import Empty
from typing import Any

import structlog
from celery.concurrency.thread import TaskPool
from celery.worker.consumer import Consumer
from kombu.asynchronous import get_event_loop
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, Transport
from kombu.transport.virtual import QoS as LocalQoS

from shared.broker import TICKET_HEADER
from shared.errors import Invalid

log = structlog.get_logger()

MAX_BODY_BYTES = 16 * 1024
MAX_ID = 128
EVENTS_SECONDS = 0.5
RECONNECT_SECONDS = 5
NOT_BEFORE_HEADER = "modelyard_not_before"
"""Where the ETA of a message goes, in seconds since 1970: the ledger waits for it, no worker's memory does."""

put_aside: Counter[str] = Counter()
"""Messages that were no job, by reason, since this process started."""


class WakingPool(TaskPool):  # type: ignore[misc] # celery ships no types
    """Threads that wake the worker's loop when one is free; else it looks for the next message up to a second late."""

    def on_apply(self, target: Any, args: Any = None, kwargs: Any = None, callback: Any = None, **more: Any) -> Any:
        def done(*told: Any, **named: Any) -> None:
            if callback is not None:
                callback(*told, **named)
            if (loop := get_event_loop()) is not None:
                loop.call_soon(_wake)

        return super().on_apply(target, args, kwargs, done, **more)


def _wake() -> None:
    """To be called is enough."""


class GuardedConsumer(Consumer):  # type: ignore[misc] # celery ships no types
    """Celery's consumer with a guard before its task handler; it looks for a lost Redis more often."""

    def ensure_connected(self, connection: Any) -> Any:
        # After a long outage Celery would look every half minute only.
        connection.ensure_connection = partial(
            connection.ensure_connection, interval_start=1, interval_step=1, interval_max=RECONNECT_SECONDS
        )
        return super().ensure_connected(connection)

    def on_send_event_buffered(self) -> None:
        """Flower's events go out in bundles, see below: a message for each would cost a fifth of a short job."""

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.call_repeatedly(EVENTS_SECONDS, self._flush_events)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> None:
            try:
                clean(message)
                handle(message)
            except Invalid as error:
                _put_aside(error.code, error.message)
                message.ack()
            except self.connection_errors:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the next message must be read
                _put_aside("unreadable_message", repr(error))
                message.ack()

        return on_message


class GuardedQoS(QoS):
    """Redis keeps a copy of a message that is being handed on, except of a ticket: the ledger finds a lost one.

    The copies cost a quarter of a short job.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        if _is_ticket(message):
            LocalQoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call] # kombu ships no types

    def ack(self, delivery_tag: str) -> None:
        if _is_ticket(self._delivered.get(delivery_tag)):
            LocalQoS.ack(self, delivery_tag)
        else:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call] # kombu ships no types

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        message = self._delivered.get(tag)
        if message is None or not _is_ticket(message):
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call] # kombu ships no types
            return
        raw, place = message._raw, message.delivery_info  # noqa: SLF001 - kombu's own queue does the same
        with self.channel.conn_or_acquire(client) as there:
            put_back = self.channel._do_restore_message  # noqa: SLF001 - it has no public name
            put_back(raw, place["exchange"], place["routing_key"], there, leftmost)


def _is_ticket(message: Any) -> bool:
    return message is not None and isinstance(message.headers, dict) and TICKET_HEADER in message.headers


class GuardedChannel(Channel):
    """Reads on after something that is no message at all."""

    QoS = GuardedQoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call] # kombu ships no types
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _put_aside("unreadable_message", repr(error))
            raise Empty from error


class GuardedTransport(Transport):
    """Redis, with the channel above."""

    Channel = GuardedChannel


def install() -> None:
    """Make the workers of this process read Redis through the guard."""
    TRANSPORT_ALIASES["redis"] = f"{__name__}:GuardedTransport"


def _put_aside(code: str, reason: str) -> None:
    put_aside[code] += 1
    log.warning("message.put_aside", code=code, reason=reason[:200], seen=put_aside[code])


def clean(message: Any) -> None:
    """Reduce a message to what a job needs, in place.

    Raises:
        Invalid: it is no job in JSON; its content is not logged.
    """
    if message.content_type != "application/json":
        raise Invalid("unreadable_message", "Its content is not JSON.")
    body = message.body.encode() if isinstance(message.body, str) else message.body
    if len(body) > MAX_BODY_BYTES:
        raise Invalid("oversized_message", f"It is larger than {MAX_BODY_BYTES} bytes.")
    headers = message.headers
    if not isinstance(headers, dict) or not _is_text(headers.get("task")) or not _is_text(headers.get("id")):
        raise Invalid("unreadable_message", "It has no task and id in its headers.")
    args, kwargs = _arguments(body)
    message.body = json.dumps([args, kwargs, {}])  # without callbacks, chains and chords
    message.content_encoding = "utf-8"
    eta = headers.get("eta")
    kept = {name: value for name, value in headers.items() if name in KEPT}
    message.headers = {**EMPTY, **kept, **({NOT_BEFORE_HEADER: _seconds(eta)} if eta else {})}


KEPT = frozenset({"lang", "task", "id", "root_id", "origin", "argsrepr", "kwargsrepr", "ignore_result", TICKET_HEADER})
EMPTY: dict[str, Any] = {
    "eta": None, "expires": None, "group": None, "group_index": None, "retries": 0, "timelimit": [None, None],
    "parent_id": None, "shadow": None, "stamped_headers": None, "stamps": {}, "replaced_task_nesting": 0,
}  # fmt: skip


def _arguments(body: bytes) -> tuple[list[Any], dict[str, Any]]:
    try:
        args, kwargs, _ = json.loads(body)
    except (ValueError, TypeError, RecursionError):
        raise Invalid("unreadable_message", "Its body is not [args, kwargs, embed].") from None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise Invalid("unreadable_message", "Its body is not [args, kwargs, embed].")
    return args, kwargs


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable()


def _seconds(eta: Any) -> float:
    try:
        moment = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        raise Invalid("unreadable_message", "Its ETA is no time.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
