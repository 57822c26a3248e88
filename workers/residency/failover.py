"""A machine that is away serves nobody: what it had in memory is loaded elsewhere, where another one can."""

from collections.abc import Callable
from typing import Any

import structlog

from shared.db import devices, residency
from shared.errors import ModelyardError
from shared.states import Priority
from workers.job import Services
from workers.residency.recovery import RECOVERY, Recovery, Return

log = structlog.get_logger()


def failover_chore(services: Services) -> Callable[[], None]:
    """Looks for devices whose workers are silent, by whoever comes first in a slot; a worker that is back sees to its
    own."""

    def look() -> None:
        if services.ledger.first_in_slot("failover", services.settings.jobs.rescue_seconds):
            _look(services)

    return look


def _look(services: Services) -> None:
    with services.database.reading() as session:
        away = devices.away(session)
    for device in away:
        with services.database.session() as session:
            residency.lose(session, residency.of_device(device.id))
        with services.database.reading() as session:
            lost = [row for row in residency.lost(session, device.id) if _comes_back_elsewhere(session, row.model_id)]
        for row in lost:
            again = Recovery(model_id=row.model_id) if row.active else Return(model_id=row.model_id)
            try:
                created = services.ledger.submit(again, origin=RECOVERY, priority=Priority.CRITICAL).created
            except ModelyardError as error:
                log.warning("failover.failed", model_id=row.model_id, code=error.code)
                continue
            if created:
                log.warning("failover", model_id=row.model_id, away=device.node)


def _comes_back_elsewhere(session: Any, model_id: str) -> bool:
    return not devices.is_away(session, devices.placed(session, model_id).id)
