"""Celery's rim of the workers: one thin task per kind, each handing its message to `job.receive`."""

from typing import Any

import structlog
from celery import Celery, signals
from celery.bootsteps import StartStopStep

from shared.broker import TICKET_HEADER, make_app, named_queue
from shared.contracts import KINDS, RESCUE
from shared.errors import Invalid
from shared.queues import queue_name, worker_queues
from shared.states import Priority
from workers import guard
from workers.job import BODIES, Heart, Message, Services, receive
from workers.jobs import (
    apply,
    bundle,
    cleanup,
    deliver,
    download,
    ensure,
    health_check,
    load,
    remove,
    repair,
    restore,
    rollback,
    run,
    scan,
    scrub,
    source_check,
    switch,
    unbundle,
    unload,
    update,
    update_check,
    verify,
)
from workers.lifecycle import Keeper
from workers.rescue import rescue
from workers.upkeep import keep_schedules

log = structlog.get_logger()

ALL_BODIES = (
    *(download, remove, repair, restore, rollback, scan, scrub, switch, unload, update, update_check, verify),
    *(apply, bundle, cleanup, deliver, ensure, health_check, load, run, source_check, unbundle),
)
"""Imported for their registration, named here so that nothing registers behind anybody's back."""


def make_worker_app(
    services: Services, lanes: tuple[str, ...], keeper: Keeper, *, slots: int, urgent: bool = False
) -> Celery:
    """The Celery app of a worker that consumes these lanes, at most two; `urgent` takes CRITICAL and HIGH only.

    Args:
        keeper: started once the worker consumes, so that its sign of life is true.
        slots: jobs that it runs at a time.
    """
    guard.install()
    app = make_app(services.settings)
    pressing = (Priority.CRITICAL, Priority.HIGH)
    names = [queue_name(priority, lane) for priority in pressing for lane in lanes] if urgent else []
    app.conf.worker_pool = f"{guard.__name__}:WakingPool"
    app.conf.worker_consumer = f"{guard.__name__}:GuardedConsumer"
    app.conf.task_queues = [named_queue(name) for name in names or worker_queues(*lanes)]
    heart = Heart(services, lanes, slots)
    heart.start()
    for kind in KINDS:
        _register(app, services, heart, kind)

    def ring_rescue() -> None:
        services.workers.note_beat()
        rescue(services)
        keep_schedules(services)

    app.task(name=RESCUE)(ring_rescue)
    signals.task_unknown.connect(lambda **facts: _unknown(services, **facts), weak=False)
    signals.worker_ready.connect(lambda **_: keeper.start(), weak=False)
    _let_go_at_the_end(app, services, heart)
    return app


def _let_go_at_the_end(app: Celery, services: Services, heart: Heart) -> None:
    """Give running jobs back when the worker ends, by a signal or because its main loop died.

    Without this a worker whose loop is gone would wait, deaf, for a three-hour download in its pool.
    """

    def let_go() -> None:
        heart.close()
        if services.manager is not None:
            services.manager.stop_waiting()

    class LetGo(StartStopStep):  # type: ignore[misc] # celery ships no types
        """Stopped before the pool is, because it needs the pool to start."""

        requires = ("celery.worker.components:Pool",)

        def stop(self, _: Any) -> None:
            let_go()

    app.steps["worker"].add(LetGo)
    signals.worker_shutting_down.connect(lambda **_: let_go(), weak=False)


def _register(app: Celery, services: Services, heart: Heart, kind: str) -> None:
    if kind not in BODIES:
        message = f"no body for {kind}"
        raise RuntimeError(message)

    def task(self: Any, *args: Any, **kwargs: Any) -> None:
        request = self.request
        ticket, not_before = request.get(TICKET_HEADER), request.get(guard.NOT_BEFORE_HEADER) or 0.0
        queue = (request.delivery_info or {}).get("routing_key") or ""
        ours = ticket if isinstance(ticket, int) else None
        receive(services, heart, Message(request.id, kind, args, kwargs, queue, ours, not_before))

    app.task(name=kind, bind=True, typing=False)(task)


def _unknown(services: Services, *, name: str, id: str, message: Any, **_: Any) -> None:  # noqa: A002 - Celery's name
    error = Invalid("unknown_kind", f"There is no kind of job {name!r}.", f"Known kinds: {', '.join(sorted(KINDS))}.")
    log.warning("message.rejected", job_id=id, kind=name, code=error.code)
    services.ledger.reject(id, name, {}, error)
