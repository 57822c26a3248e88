"""Finds what was lost and sends it on its way again. Safe to run anywhere, twice, at any time."""

import time

import structlog
from kombu.exceptions import OperationalError

from shared.db import devices, jobs
from shared.queues import queue_name
from shared.states import Priority
from workers.job import Services

log = structlog.get_logger()

LOST_TICKET_SECONDS = 10
"""A ticket that was sent so long ago and lies in no queue was lost on the way."""
AT_ONCE = 200
SHARE_OF_ROUND = 0.8


def rescue(services: Services) -> None:
    """One round, by the first process that asks in this slot: lost workers, lost and unsent tickets, strays."""
    ledger = services.ledger
    if not ledger.first_in_slot("rescue", services.settings.jobs.rescue_seconds):
        return
    ledger.recover_lost()
    ledger.let_in()  # a window may have closed, or a worker died
    for job in ledger.lift_overdue():
        log.info("rescue.lifted", job_id=job.id, lane=job.lane)
    try:
        _find_lost_tickets(services)
        _bring_back_strays(services)
    except OperationalError:
        return  # Redis is away; the next round finds them again
    _send_waiting(services)


def _find_lost_tickets(services: Services) -> None:
    with services.database.reading() as session:
        overdue = jobs.sent_before(session, LOST_TICKET_SECONDS)
    names = {queue_name(Priority(job.urgency), job.lane) for job in overdue}
    waiting = services.broker.waiting(names)
    lost = [job for job in overdue if (job.id, job.ticket) not in waiting]
    for start in range(0, len(lost), AT_ONCE):
        services.ledger.resend(lost[start : start + AT_ONCE])
    if lost:
        log.warning("rescue.lost_tickets", tickets=len(lost))


def _bring_back_strays(services: Services) -> None:
    """A message in a misspelt queue is adopted or rejected like any other. A device that is down keeps its queues."""
    with services.database.reading() as session:
        read = devices.lanes(session)
    services.broker.bring_back(read)


def _send_waiting(services: Services) -> None:
    """Empty the outbox, for most of the time that is left until the next round."""
    until = time.monotonic() + services.settings.jobs.rescue_seconds * SHARE_OF_ROUND
    sent = 0
    while True:
        with services.database.reading() as session:
            unsent = jobs.unsent(session, AT_ONCE)
        rung = services.ledger.ring_all(unsent)
        sent += rung
        if rung < AT_ONCE or time.monotonic() > until:
            break
    if sent:
        log.info("rescue.sent", tickets=sent)
