"""How models leave a device's memory: their requests end first, then their runners, or these fall asleep."""

import time

import redis
import structlog

from shared.db.placement import Plan, occupants
from shared.db.tables import Residency
from shared.errors import Snooze, Unavailable
from shared.points import reached
from shared.progress import LEASE_RENEWAL_SECONDS
from shared.states import ResidencyState
from workers.devices import inventory
from workers.residency.pool import Pool
from workers.residency.sleepers import Sleepers

log = structlog.get_logger()

SETTLE_SECONDS = 5.0
"""Longest wait for memory that a runner had."""
SETTLE_LOOK_SECONDS = 0.1
LEASES_BACK_SECONDS = LEASE_RENEWAL_SECONDS + 5.0


class Leaving:
    """Drains the runners of a pool, and stops them or has them sleep."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.sleepers = Sleepers(pool)
        self._settings = pool.services.settings.runners
        self._leases = pool.services.leases

    def replaced(self, row: Residency) -> None:
        """Another model serves its type: as `retire`, and it sleeps where it can."""
        self._pool.mark(row.id, state=ResidencyState.DRAINING)
        self.drain(row.id)
        reached("residency.drained")
        self._put_out(row, ResidencyState.STOPPED)
        reached("residency.stopped")

    def retire(self, residency_id: str) -> None:
        """Let the requests end that hold it, then stop it. Not to be cancelled: its route has moved already."""
        self._pool.mark(residency_id, state=ResidencyState.DRAINING)
        self.drain(residency_id)
        reached("residency.drained")
        self._pool.end(residency_id, ResidencyState.STOPPED)
        reached("residency.stopped")

    def rest(self, row: Residency) -> bool:
        """Put out who is not needed now; its type stays with it. False: a request held it too long, so it stays."""
        self._pool.mark(row.id, state=ResidencyState.DRAINING)
        if not self.drain(row.id) and self._serves_on(row):
            return False
        self._put_out(row, ResidencyState.IDLE)
        return True

    def unused(self) -> list[Residency]:
        """What is ready here, not pinned, and was held by no request for the time that is set; none where none is."""
        seconds = self._settings.idle_seconds
        if seconds is None:
            return []
        found = occupants(self._pool.services.database, self._leases, self._pool.device.id)
        return [
            one.row for one in found
            if one.row.state == ResidencyState.READY and one.known and not one.pinned and one.unused >= seconds
        ]  # fmt: skip

    def evict(self, row: Residency, planned: Plan, into: ResidencyState) -> None:
        """It makes room: its requests end, and those that come for its type wait. One that is to be IDLE is not cut.

        Returns once its memory is back, or is not coming: some drivers take seconds.
        """
        self._pool.mark(row.id, state=ResidencyState.DRAINING)
        reached("evict.closed")
        if not self.drain(row.id) and into is ResidencyState.IDLE and self._serves_on(row):
            raise Snooze(
                max(1.0, self._settings.min_residence_seconds), f"{row.model_id} has requests that take long.",
                "memory_in_use", "It goes on by itself; a switch would cut them.",
            )  # fmt: skip
        reached("evict.drained")
        before = inventory.memory_free(self._pool.device.id) or 0
        slept = self._put_out(row, into, planned.need.total)
        reached("evict.stopped")
        if slept:  # its runner has given the memory back before it said so
            return
        until = time.monotonic() + SETTLE_SECONDS
        while (free := inventory.memory_free(self._pool.device.id)) is not None and time.monotonic() < until:
            back = free >= min(planned.need.total, before + (row.memory_bytes or 0))
            if back or self._pool.closing.wait(SETTLE_LOOK_SECONDS):
                return

    def _put_out(self, row: Residency, into: ResidencyState, need: int = 0) -> bool:
        """Have a drained one sleep, or end it; whether it sleeps.

        Args:
            need: bytes for which it goes. On a CPU a sleeper gives none back: it has to go where they are not free.
        """
        free = inventory.memory_free(self._pool.device.id)
        enough = self._pool.device.kind == "gpu" or free is None or free >= need
        slept = enough and self.sleepers.take_in(row, into)
        if not slept:
            self._pool.end(row.id, into)
        over = ResidencyState.ASLEEP if slept else ResidencyState.STOPPED
        self._pool.tell(row, into if row.active else over)
        return slept

    def _serves_on(self, row: Residency) -> bool:
        """Let one that a request holds for too long take new ones again. False: it has to go all the same, as nobody
        can be told that it stays; closed and draining it would be out of everybody's reach."""
        if self._pool.closing.is_set():
            return False
        try:
            self._leases.reopen(row.id)
            self._pool.mark(row.id, state=ResidencyState.READY)
        except (redis.RedisError, Unavailable) as error:
            log.warning("drain.not_undone", residency_id=row.id, error=type(error).__name__)
            return False
        return True

    def drain(self, residency_id: str) -> bool:
        """Wait for the last lease, at most the drain time; whether it came back.

        While Redis is away requests are served without a lease; they take one as soon as it is back, also where it
        came back empty. Until they had the time to, a count of none means nothing.
        """
        deadline, believed = time.monotonic() + self._settings.drain_seconds, 0.0
        closed = False
        while (moment := time.monotonic()) < deadline and not self._pool.closing.is_set():
            try:
                if self._leases.close(residency_id) and closed:
                    believed = moment + LEASES_BACK_SECONDS
                closed = True
                if self._leases.count(residency_id) == 0 and moment >= believed:
                    return True
            except redis.RedisError as error:
                if moment >= believed:
                    log.warning("drain.blind", residency_id=residency_id, error=type(error).__name__)
                believed = moment + LEASES_BACK_SECONDS
            self._pool.closing.wait(0.05)
        log.warning("drain.timeout", residency_id=residency_id)
        return False
