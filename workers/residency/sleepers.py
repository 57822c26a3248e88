"""Models that were put out of a device and sleep: their weights stay in the machine's memory, within a budget, so that
they come back by a copy and no byte is read from the disk."""

from contextlib import suppress

import structlog

from shared.db import sleep
from shared.db.placement import Plan, held_asleep
from shared.db.tables import Residency
from shared.errors import Unavailable
from shared.fallback import Rung
from shared.points import reached
from shared.settings import RunnerSettings
from shared.states import ResidencyState
from workers.devices import cpu, inventory
from workers.devices.base import Device
from workers.residency.pool import Pool

log = structlog.get_logger()

SHARE = 4
"""A GPU's models may sleep in one part in so many of the machine's memory where nothing is set."""


def budget(settings: RunnerSettings, device: Device) -> int:
    """Bytes in which all sleepers of the machine have to find room."""
    if settings.sleep_bytes is not None:
        return settings.sleep_bytes
    return 0 if device.kind == "cpu" else (cpu.read().memory_total or 0) // SHARE


def _host_free() -> int:
    return cpu.read().memory_free or 0


class Sleepers:
    """Those of a pool; what they are is in their rows."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.budget = budget(pool.services.settings.runners, pool.device)

    def take_in(self, row: Residency, into: ResidencyState) -> bool:
        """Have the runner of a drained residency sleep instead of ending it. False: it cannot, or has no room.

        Args:
            into: what its type is to wait in if it serves one, LOST or IDLE.

        Raises:
            Unavailable: the database is away; nothing of the sleep is known then, and the runner is to be ended.
        """
        server = self._pool.server(row.id)
        if self.budget == 0 or server is None or self._pool.closing.is_set() or not server.sleep():
            return False
        reached("sleep.dropped")
        size = server.memory().host
        node, device = self._pool.services.settings.node, self._pool.device.id
        with self._pool.services.database.session() as session:
            going = sleep.make_room(session, node, device, size, self.budget)
            asleep, in_its_place = (False, None) if going is None else sleep.fall_asleep(session, row, into, size)
        for each in going or []:
            self._stop(each)
        if not asleep:
            return False
        if in_its_place is not None and into is ResidencyState.LOST:
            self._pool.set_aside.add(in_its_place)
        reached("sleep.recorded")
        log.info("residency.asleep", residency_id=row.id, memory_bytes=size)
        return True

    def find(self, revision: str, way: Rung) -> Residency | None:
        """The sleeper that is what a load of this would be."""
        wanted = (way.model_id, revision, way.context_length, way.lowered.told())
        found = [
            row for row in self._all() if (row.model_id, row.revision, row.context_length, row.lowered) == wanted
        ]  # fmt: skip
        return next((row for row in found if self._pool.lives(row.id)), None)

    def give_way(self, planned: Plan, but: Residency | None, had: int = 0) -> None:
        """End those who slept longest, until as much of the device is free as a plan asks for, and of the machine
        beside it, or only `but` is left.

        On a CPU they have the memory itself, on a GPU a little of it for their process.

        Args:
            had: bytes of the machine's memory that it has already, as a runner without a model.
            but: the one that is to be woken; what it has of the device is a part of what it needs.
        """
        need, host = planned.need, planned.host_bytes - had
        least = (
            need.total
            - need.spread
            - (had if self._pool.device.kind == "cpu" else 0)
            - (0 if but is None else held_asleep(but))
        )
        for row in self._all():
            free = inventory.memory_free(self._pool.device.id)
            if (free is None or free >= least) and (host <= 0 or but is not None or _host_free() >= host):
                return
            if but is None or row.id != but.id:
                self._end(row)

    def end_of(self, model_id: str) -> None:
        """A model has another runner now."""
        for row in self._all():
            if row.model_id == model_id:
                self._end(row)

    def end_outdated(self) -> None:
        """Those of a removed model, or of a revision that is not installed any more; while a job is at work, later."""
        with self._pool.services.database.reading() as session:
            rows = sleep.outdated(session, self._pool.device.id)
        if not rows or not self._pool.changing.acquire(blocking=False):
            return
        try:
            for row in rows:
                self._end(row)
        finally:
            self._pool.changing.release()

    def _all(self) -> list[Residency]:
        with self._pool.services.database.reading() as session:
            return sleep.asleep(session, self._pool.device.id)

    def _end(self, row: Residency) -> None:
        """A load may have woken it since its row was read: then it is left alone."""
        with self._pool.services.database.session() as session:
            ends = sleep.put_out(session, row)
        if ends:
            self._stop(row)

    def _stop(self, row: Residency) -> None:
        with suppress(Unavailable):  # the watch records it once the database is back
            self._pool.end(row.id, ResidencyState.STOPPED)
        self._pool.tell(row, ResidencyState.STOPPED)
