"""One runner of a device without a model, kept ready where people want that: the next load of a model of torch begins
where its libraries are read already."""

import time
import uuid
from collections.abc import Iterable
from contextlib import suppress

import structlog

from shared.db.placement import Plan
from shared.errors import Failed
from shared.keys import runner_key
from shared.queues import is_cpu
from workers.devices import cpu, inventory
from workers.devices.base import CPU_ID
from workers.residency.pool import Pool
from workers.runtimes.base import Runtime
from workers.runtimes.spare import Spare

log = structlog.get_logger()

AGAIN_SECONDS = 60.0
"""Between two starts: one that ends by itself would end again."""
ROOM = 4
"""None is started where less than so many times its memory is free."""
USUAL_BYTES = 400 * 1024**2


class Spares:
    """Those of a pool, one at a time. All but `memory_bytes` is for whoever holds `Pool.changing`."""

    def __init__(self, pool: Pool, secret: bytes) -> None:
        self._pool = pool
        self._secret = secret
        self._wanted = pool.services.settings.runners.spare
        self._spare: Spare | None = None
        self._taken: Spare | None = None
        self._next = 0.0

    def keep(self, runtimes: Iterable[Runtime]) -> None:
        """Have one, if there is none, and none was started just now that ended."""
        if self._taken is not None and not self._taken.told:  # whoever took it did not get so far
            self._taken.stop()
        self._taken = None
        if not self._wanted or (self._spare is not None and self._spare.alive()):
            return
        if time.monotonic() < self._next or (cpu.read().memory_free or 0) < ROOM * USUAL_BYTES:
            return
        mark = str(uuid.uuid4())
        key = runner_key(self._secret, mark)
        launch = next(filter(None, (runtime.spare(key) for runtime in runtimes)), None)
        if launch is None or self._pool.closing.is_set():
            return
        self._next = time.monotonic() + AGAIN_SECONDS
        with suppress(Failed):  # the machine gives no process: later, then
            self._spare = self._pool.start_spare(launch, mark, key)
            log.info("spare.started", pid=self._spare.child.pid)

    def take(self, runtime: Runtime) -> Spare | None:
        """It is the caller's from now on; None where there is none for this runtime."""
        spare = self._spare
        if spare is None or not self.fits(runtime) or not spare.alive():
            return None
        self._spare, self._taken, self._next = None, spare, 0.0
        return spare

    def fits(self, runtime: Runtime) -> bool:
        """Would a runner of this kind be made of it?"""
        return self._spare is not None and runtime.spare("") is not None

    @property
    def memory_bytes(self) -> int:
        """What it has of the machine's memory: free for any load, which it becomes or ends for."""
        spare = self._spare
        return 0 if spare is None else spare.child.rss_bytes()

    def give_way(self, planned: Plan, runtime: Runtime) -> None:
        """End it where a load of another kind needs its memory."""
        least = planned.host_bytes if not is_cpu(planned.device) else planned.need.total - planned.need.spread
        if not self.fits(runtime) and (inventory.memory_free(CPU_ID) or 0) < least:
            self.end()

    def end(self) -> None:
        """There is none any more."""
        for spare in (self._spare, self._taken):
            if spare is not None and not spare.told:
                spare.stop()
        self._spare = self._taken = None
