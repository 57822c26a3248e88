"""The servers of one device, each with the row that tells of it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import structlog

from shared.db import residency
from shared.db.tables import Residency
from shared.states import ResidencyState
from workers.devices.base import CPU_ID, Device
from workers.job import Services
from workers.runtimes.base import Launch, Request, Runtime, Server
from workers.runtimes.spare import Spare

log = structlog.get_logger()

STOP_SECONDS = 5.0
"""Between SIGTERM and SIGKILL of a drained runner."""


class Pool:
    """Starts and ends servers, and writes down how they ended, however late. Safe for any thread."""

    def __init__(self, services: Services, device: Device) -> None:
        self.device = device
        self.services = services
        self.changing = threading.Lock()
        """Held by the one job that changes what is in the device's memory."""
        self.closing = threading.Event()
        """Set once this worker shuts down."""
        self._servers: dict[str, Server] = {}
        self._ended: dict[str, ResidencyState] = {}
        self.set_aside: set[str] = set()
        """Residencies that a job put out to make room: that they are lost says nothing about their models."""
        # Runners die with the thread that started them, so that thread must live as long as this process.
        self._spawn = ThreadPoolExecutor(1, thread_name_prefix="spawn")

    @property
    def local_id(self) -> str:
        """What this machine, and so a runner, calls the device."""
        return CPU_ID if self.device.kind == "cpu" else self.device.id

    def start(self, residency_id: str, runtime: Runtime, request: Request) -> Server:
        """Start a server; it is known by its residency from now on."""
        server = runtime.start(request, self._spawn, self.services.settings.data_dir / "logs" / "runners")
        self._servers[residency_id] = server
        return server

    def start_spare(self, launch: Launch, mark: str, key: str) -> Spare:
        """Raises: Failed: see `Spare`."""
        return Spare(launch, mark, key, self.local_id, self._spawn)

    def running(self) -> list[tuple[str, Server]]:
        """Residency and server of all that were started and not ended."""
        return list(self._servers.items())

    def server(self, residency_id: str) -> Server | None:
        return self._servers.get(residency_id)

    def lives(self, residency_id: str) -> bool:
        server = self.server(residency_id)
        return server is not None and server.alive()

    def end(self, residency_id: str, state: ResidencyState) -> None:
        """Stop the server, if there is one, and record that its residency is over; LOST or IDLE if it serves a type.

        Raises:
            Unavailable: the database is away; `record_ends` has still to write it.
        """
        server = self._servers.pop(residency_id, None)
        if state in (ResidencyState.LOST, ResidencyState.IDLE):
            self.set_aside.add(residency_id)
        try:
            if server is not None:
                server.stop(STOP_SECONDS)
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

    def bury(self, residency_id: str, server: Server) -> None:
        """A server ended by itself; a job that is changing the device at this moment sees to it itself."""
        if not self.changing.acquire(blocking=False):
            return
        try:
            if self._servers.get(residency_id) is not server:
                return
            log.warning("runner.died", residency_id=residency_id, exit_code=server.exit_code, log=server.log_tail(5))
            server.stop(0)  # where it is not ours, it may have something left
            with self.services.database.session() as session:
                residency.lose(session, residency.of_ids([residency_id]))
            self._servers.pop(residency_id, None)
        finally:
            self.changing.release()

    def close(self) -> None:
        """Stop every server; what served is marked as lost until a worker of this device starts again."""
        self.closing.set()
        mine = dict(self._servers)
        self._servers.clear()
        with ThreadPoolExecutor(max_workers=8) as stopping:
            list(stopping.map(_stop, mine, mine.values()))
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


def _stop(residency_id: str, server: Server) -> None:
    """One that fails to keeps nobody from the others, nor from writing down that they are gone."""
    try:
        server.stop(STOP_SECONDS)
    except Exception:
        log.exception("runner.not_stopped", residency_id=residency_id)
