"""Finds what was lost and sends it on its way again. Safe to run anywhere, twice, at any time."""

from collections import defaultdict

import structlog
from kombu.exceptions import OperationalError

from shared.db import jobs
from shared.db.tables import Job
from shared.queues import queue_name
from shared.states import Priority
from workers.job import Services

log = structlog.get_logger()

LOST_TICKET_SECONDS = 20
"""A ticket that was sent so long ago and lies in no queue was lost on the way."""


def rescue(services: Services) -> None:
    """One round, by the first process that asks in this slot: lost workers, unsent tickets, lost tickets."""
    ledger = services.ledger
    if not ledger.first_in_slot("rescue", services.settings.jobs.rescue_seconds):
        return
    ledger.recover_lost()
    _find_lost_tickets(services)
    with services.database.reading() as session:
        unsent = jobs.unsent(session)
    sent = 0
    for job in unsent:
        if not ledger.ring(job):
            break  # Redis is away; the next round finds them again
        sent += 1
    if sent:
        log.info("rescue.sent", tickets=sent)


def _find_lost_tickets(services: Services) -> None:
    with services.database.reading() as session:
        overdue = jobs.sent_before(session, LOST_TICKET_SECONDS)
    by_queue: dict[str, list[Job]] = defaultdict(list)
    for job in overdue:
        by_queue[queue_name(Priority(job.priority), job.lane)].append(job)
    try:
        waiting = services.broker.waiting(by_queue)
    except OperationalError:
        return
    for jobs_of_queue in by_queue.values():
        for job in jobs_of_queue:
            if (job.id, job.ticket) not in waiting:
                log.warning("rescue.lost_ticket", job_id=job.id)
                services.ledger.resend(job)
