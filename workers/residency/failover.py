"""A machine that is away does nothing and serves nobody: what waits for it, and what it had in memory, goes to another
one that can have it, or says what it waits for."""

import time

import structlog

from shared.contracts import parse
from shared.db import devices, lanes, residency
from shared.db.devices import AWAY_SECONDS
from shared.db.reports import Device
from shared.errors import ModelyardError
from shared.jobs import error_body
from shared.queues import device_lane
from shared.states import Priority
from workers.job import Services
from workers.residency.recovery import RECOVERY, Recovery, Return

log = structlog.get_logger()


class Failover:
    """A chore: looks for silent workers, by whoever comes first in a slot.

    Until it has run for as long as a worker may be silent, it believes that only of those that it has heard before:
    after a start of everything, whoever comes first would else take all from the others.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._heard: set[str] = set()
        self._began = time.monotonic()

    def __call__(self) -> None:
        services = self._services
        with services.database.reading() as session:
            silent, gone = lanes.silent_lanes(session), devices.away(session)
            self._heard |= {*devices.lanes(session)} - silent.keys()
        if not services.ledger.first_in_slot("failover", services.settings.jobs.rescue_seconds):
            return
        believed = {lane: node for lane, node in silent.items() if lane in self._heard or self._is_old()}
        _lead_on(services, believed)
        for device in gone:
            if device_lane(device.id) in believed:
                _bring_back(services, device)

    def _is_old(self) -> bool:
        return time.monotonic() - self._began > AWAY_SECONDS


def _lead_on(services: Services, silent: dict[str, str]) -> None:
    """What waits for a machine that is away goes to another one that can do it, or says what it waits for."""
    ledger = services.ledger
    with services.database.reading() as session:
        waiting = lanes.waiting_in(session, list(silent)) if silent else []
    for job in waiting:
        try:
            lane = ledger.lane_of(parse(job.kind, job.args))
        except ModelyardError:  # whoever takes it says what is wrong
            lane = job.lane
        if lane not in silent:
            ledger.lead_on(job, lane, None)
            log.warning("failover.led_on", job_id=job.id, lane=lane, away=silent[job.lane])
        elif (job.error or {}).get("code") != lanes.NODE_AWAY:
            ledger.lead_on(job, job.lane, error_body(lanes.node_away(silent[job.lane], job.lane)))


def _bring_back(services: Services, device: Device) -> None:
    """What it had in memory is lost; what is to be there comes back on a device that reaches its files."""
    with services.database.session() as session:
        residency.give_up(session, device.id)
    with services.database.reading() as session:
        lost = [
            row for row in residency.lost(session, device.id)
            if not devices.is_away(session, devices.placed(session, row.model_id).id)
        ]  # fmt: skip
    for row in lost:
        again = Recovery(model_id=row.model_id) if row.active else Return(model_id=row.model_id)
        try:
            created = services.ledger.submit(again, origin=RECOVERY, priority=Priority.CRITICAL).created
        except ModelyardError as error:
            log.warning("failover.failed", model_id=row.model_id, code=error.code)
            continue
        if created:
            log.warning("failover.brings", model_id=row.model_id, away=device.node)
