"""Chores that keep the store in health: each looks at an interval what is due, and asks for it as a job."""

from collections.abc import Callable

from shared.contracts import Scrub, UpdateCheck
from shared.db import upkeep
from shared.errors import Snooze
from workers.job import Services
from workers.stock import take_stock, tidy

DAY = 86_400.0
LOOK_SECONDS = 60.0
STOCK_SECONDS = 60.0
TIDY_SECONDS = 3600.0
FRESH_SHARE = 0.5
"""Of the period, how old a proof must be before a scrub comes for it: with few models each would come too often."""


def scrub_chore(services: Services) -> Callable[[], None]:
    """Has one model at a time proven again, so that each comes up once in the period."""

    def ask() -> None:
        period = services.settings.store.scrub_days * DAY
        if not period or not services.ledger.first_in_slot(f"scrub {services.layout.check_marker()}", LOOK_SECONDS):
            return
        with services.database.reading() as session:
            models = len(upkeep.kept(session))
            due = upkeep.next_to_scrub(session, period * FRESH_SHARE)
        if due is not None and services.ledger.first_in_slot("scrub", max(period / max(models, 1), LOOK_SECONDS)):
            services.ledger.submit(Scrub(model_id=due.model_id), origin="schedule")

    return ask


def update_chore(services: Services) -> Callable[[], None]:
    """Has sources asked for newer revisions, one model at a look."""

    def ask() -> None:
        period = services.settings.store.update_check_days * DAY
        if not period or not services.ledger.first_in_slot("update check", LOOK_SECONDS):
            return
        with services.database.reading() as session:
            due = upkeep.next_to_ask(session, period)
        if due is not None:
            services.ledger.submit(UpdateCheck(model_id=due.model_id), origin="schedule")

    return ask


def stock_chore(services: Services) -> Callable[[], None]:
    """Writes down what the store holds; and once an hour puts aside revisions that nobody wants any more."""

    def look() -> None:
        if services.ledger.first_in_slot(f"stock {services.settings.node}", STOCK_SECONDS):
            take_stock(services)
        if services.ledger.first_in_slot(f"tidy {services.layout.check_marker()}", TIDY_SECONDS):
            with services.database.reading() as session:
                models = upkeep.kept(session)
            for model_id in models:
                try:
                    with services.layout.lock(model_id):
                        tidy(services, model_id)
                except Snooze:  # a job is at it, and tidies up itself
                    continue

    return look
