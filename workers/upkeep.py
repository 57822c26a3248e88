"""What is done by the clock, and keeps the service in health: whoever comes first in a slot does it."""

import time
from collections.abc import Callable

import structlog

from shared import schedules
from shared.contracts import Ensure
from shared.db import deliveries, health, nodes, retention, upkeep, usage
from shared.errors import Failed, ModelyardError, Snooze, Unavailable
from shared.jobs import error_body
from shared.order import Policy
from shared.schedules import SCHEDULES, Place, Schedule, Turn
from workers.job import Services
from workers.stock import finish_abandoned, take_stock, tidy
from workers.store.trash import empty_trash

log = structlog.get_logger()
Found = dict[str, int]
START_SECONDS = 60.0
"""Workers that start within so long belong to one start."""
DEFECT = Failed("internal_error", "It met a defect of Modelyard.", "The worker's log has the details.")


def schedule_chore(services: Services) -> Callable[[], None]:
    """Takes every turn that is due; when it begins, all models are to be looked at."""
    began = False

    def keep() -> None:
        nonlocal began
        if not began:
            with services.database.session() as session:
                health.look_again(session)
            began = True
        keep_schedules(services)

    return keep


def start_chore(services: Services) -> Callable[[], None]:
    """At each start, asks once for what is damaged or missing, as MODELYARD_STORE__ENSURE_AT_START says."""
    policy, asked = Policy(services.settings.store.ensure_at_start), False

    def ask() -> None:
        nonlocal asked
        if policy is not Policy.OFF and not asked and services.ledger.first_in_slot("start", START_SECONDS):
            services.ledger.submit(Ensure(policy=policy), origin="start")
        asked = True

    return ask


def keep_schedules(services: Services) -> None:
    """Take every turn that is due; safe to run anywhere, twice, at any time. The rescue has a ring of its own."""
    for one in SCHEDULES.values():
        if one.fixed:
            continue
        try:
            turn = schedules.due(services.database, services.settings, one, _place(services, one))
            if turn is not None:
                _take(services, turn)
        except Unavailable as error:  # a disk or the database is away; the next look is soon
            log.warning("schedule.waits", schedule=one.name, code=error.code, reason=error.message)


def _place(services: Services, one: Schedule) -> str:
    """Raises: Unavailable, where it needs the store's disk and that is away."""
    marker = services.layout.check_marker() if one.wants_disk or one.place is Place.STORE else ""
    return {Place.STORE: marker, Place.NODE: services.settings.node, Place.ANYWHERE: ""}[one.place]


def _take(services: Services, turn: Turn) -> None:
    name = turn.schedule.name
    try:
        if turn.schedule.asks is not None:
            turn.ask(services.ledger, services.settings)
        else:
            turn.note(services.database, {"result": CHORES[name](services)})
    except ModelyardError as error:
        turn.note(services.database, {"error": error_body(error)})
        log.warning("schedule.failed", schedule=name, code=error.code, reason=error.message)
    except Exception:
        turn.note(services.database, {"error": error_body(DEFECT)})
        raise


def _stock(services: Services) -> Found:
    take_stock(services)
    return {}


def _tidy(services: Services) -> Found:
    with services.database.reading() as session:
        models = upkeep.kept(session, services.store)
    freed = 0
    for model_id in models:
        try:
            with services.layout.lock(model_id):
                freed += tidy(services, model_id)
        except Snooze:  # a job is at it, and tidies up itself
            continue
    return {"trashedBytes": freed, "finished": finish_abandoned(services)}


def _trash(services: Services) -> Found:
    return {"freedBytes": empty_trash(services.layout, services.settings.store.trash_days * schedules.DAY, time.time())}


def _prune(services: Services) -> Found:
    forgotten = services.ledger.prune()
    with services.database.session() as session:
        days = usage.prune(session)
        retention.prune(session)
        nodes.forget(session)
    settings = services.settings.webhooks
    with services.database.session() as session:
        given_up = deliveries.give_up(session, settings.give_up_days * schedules.DAY)
        told = deliveries.prune(session, settings.keep_days * schedules.DAY)
    return {"jobs": forgotten, "usageCounts": days, "deliveries": told, "deliveriesGivenUp": given_up}


CHORES: dict[str, Callable[[Services], Found]] = {
    "stock": _stock,
    "tidy": _tidy,
    "empty-trash": _trash,
    "prune": _prune,
}
"""Schedules that are no jobs, by name: what a turn does, and what it tells."""
