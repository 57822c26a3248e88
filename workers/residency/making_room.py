"""Whoever has to leave for a model does, and what is next is read meanwhile."""

from pathlib import Path

from shared.db.placement import Plan
from shared.db.tables import Installation, Residency
from shared.errors import Snooze
from shared.fallback import Rung
from shared.states import ResidencyState
from workers.job import Work
from workers.residency.ahead import Ahead
from workers.residency.leaving import Leaving
from workers.residency.planning import plan_for
from workers.residency.pool import Pool
from workers.residency.spares import Spares
from workers.runtimes.base import Runtime


class MakingRoom:
    """For the one job that changes what is in a device's memory."""

    def __init__(self, pool: Pool, leaving: Leaving, spares: Spares) -> None:
        self._pool = pool
        self._leaving = leaving
        self._spares = spares
        self.ahead = Ahead()

    def make(
        self, installation: Installation, runtime: Runtime, way: Rung, plan_id: str | None, set_aside: ResidencyState,
        work: Work, *, folder: Path | None = None, woken: Residency | None = None,
    ) -> Plan:  # fmt: skip
        """See `Manager.ensure_ready`. Sleepers leave too, but the one that is to be woken.

        Args:
            folder: of a model that is to be started; what its server maps of it is read ahead.
        """
        services, device = self._pool.services, self._pool.device
        stay = services.settings.runners.min_residence_seconds if set_aside is ResidencyState.IDLE else 0.0
        mapped = runtime.mapped(folder) if folder is not None else ()
        try:
            planned = plan_for(services, device, installation, runtime.name, way, self._spares.memory_bytes, stay)
        except Snooze:
            self.ahead.begin(mapped)
            raise
        planned.check(plan_id)
        if planned.evictions:
            work.report("making room")
            work.confirm()
            self.ahead.begin(mapped)
        try:
            for old in planned.evictions:
                self._leaving.evict(old, planned, set_aside)
        finally:
            self.ahead.end()
        had = self._spares.memory_bytes if woken is None and self._spares.fits(runtime) else 0
        self._leaving.sleepers.give_way(planned, woken, had)
        self._spares.give_way(planned, runtime)
        return planned
