"""The runners of one device, each with the row that tells of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from shared.db import residency
from shared.db.tables import Residency
from shared.states import ResidencyState
from workers.devices.base import Device
from workers.job import Services
from workers.runtimes.base import Request, Runtime
from workers.runtimes.runner import Runner

log = structlog.get_logger()

STOP_SECONDS = 5.0
"""Between SIGTERM and SIGKILL of a drained runner."""


class Pool:
    """Starts and ends runners, and writes down how they ended, however late. Safe for any thread."""

    def __init__(self, services: Services, device: Device) -> None:
        self.device = device
        self.services = services
        self.changing = threading.Lock()
        """Held by the one job that changes what is in the device's memory."""
        self.closing = threading.Event()
        """Set once this worker shuts down."""
        self._runners: dict[str, Runner] = {}
        self._ended: dict[str, ResidencyState] = {}
        self.set_aside: set[str] = set()
        """Residencies that a job put out to make room: that they are lost says nothing about their models."""
        # Runners die with the thread that started them, so that thread must live as long as this process.
        self._spawn = ThreadPoolExecutor(1, thread_name_prefix="spawn")

    def start(self, residency_id: str, runtime: Runtime, request: Request) -> Runner:
        """Start a runner; it is known by its residency from now on."""
        settings = self.services.settings
        logs: Path = settings.data_dir / "logs" / "runners"
        runner = Runner.start(runtime, request, self._spawn, settings.runners, logs)
        self._runners[residency_id] = runner
        return runner

    def running(self) -> list[tuple[str, Runner]]:
        """Residency and runner of all that were started and not ended."""
        return list(self._runners.items())

    def lives(self, residency_id: str) -> bool:
        runner = self._runners.get(residency_id)
        return runner is not None and runner.alive()

    def end(self, residency_id: str, state: ResidencyState) -> None:
        """Stop the runner, if there is one, and record that its residency is over; LOST or IDLE if it serves a type.

        Raises:
            Unavailable: the database is away; `record_ends` has still to write it.
        """
        runner = self._runners.pop(residency_id, None)
        if state is ResidencyState.LOST:
            self.set_aside.add(residency_id)
        try:
            if runner is not None:
                runner.stop(STOP_SECONDS)
        finally:
            self._ended[residency_id] = state
            self.record_ends()
        log.info("residency.ended", residency_id=residency_id, state=state)

    def record_ends(self) -> None:
        """Write down which residencies are over; the type of one that was set aside waits for a new one.

        Raises:
            Unavailable: later, then; until it is written nobody can remove the model.
        """
        for residency_id, state in list(self._ended.items()):
            if state in (ResidencyState.LOST, ResidencyState.IDLE):
                with self.services.database.session() as session:
                    residency.lose(session, residency.of_ids([residency_id]), state)
            else:
                self.mark(residency_id, state=state, active=False, url=None, pid=None)
            self._ended.pop(residency_id, None)

    def bury(self, residency_id: str, runner: Runner) -> None:
        """A runner died by itself; a job that is changing the device at this moment sees to it itself."""
        if not self.changing.acquire(blocking=False):
            return
        try:
            if self._runners.get(residency_id) is not runner:
                return
            log.warning("runner.died", residency_id=residency_id, exit_code=runner.exit_code, log=runner.log_tail(5))
            with self.services.database.session() as session:
                residency.lose(session, residency.of_ids([residency_id]))
            self._runners.pop(residency_id, None)
        finally:
            self.changing.release()

    def close(self) -> None:
        """Stop every runner; what served is marked as lost until a worker of this device starts again."""
        self.closing.set()
        mine = dict(self._runners)
        self._runners.clear()
        with ThreadPoolExecutor(max_workers=8) as stopping:
            list(stopping.map(lambda runner: runner.stop(STOP_SECONDS), mine.values()))
        with self.services.database.session() as session:
            residency.lose(session, residency.of_ids(list(mine)))

    def mark(self, residency_id: str, **values: object) -> None:
        """Change the residency's row."""
        with self.services.database.session() as session:
            residency.update_row(session, residency_id, **values)

    def tell(self, row: Residency, state: ResidencyState) -> None:
        """Let everybody who listens know."""
        self.services.events.publish(
            "residency.state", residencyId=row.id, modelId=row.model_id, device=row.device, state=state
        )
