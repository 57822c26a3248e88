"""Owns the runners of one device, and is the only place that changes them."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import redis
import structlog

from shared import fit
from shared.db import footprints, residency, sleep
from shared.db.placement import Plan, outdated, taken
from shared.db.tables import Installation, Model, Residency
from shared.errors import Failed, Unavailable
from shared.fallback import Rung
from shared.keys import installation_secret, runner_key
from shared.points import reached
from shared.states import ResidencyState
from shared.trust import Trust
from workers.devices import inventory
from workers.devices.base import CPU_ID, Device
from workers.job import Services, Work
from workers.residency.leaving import Leaving
from workers.residency.loadable import to_load
from workers.residency.making_room import MakingRoom
from workers.residency.planning import runtime_for
from workers.residency.pool import Pool
from workers.residency.setbacks import Setbacks
from workers.residency.spares import Spares
from workers.residency.watch import Watch
from workers.runtimes.base import Request, Runtime, Server
from workers.runtimes.known import all_runtimes
from workers.runtimes.spare import Spare

log = structlog.get_logger()


class Ready(NamedTuple):
    """A model in memory."""

    row: Residency
    started: bool
    """It was not in memory before."""
    woken: bool
    """It was asleep: no byte of it was read."""


class Manager:
    """Starts and proves runners, for jobs; `leaving` drains and stops them."""

    def __init__(self, services: Services, device: Device) -> None:
        self.device = device
        self._services = services
        self._settings = services.settings.runners
        self._secret = installation_secret(services.settings)
        self.runtimes = all_runtimes(services.settings)
        self._pool = Pool(services, device)
        self.setbacks = Setbacks()
        self.leaving = Leaving(self._pool)
        self._sleepers = self.leaving.sleepers
        self.spares = Spares(self._pool, self._secret)
        self._room = MakingRoom(self._pool, self.leaving, self.spares)

    # -- jobs ----------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, work: Work) -> Iterator[None]:
        """One change of this device at a time; the wait can be cancelled."""
        work.report("waiting for the device")
        while not self._pool.changing.acquire(timeout=0.2):
            work.checkpoint()
        try:
            yield
        finally:
            self._pool.changing.release()

    def ensure_ready(
        self,
        model: Model,
        installation: Installation,
        work: Work,
        plan_id: str | None = None,
        *,
        way: Rung,
        fresh: bool = False,
        set_aside: ResidencyState = ResidencyState.LOST,
    ) -> Ready:
        """The model's residency here; if there is none, one that sleeps is woken, or one is started, and is proved by a
        real inference.

        Args:
            plan_id: the plan that people have seen; another one is not carried out.
            way: how it is to run; of one that is in memory already it does not matter.
            fresh: start another one even where there is one.
            set_aside: what becomes of who serves the type and has to leave for it. LOST comes back by itself where
                nobody takes its place; IDLE waits for a request, and nobody is made to leave who has just come.

        Raises:
            Conflict: code `plan_outdated`, `will_not_fit` or `nothing_lower`; nothing was touched.
            Failed: no runtime for its files, or its runner did not become ready; nothing of it is left running.
            Snooze: who would have to leave has just come.
        """
        with self._services.database.reading() as session:
            row = residency.resident(session, model.id, self.device.id)
        there = row is not None and row.revision == installation.revision and self._pool.lives(row.id)
        if row is not None and there and not fresh:
            if plan_id is not None and work.attempt == 1:  # plans are of loads: somebody else was quicker
                raise outdated()
            return Ready(row, started=False, woken=False)
        asleep = None if fresh else self._sleepers.find(installation.revision, way)
        if asleep is not None:
            kind = next(runtime for runtime in self.runtimes if runtime.name == asleep.runtime)
            self._room.make(installation, kind, way, plan_id, set_aside, work, woken=asleep)
            plan_id = None  # it was carried out this far
            if self._wake(asleep, work):
                return Ready(asleep, started=True, woken=True)
        folder, trusted = to_load(self._services, installation)
        runtime = runtime_for(self.runtimes, folder, model, installation.facts)
        planned = self._room.make(installation, runtime, way, plan_id, set_aside, work, folder=folder)
        spare = None if way.lowered.on_cpu else self.spares.take(runtime)
        row = self._new_row(
            model, installation, runtime, planned, way, str(uuid.uuid4()) if spare is None else spare.mark
        )
        try:
            pooling = str(installation.facts.get("pooling", "mean"))
            self._start(row, runtime, folder, planned, trusted, pooling, spare, work)
        except BaseException:
            with suppress(Unavailable):  # the watch records it once the database is back
                self._pool.end(row.id, ResidencyState.FAILED)
            raise
        self._sleepers.end_of(model.id)
        return Ready(row, started=True, woken=False)

    # -- the process ----------------------------------------------------------------------------------------

    def recover(self) -> None:
        """This worker starts anew: what the one before has left behind is ended; what served is loaded again."""
        with self._services.database.reading() as session:
            before = [*residency.residents(session, self.device.id), *sleep.asleep(session, self.device.id)]
            given_up = residency.left_behind(session, self.device.id)
        runtimes = {runtime.name: runtime for runtime in self.runtimes}
        for row in before:  # nobody may ask one that is to end, and a later worker must still find it
            self._pool.mark(row.id, state=ResidencyState.DRAINING)
        for row in [*before, *given_up]:
            if (runtime := runtimes.get(row.runtime)) and runtime.end_stray(row.pid, row.id, row.known_as):
                log.warning("runner.stray", residency_id=row.id, pid=row.pid, known_as=row.known_as)
        for row in given_up:
            self._pool.mark(row.id, pid=None, known_as=None)
        with self._services.database.session() as session:
            residency.lose(session, residency.of_device(self.device.id))
        Watch(self._pool, self.leaving.unused, lambda: self.spares.keep(self.runtimes)).start()

    def end_given_up(self) -> None:
        """Stop what others have given up while this worker was out of reach: somebody else serves in its place."""
        if not self._pool.changing.acquire(blocking=False):
            return
        try:
            with self._services.database.reading() as session:
                over = residency.over(session, [residency_id for residency_id, _ in self._pool.running()])
            for residency_id in over:
                self._pool.end(residency_id, ResidencyState.STOPPED)
        finally:
            self._pool.changing.release()

    def stop_waiting(self) -> None:
        """This worker shuts down: drains end now."""
        self._pool.closing.set()

    def close(self) -> None:
        """Stop every runner; what served is marked as lost until a worker of this device starts again."""
        self._room.ahead.end()
        self.spares.end()
        self._pool.close()

    # -- inside ---------------------------------------------------------------------------------------------

    def _new_row(
        self, model: Model, installation: Installation, runtime: Runtime, planned: Plan, way: Rung, id_: str
    ) -> Residency:
        """A runner is about to be started."""
        row = Residency(
            id=id_, model_id=model.id, model_type=model.type, revision=installation.revision, device=self.device.id,
            runtime=runtime.name, state=ResidencyState.STARTING, started_at=0.0, context_length=way.context_length,
            lowered=way.lowered.told(),
        )  # fmt: skip
        with self._services.database.session() as session:
            if runtime.keeps_weights and not planned.piece_by_piece and way.lowered == fit.WHOLE:
                node, budget = self._services.settings.node, self._sleepers.budget
                sleep.keep(session, row, node, planned.need.weights, budget)
            residency.start(session, row)
        self._pool.tell(row, ResidencyState.STARTING)
        return row

    def _wake(self, row: Residency, work: Work) -> bool:
        """Have one that sleeps ready again. False: that failed, and it is over."""
        began, server = time.monotonic(), self._pool.server(row.id)
        work.report("waking", fraction=0.1)
        with self._services.database.session() as session:
            if server is None or not sleep.wake_up(session, row):
                return False
        self._pool.tell(row, ResidencyState.STARTING)
        try:
            before = inventory.memory_free(self.device.id)
            reached("wake.recorded")
            server.wake()
            self._services.leases.reopen(row.id)
            self._prove(row, server, before, began, work)
        except (Failed, redis.RedisError) as error:
            log.warning("wake.failed", residency_id=row.id, error=str(error))
            self._pool.end(row.id, ResidencyState.STOPPED)
            return False
        except BaseException:
            with suppress(Unavailable):  # the watch records it once the database is back
                self._pool.end(row.id, ResidencyState.STOPPED)
            raise
        return True

    def _start(
        self,
        row: Residency,
        runtime: Runtime,
        folder: Path,
        planned: Plan,
        trusted: Trust,
        pooling: str,
        spare: Spare | None,
        work: Work,
    ) -> None:
        began = time.monotonic()
        lowered = planned.setting.lowered
        work.report("loading piece by piece" if planned.piece_by_piece else "loading", fraction=0.1)
        request = Request(
            folder=folder, model_id=row.model_id, host=self._settings.host, port=0,
            key=runner_key(self._secret, row.id), device=CPU_ID if lowered.on_cpu else self._pool.local_id,
            context_length=planned.setting.context_length, gpu_layers=lowered.gpu_layers, precision=lowered.precision,
            piece_by_piece=planned.piece_by_piece, spare=spare,
            allow_pickle=trusted.pickle, allow_remote_code=trusted.remote_code, mark=row.id, pooling=pooling,
            keep_weights=row.kept_bytes is not None,
        )  # fmt: skip
        before = inventory.memory_free(self.device.id)
        server = self._pool.start(row.id, runtime, request)
        # so that a later worker finds it, should this one die now
        self._pool.mark(row.id, pid=server.pid, known_as=server.known_as)
        reached("runner.started")
        server.wait_ready(work.checkpoint)
        memory, seconds = self._prove(row, server, before, began, work)
        if memory is not None and lowered == fit.WHOLE:
            with self._services.database.session() as session:
                footprints.record(session, planned.footprint(row, memory, seconds))

    def _prove(
        self, row: Residency, server: Server, before: int | None, began: float, work: Work
    ) -> tuple[int | None, float]:
        """Ready, once it has answered; the bytes of the device that it took, and the seconds since it began."""
        work.report("probing", fraction=0.8)
        server.probe()
        reached("runner.probed")
        told = server.memory()
        memory = taken(self.device.kind, *told, before, inventory.memory_free(self.device.id))
        offloaded = told.offloaded(self.device.kind)
        if self.device.kind == "gpu" and row.lowered.keys() & {"device", "gpuLayers"}:
            memory, offloaded = 0 if "device" in row.lowered else memory, told.host
        seconds = round(time.monotonic() - began, 3)
        values = {
            "state": ResidencyState.READY, "url": server.url, "pid": server.pid, "memory_bytes": memory,
            "offloaded_bytes": offloaded, "context_length": server.context_length,
            "load_seconds": seconds,
        }  # fmt: skip
        self._pool.mark(row.id, **values)
        self._services.leases.note_use(row.id)
        for name, value in values.items():
            setattr(row, name, value)
        self._pool.tell(row, ResidencyState.READY)
        return memory, seconds


def manager_of(work: Work) -> Manager:
    """The manager of this device worker."""
    manager = work.services.manager
    if manager is None:
        message = "a device job reached a worker without a device"
        raise RuntimeError(message)
    return manager
