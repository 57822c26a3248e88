"""Makes deliveries of what happened, and asks for a job for each receiver that has some waiting."""

from collections.abc import Callable

from shared.contracts import Deliver
from shared.db import jobs, webhooks
from workers.job import Services

LOOK_SECONDS = 1.0
ORIGIN = "events"


def courier_chore(services: Services) -> Callable[[], None]:
    """Safe to run anywhere, twice, at any time; looks every second, and writes where there is something to write."""
    return lambda: carry(services)


def carry(services: Services) -> None:
    with services.database.reading() as session:
        happened = webhooks.happened(session)
    while happened:
        with services.database.session() as session:
            happened = webhooks.fan_out(session) == webhooks.AT_ONCE
    with services.database.reading() as session:
        contracts = [Deliver(webhook_id=each) for each in webhooks.waiting(session)]
        idle = [each for each in contracts if jobs.live_with_key(session, each.unique_key()) is None]
    for contract in idle:
        services.ledger.submit(contract, origin=ORIGIN)
