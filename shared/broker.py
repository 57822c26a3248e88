"""Celery on Redis, every setting with its reason. The ledger is the truth; a message is a doorbell."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis
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

AWAY_SECONDS = 1.0
"""After a failure Redis is left alone for so long."""
PAGE = 1000
STRAYS_AT_ONCE = 1000
TICKET_HEADER = "modelyard_ticket"
"""Says which ticket of the job a message is; messages of other services do not carry it."""


def named_queue(name: str) -> Any:
    """Celery's object for a queue of that name; what publishers and consumers must agree on is the name alone."""
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def make_app(settings: Settings, *, publisher: bool = False) -> Celery:
    """The Celery app of every process.

    Args:
        publisher: it only sends, and gives up sooner.
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
        # Once is enough: the outbox keeps what could not be sent.
        task_publish_retry=False,
        broker_transport_options={
            # By name: right in every kombu; 'priority' was random before 5.7.
            "queue_order_strategy": "sorted",
            # A backstop only: with early acknowledgement nothing of ours stays unacknowledged.
            "visibility_timeout": 21_600,
            # A link that is half open is noticed within two of these intervals, and a consumer is deaf no longer.
            "socket_keepalive": True,
            "health_check_interval": 5,
            "socket_connect_timeout": 1 if publisher else 2,
            # A consumer waits for BRPOP in its event loop; what it does outside must not hang on a dead link either.
            "socket_timeout": 1 if publisher else 5,
            # A publisher connects once; without this kombu tries for six seconds.
            **({"max_retries": 0} if publisher else {}),
        },
        # Wait for Redis as long as it takes; the supervisor handles the rest.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Also for one that refuses: full, read-only. Without this a worker exits, and its jobs with it.
        broker_channel_error_retry=True,
        # 6.0 turns this on; a blip of Redis must not kill a download.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # For Flower, which learns of a task when a worker receives it.
        worker_send_task_events=True,
        # Our JSON logs stay ours.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class Broker:
    """Sends tickets, looks which are still waiting, and brings back messages that went astray."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._away_until = 0.0

    def send(self, job: "Job") -> bool:
        """Ring for a job, by name, the way any other service can. False: Redis is away, the outbox tries later.

        While Redis is away that costs nothing: it is tried once a second.
        """
        if time.monotonic() < self._away_until:
            return False
        queue = queues.queue_name(Priority(job.urgency), job.lane)
        try:
            self.app.send_task(
                job.kind,
                kwargs=job.args,
                task_id=job.id,
                queue=named_queue(queue),
                headers={TICKET_HEADER: job.ticket},
                ignore_result=True,
            )
        except OperationalError as error:
            self._away_until = time.monotonic() + AWAY_SECONDS
            log.warning("ticket.unsent", job_id=job.id, queue=queue, reason=str(error)[:200])
            return False
        return True

    def put_back(self, kind: str, id_: str, kwargs: dict[str, Any], queue: str, not_before: float) -> None:
        """Return a message of another service that could not be adopted: it was taken, and exists nowhere else."""
        place = queue if queues.parse_queue(queue) else queues.INTAKE
        eta = datetime.fromtimestamp(not_before, UTC) if not_before else None
        try:
            self.app.send_task(kind, kwargs=kwargs, task_id=id_, queue=named_queue(place), eta=eta, ignore_result=True)
        except OperationalError as error:
            log.error("message.lost", job_id=id_, kind=kind, reason=str(error)[:200])

    def waiting(self, queue_names: Iterable[str]) -> set[tuple[str, int]]:
        """(job id, ticket) of every message that lies in these queues.

        Raises:
            OperationalError: Redis does not answer.
        """
        found: set[tuple[str, int]] = set()
        with self._client() as client:
            for name in queue_names:
                # Messages are put in on the left, so that nothing is missed between two pages.
                for start in range(0, client.llen(name), PAGE):
                    page = client.lrange(name, start, start + PAGE - 1)
                    found.update(ticket for body in page if (ticket := _ticket(body)))
        return found

    def bring_back(self, lanes: Iterable[str]) -> int:
        """Move messages from lists that no worker reads to the intake, where they are adopted or rejected.

        Args:
            lanes: every lane that has a worker, or may have one again.

        Returns:
            How many were moved; at most STRAYS_AT_ONCE.

        Raises:
            OperationalError: Redis does not answer.
        """
        moved: Counter[str] = Counter()
        read = queues.read_lists(lanes)
        with self._client() as client:
            for pattern in queues.OURS:
                for raw in client.scan_iter(pattern, count=1000, _type="LIST"):
                    name = raw.decode(errors="replace")
                    if queues.is_ours(name) and name not in read:
                        moved[name] += _empty(client, raw, STRAYS_AT_ONCE - moved.total())
        for name, count in moved.items():
            log.warning("messages.astray", queue=name, moved_to=queues.INTAKE, messages=count)
        return moved.total()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with self.app.connection_for_read() as connection:
            try:
                yield connection.default_channel.client
            except redis.RedisError as error:
                raise OperationalError(str(error)) from error


def _empty(client: Any, source: bytes, most: int) -> int:
    """One message at a time, each in one step: it is in one list or in the other, whatever dies."""
    return next((count for count in range(most) if client.lmove(source, queues.INTAKE, "RIGHT", "LEFT") is None), most)


def _ticket(message: bytes) -> tuple[str, int] | None:
    try:
        headers: dict[str, Any] = json.loads(message)["headers"]
        return str(headers["id"]), int(headers.get(TICKET_HEADER, 1))
    except (ValueError, KeyError, TypeError):
        return None
