"""Celery on Redis, every setting with its reason. The ledger is the truth; a message is a doorbell."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError

from shared import queues
from shared.settings import Settings
from shared.states import Priority

if TYPE_CHECKING:
    from shared.db.tables import Job

log = structlog.get_logger()

TICKET_HEADER = "modelyard_ticket"
"""Says which ticket of the job a message is; messages of other services do not carry it."""


def named_queue(name: str) -> Any:
    """Celery's object for a queue of that name; what publishers and consumers must agree on is the name alone."""
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def make_app(settings: Settings, *, publisher: bool = False) -> Celery:
    """The Celery app of every process.

    Args:
        publisher: it only sends: no call of it may wait for a Redis that accepts and does not answer.
    """
    app = Celery("modelyard", broker=settings.redis.url.get_secret_value(), set_as_current=False)
    app.conf.update(
        # JSON only: pickle and YAML run code.
        task_serializer="json",
        accept_content=["json"],
        # No result backend: the ledger holds results, and a backend loses them and grows.
        task_ignore_result=True,
        result_backend=None,
        # Early: a three-hour download never outlives a visibility timeout; the ledger's lease finds lost workers.
        task_acks_late=False,
        # A message is taken only when a thread is free for it, so that the next CRITICAL is next. Redis only.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        # What names no queue is adopted and filed, never lost.
        task_default_queue=queues.INTAKE,
        # A typo in our own code is an error here, not a list that nobody reads.
        task_create_missing_queues=False,
        task_queues=[named_queue(queues.INTAKE)],
        # An API call must not hang on Redis: fail in under a second, the outbox sends later.
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.3},
        broker_transport_options={
            # By name: right in every kombu; 'priority' was random before 5.7.
            "queue_order_strategy": "sorted",
            # A backstop only: with early acknowledgement nothing of ours stays unacknowledged.
            "visibility_timeout": 21_600,
            # Dead links are noticed.
            "socket_keepalive": True,
            "health_check_interval": 25,
            "socket_connect_timeout": 2,
            # A consumer's BRPOP must be able to wait, so this is the publishers' alone.
            **({"socket_timeout": 3} if publisher else {}),
        },
        # Wait for Redis as long as it takes; the supervisor handles the rest.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # 6.0 turns this on; a blip of Redis must not kill a download.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Flower needs both; a fifth of the throughput is a fair price at tens of jobs a minute.
        worker_send_task_events=True,
        task_send_sent_event=True,
        # Our JSON logs stay ours.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class Broker:
    """Sends tickets, and looks which are still waiting."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def send(self, job: "Job") -> bool:
        """Ring for a job, by name, the way any other service can. False: Redis is away, the outbox tries later."""
        queue = queues.queue_name(Priority(job.priority), job.lane)
        try:
            self.app.send_task(
                job.kind,
                kwargs=job.args,
                task_id=job.id,
                queue=named_queue(queue),
                headers={TICKET_HEADER: job.ticket},
                ignore_result=True,
            )
        except OperationalError:
            log.warning("ticket.unsent", job_id=job.id, queue=queue)
            return False
        return True

    def waiting(self, queue_names: Iterable[str]) -> set[tuple[str, int]]:
        """(job id, ticket) of every message that lies in these queues.

        Raises:
            OperationalError: Redis does not answer.
        """
        found: set[tuple[str, int]] = set()
        with self.app.connection_for_read() as connection:
            client = connection.default_channel.client
            for name in queue_names:
                found.update(ticket for body in client.lrange(name, 0, -1) if (ticket := _ticket(body)))
        return found


def _ticket(message: bytes) -> tuple[str, int] | None:
    try:
        headers: dict[str, Any] = json.loads(message)["headers"]
        return str(headers["id"]), int(headers.get(TICKET_HEADER, 1))
    except (ValueError, KeyError, TypeError):
        return None
