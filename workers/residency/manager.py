"""Owns the runners of one device, and is the only place that changes them."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
import structlog

from shared.db import residency, trust
from shared.db.jobs import switching
from shared.db.tables import Installation, Model, Residency
from shared.errors import Failed, ModelyardError, Unavailable
from shared.keys import installation_secret, runner_key
from shared.points import reached
from shared.progress import LEASE_RENEWAL_SECONDS
from shared.states import Holder, Priority, ResidencyState
from shared.trust import Trust
from workers.devices.base import Device
from workers.job import Services, Work
from workers.residency.recovery import RECOVERY, Recovery
from workers.runtimes.base import Request, Runtime
from workers.runtimes.llamacpp import LlamaCpp
from workers.runtimes.runner import Runner
from workers.runtimes.torch_runner import TorchRunner
from workers.store.essentials import check_loadable, files_of
from workers.store.reference import as_seen

log = structlog.get_logger()

STOP_SECONDS = 5.0
"""Between SIGTERM and SIGKILL of a drained runner."""
WATCH_SECONDS = 0.5
LEASES_BACK_SECONDS = LEASE_RENEWAL_SECONDS + 5.0
ASKS, ASK_WINDOW_SECONDS = 4, 600.0
"""A model that was lost so often in that time is not loaded again by itself."""


class Manager:
    """Starts, proves, drains and stops runners; notices when one dies and has it replaced."""

    def __init__(self, services: Services, device: Device) -> None:
        self.device = device
        self._services = services
        self._settings = services.settings.runners
        self._secret = installation_secret(services.settings)
        self._runtimes: tuple[Runtime, ...] = (TorchRunner(self._settings), LlamaCpp(self._settings))
        self._runners: dict[str, Runner] = {}
        self._ended: dict[str, ResidencyState] = {}
        self._changing = threading.Lock()
        self._asked: dict[str, deque[float]] = {}
        # Runners die with the thread that started them, so that thread must live as long as this process.
        self._spawn = ThreadPoolExecutor(1, thread_name_prefix="spawn")
        self._closing = threading.Event()

    # -- jobs ----------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, work: Work) -> Iterator[None]:
        """One change of this device at a time; the wait can be cancelled."""
        work.report("waiting for the device")
        while not self._changing.acquire(timeout=0.2):
            work.checkpoint()
        try:
            yield
        finally:
            self._changing.release()

    def ensure_ready(self, model: Model, installation: Installation, work: Work) -> tuple[Residency, bool]:
        """The model's residency here, started and proved by a real inference if there is none; and if it is fresh.

        Raises:
            Failed: no runtime for its files, or its runner did not become ready; nothing of it is left running.
        """
        with self._services.database.reading() as session:
            row = residency.resident(session, model.id, self.device.id)
        if row is not None and row.revision == installation.revision and self._lives(row.id):
            return row, False
        folder, files = self._place(installation)
        trusted = self._gate(files, model.id, installation.revision)
        runtime = self._runtime_for(folder, model.id)
        row = Residency(
            id=str(uuid.uuid4()), model_id=model.id, model_type=model.type, revision=installation.revision,
            device=self.device.id, runtime=runtime.name, state=ResidencyState.STARTING, started_at=0.0,
        )  # fmt: skip
        with self._services.database.session() as session:
            residency.start(session, row)
        self._tell(row, ResidencyState.STARTING)
        try:
            return self._start(row, runtime, folder, trusted, work), True
        except BaseException:
            with suppress(Unavailable):  # the watch records it once the database is back
                self._end(row.id, ResidencyState.FAILED)
            raise

    def retire(self, residency_id: str) -> None:
        """Let the requests end that hold it, then stop it. Not to be cancelled: its route has moved already."""
        self._mark(residency_id, state=ResidencyState.DRAINING)
        self._drain(residency_id)
        reached("residency.drained")
        self._end(residency_id, ResidencyState.STOPPED)
        reached("residency.stopped")

    # -- the process ----------------------------------------------------------------------------------------

    def recover(self) -> None:
        """This worker starts anew: the runners of the one before died with it; what served is loaded again."""
        with self._services.database.session() as session:
            residency.lose(session, residency.of_device(self.device.id))
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def stop_waiting(self) -> None:
        """This worker shuts down: drains end now."""
        self._closing.set()

    def close(self) -> None:
        """Stop every runner; what served is marked as lost until a worker of this device starts again."""
        self._closing.set()
        mine = dict(self._runners)
        self._runners.clear()
        with ThreadPoolExecutor(max_workers=8) as stopping:
            list(stopping.map(lambda runner: runner.stop(STOP_SECONDS), mine.values()))
        with self._services.database.session() as session:
            residency.lose(session, residency.of_ids(list(mine)))

    # -- inside ---------------------------------------------------------------------------------------------

    def _start(self, row: Residency, runtime: Runtime, folder: Path, trusted: Trust, work: Work) -> Residency:
        began = time.monotonic()
        work.report("loading", fraction=0.1)
        request = Request(
            folder=folder, model_id=row.model_id, host=self._settings.host, port=0,
            key=runner_key(self._secret, row.id), device=self.device.id, context_length=self._settings.context_length,
            allow_pickle=trusted.pickle, allow_remote_code=trusted.remote_code,
        )  # fmt: skip
        logs = self._services.settings.data_dir / "logs" / "runners"
        runner = Runner.start(runtime, request, self._spawn, self._settings, logs)
        self._runners[row.id] = runner
        reached("runner.started")
        runner.wait_ready(work.checkpoint)
        work.report("probing", fraction=0.8)
        runner.probe()
        reached("runner.probed")
        values = {
            "state": ResidencyState.READY, "url": runner.url, "pid": runner.pid,
            "memory_bytes": runner.rss_bytes(), "load_seconds": round(time.monotonic() - began, 3),
        }  # fmt: skip
        self._mark(row.id, **values)
        for name, value in values.items():
            setattr(row, name, value)
        self._tell(row, ResidencyState.READY)
        return row

    def _place(self, installation: Installation) -> tuple[Path, dict[str, Path]]:
        """The model's folder, or its one file, and its files by name.

        Raises:
            Conflict: code `model_changed`; it is in place, and other than it was when it was scanned.
        """
        if installation.holder == Holder.FOLDER:
            return Path(installation.path), as_seen(installation.path, installation.seen or {})
        folder = self._services.layout.published(installation.model_type, installation.model_id, installation.revision)
        return folder, files_of(folder)

    def _gate(self, files: dict[str, Path], model_id: str, revision: str) -> Trust:
        """What a person allowed of this revision, once its files are found to ask for no more than that."""
        with self._services.database.reading() as session:
            trusted = trust.grants(session, model_id).of(revision)
        check_loadable(files, trusted)
        return trusted

    def _runtime_for(self, folder: Path, model_id: str) -> Runtime:
        for runtime in self._runtimes:
            if runtime.accepts(folder):
                return runtime
        raise Failed(
            "no_runtime", f"No runtime here can run the files of {model_id!r}.",
            "Runnable are transformers folders of safetensors, and GGUF files.",
        )  # fmt: skip

    def _lives(self, residency_id: str) -> bool:
        runner = self._runners.get(residency_id)
        return runner is not None and runner.alive()

    def _drain(self, residency_id: str) -> None:
        """Wait for the last lease, at most the drain time.

        While Redis is away requests are served without a lease; they take one as soon as it is back, also where it
        came back empty. Until they had the time to, a count of none means nothing.
        """
        deadline, believed = time.monotonic() + self._settings.drain_seconds, 0.0
        closed = False
        while (moment := time.monotonic()) < deadline and not self._closing.is_set():
            try:
                if self._services.leases.close(residency_id) and closed:
                    believed = moment + LEASES_BACK_SECONDS
                closed = True
                if self._services.leases.count(residency_id) == 0 and moment >= believed:
                    return
            except redis.RedisError as error:
                if moment >= believed:
                    log.warning("drain.blind", residency_id=residency_id, error=type(error).__name__)
                believed = moment + LEASES_BACK_SECONDS
            self._closing.wait(0.05)
        log.warning("drain.timeout", residency_id=residency_id)

    def _end(self, residency_id: str, state: ResidencyState) -> None:
        runner = self._runners.pop(residency_id, None)
        try:
            if runner is not None:
                runner.stop(STOP_SECONDS)
        finally:
            self._ended[residency_id] = state
            self._record_ends()
        log.info("residency.ended", residency_id=residency_id, state=state)

    def _record_ends(self) -> None:
        """Write down which residencies are over.

        Raises:
            Unavailable: later, then; until it is written nobody can remove the model.
        """
        for residency_id, state in list(self._ended.items()):
            self._mark(residency_id, state=state, active=False, url=None, pid=None)
            self._ended.pop(residency_id, None)

    def _mark(self, residency_id: str, **values: object) -> None:
        with self._services.database.session() as session:
            residency.update_row(session, residency_id, **values)

    def _tell(self, row: Residency, state: ResidencyState) -> None:
        self._services.events.publish(
            "residency.state", residencyId=row.id, modelId=row.model_id, device=row.device, state=state
        )

    def _watch(self) -> None:
        """Until this worker ends: bury runners that died by themselves, and have what served loaded again."""
        while not self._closing.wait(WATCH_SECONDS):
            try:
                self._record_ends()
                for residency_id, runner in list(self._runners.items()):
                    if not runner.alive():
                        self._bury(residency_id, runner)
                self._replace_lost()
            except ModelyardError as error:
                log.warning("watch.failed", code=error.code)
            except Exception:
                log.exception("watch.crashed")

    def _bury(self, residency_id: str, runner: Runner) -> None:
        """A runner died by itself; a job that is changing it at this moment sees to it itself."""
        if not self._changing.acquire(blocking=False):
            return
        try:
            if self._runners.get(residency_id) is not runner:
                return
            log.warning("runner.died", residency_id=residency_id, exit_code=runner.exit_code, log=runner.log_tail(5))
            with self._services.database.session() as session:
                residency.lose(session, residency.of_ids([residency_id]))
            self._runners.pop(residency_id, None)
        finally:
            self._changing.release()

    def _replace_lost(self) -> None:
        """What should serve and has no runner gets a job, unless one is on its way; asked again until it serves."""
        with self._services.database.reading() as session:
            lost = residency.lost(session, self.device.id)
            waiting = [row for row in lost if not switching(session, row.model_id)]
        for row in waiting:
            self._ask_for(row)

    def _ask_for(self, lost: Residency) -> None:
        """Have a model loaded again, unless its runner died, or its loading failed, again and again."""
        asked = self._asked.setdefault(lost.model_id, deque(maxlen=ASKS))
        moment = time.monotonic()
        if len(asked) == ASKS and moment - asked[0] < ASK_WINDOW_SECONDS:
            log.error("runner.given_up", model_id=lost.model_id)
            self._mark(lost.id, state=ResidencyState.FAILED, active=False)
            return
        self._tell(lost, ResidencyState.LOST)
        self._services.ledger.submit(Recovery(model_id=lost.model_id), origin=RECOVERY, priority=Priority.CRITICAL)
        asked.append(moment)  # not before: a database that is away is no failure of the model


def manager_of(work: Work) -> Manager:
    """The manager of this device worker."""
    manager = work.services.manager
    if manager is None:
        message = "a device job reached a worker without a device"
        raise RuntimeError(message)
    return manager
