"""Bare Celery on the same Redis, as a person would set it up who wants speed: no results, no events, early ack."""

import os
from typing import Any

from celery import Celery

from tests.benchmarks.starts import note

BROKER = "BENCH_PEER_BROKER"
PRIORITIES = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
CRITICAL, LOW = 0, 9


def make_peer(broker: str) -> Celery:
    app = Celery("peer", broker=broker, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        broker_transport_options=PRIORITIES,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )

    def nothing(self: Any, **_: Any) -> None:
        note(self.request.id)

    app.task(name="peer.nothing", bind=True, shared=False)(nothing)
    return app


def send(app: Celery, number: int, **options: Any) -> str:
    """One task, with arguments of the same size as a job's. Answers its id."""
    sent = app.tasks["peer.nothing"].apply_async(kwargs={"model_id": f"bench-{number}"}, **options)
    return str(sent.id)


if broker := os.environ.get(BROKER):
    app = make_peer(broker)  # what `celery -A tests.benchmarks.peer` finds
