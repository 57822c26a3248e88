"""The whole service on one machine: what `modelyard up` runs."""

import contextlib
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from deploy import redis_server
from deploy.addresses import LOOPBACK, becomes_free, free_port, is_free, is_loopback, reachable
from deploy.data_folder import DataFolder
from deploy.environment import environment
from deploy.programs import Plan, Program, find_devices, standard
from deploy.supervisor import Process, Supervisor
from shared.errors import Conflict, Invalid, Unavailable
from shared.settings import Settings

READY_SECONDS = 180
"""Longest start: a first migration and cold imports on a slow disk."""
STOP_SECONDS = 13
"""Politeness ends here, so that everything is down within 15."""
FLOWER_USER = "modelyard"
FLOWERS = "FLOWER_"
"""Settings of Flower's own, which could open it to others than the one who has its password."""
POLL_SECONDS = 0.2
TAIL_LINES = 5


class Instance:
    """Every process of one data folder. Start it from a thread that lives as long as the process does.

    Args:
        settings: what the operator asked for; ports 0 are chosen at the start.
        flower: whether Flower runs too.
        programs: which processes there are.
    """

    def __init__(
        self, settings: Settings, *, flower: bool = True, programs: Callable[[Plan], list[Program]] = standard
    ) -> None:
        root = settings.data_dir.expanduser().absolute()
        self._settings = settings.model_copy(update={"data_dir": root})
        self._wants_flower = flower
        self._programs = programs
        self._lock: int | None = None
        self._supervisor: Supervisor | None = None
        self.folder = DataFolder(root)
        self.url = ""
        """Where the API answers."""
        self.redis_url = ""
        """Holds the password."""
        self.flower_url: str | None = None
        self.flower_password = ""
        """Of the user `modelyard`."""

    def start(self) -> None:
        """Migrate the database, then start every process; returns before they are ready.

        Raises:
            Conflict: `already_running` or `port_taken`.
            Invalid: `key_required` or `data_dir_unusable`.
            Unavailable: `redis_missing`.
        """
        _require_key(self._settings)
        self.folder.create()
        self._lock = self.folder.lock()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        api = self._settings.api
        port = api.port or free_port(api.host)
        if not becomes_free(api.host, port):
            raise Conflict(
                "port_taken", f"Another program listens on port {port}.", "Stop it, or choose another with --port."
            )
        redis = self._embedded_redis()
        self.redis_url = redis.url if redis else self._settings.redis.url.get_secret_value()
        self.url = f"http://{reachable(api.host)}:{port}"
        flower_port = self._flower_port()
        children = self._environment(port, flower_port)
        _migrate(self._settings)
        plan = Plan(api.host, port, find_devices(children), redis, flower_port, self.folder.flower / "flower.db")
        self._supervisor = Supervisor(self.folder, self._programs(plan))
        self._supervisor.start(children)

    def _embedded_redis(self) -> redis_server.EmbeddedRedis | None:
        if "url" in self._settings.redis.model_fields_set:
            return None
        binary = redis_server.find_binary(redis_server.candidates())
        return redis_server.prepare(self.folder.redis, self.folder.secret("redis"), binary)

    def _flower_port(self) -> int | None:
        if not self._wants_flower:
            return None
        wanted = self._settings.flower.port
        port = wanted if wanted and is_free(LOOPBACK, wanted) else free_port()
        self.flower_url = f"http://{LOOPBACK}:{port}"
        self.flower_password = self.folder.secret("flower")
        return port

    def _environment(self, port: int, flower_port: int | None) -> dict[str, str]:
        given = self._settings.secret
        children = {
            **{name: value for name, value in os.environ.items() if not name.startswith(FLOWERS)},
            **environment(self._settings),
            "MODELYARD_DATA_DIR": str(self.folder.root),
            "MODELYARD_API__HOST": self._settings.api.host,
            "MODELYARD_API__PORT": str(port),
            "MODELYARD_REDIS__URL": self.redis_url,
            "MODELYARD_SECRET": given.get_secret_value() if given else self.folder.secret("runner"),
            "CELERY_BROKER_URL": self.redis_url,
            "PYTHONUNBUFFERED": "1",
        }
        if flower_port is not None:
            children["MODELYARD_FLOWER__PORT"] = str(flower_port)
            children["FLOWER_BASIC_AUTH"] = f"{FLOWER_USER}:{self.flower_password}"
        return children

    def wait_ready(self, timeout: float) -> None:
        """Wait until the API says that everything it needs is there.

        Args:
            timeout: seconds.

        Raises:
            Unavailable: `not_ready`, with the program that fails and the end of its log.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if not self.alive() or time.monotonic() >= deadline:
                raise self._not_ready()
            time.sleep(POLL_SECONDS)

    def is_ready(self) -> bool:
        """Whether `GET /health/ready` answers 200 now."""
        return _probe(self.url)[0] == http.HTTPStatus.OK

    def alive(self) -> bool:
        """Whether the supervisor runs; it brings back whatever else dies."""
        return self._supervisor is not None and self._supervisor.alive()

    def processes(self) -> list[Process]:
        """Every supervised process with its pid and state, and the supervisor; empty when it is gone."""
        if self._supervisor is None or not self.alive():
            return []
        return [Process("supervisord", self._supervisor.pid, "RUNNING"), *self._supervisor.processes()]

    @property
    def supervisor_log(self) -> Path:
        """Where to look when the supervisor itself ended."""
        return self.folder.logs / "supervisord.log"

    def stop(self) -> None:
        """End every process, children included, within 15 seconds, and free the data folder."""
        if self._supervisor is not None:
            self._supervisor.stop(STOP_SECONDS)
            self._supervisor = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _not_ready(self) -> Unavailable:
        if not self.alive():
            name, why = "supervisord", "ended"
        else:
            name, why = _culprit(self.processes()) or ("api", _probe(self.url)[1])
        log = self.folder.logs / f"{name}.log"
        tail = _tail(log)
        lines = "".join(f"\n  {line}" for line in tail)
        message = f"Modelyard did not become ready: {name} {why}.{lines}"
        return Unavailable("not_ready", message, f"Its log is {log}.", {"program": name, "log": tail})


def up(
    settings: Settings,
    *,
    flower: bool = True,
    announce: Callable[[Instance], None],
    programs: Callable[[Plan], list[Program]] = standard,
) -> int:
    """Run everything in the foreground until SIGINT or SIGTERM. Call it from the main thread.

    Args:
        announce: called once, when the service is ready.
        programs: which processes there are.

    Returns:
        Exit code: 0 when asked to stop, 1 when the supervisor ended by itself.

    Raises:
        ModelyardError: what `Instance.start` and `Instance.wait_ready` raise; nothing is left running.
    """
    try:
        with _stop_signals(), Instance(settings, flower=flower, programs=programs) as instance:
            instance.wait_ready(READY_SECONDS)
            announce(instance)
            while instance.alive():
                time.sleep(POLL_SECONDS)
            sys.stderr.write(f"The supervisor ended, so everything stops. Its log is {instance.supervisor_log}\n")
            return 1
    except _Asked:
        return 0


class _Asked(BaseException):
    """Somebody asked us to stop. Not an Exception: nothing on the way may take it for a failure."""


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """The first signal raises `_Asked`; further ones do not disturb the stopping."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise _Asked

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asked for that
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_key(settings: Settings) -> None:
    """As `api.security.check_bind`, which is asked again by the API: here nothing has been started yet."""
    host, port = settings.api.host, settings.api.port
    alone = is_loopback(host) and not settings.api.trusted_proxies
    if alone or settings.api_key is not None or settings.api.insecure_no_auth:
        return
    raise Invalid(
        "key_required",
        f"{host} can be reached from other machines, and there is no API key.",
        "Make a key, or stay on this machine:\n"
        f'  export MODELYARD_API_KEY="$(modelyard key)"; modelyard up --host {host} --port {port}\n'
        f"  modelyard up --port {port}\n"
        "To let in whoever can reach it instead: --insecure-no-auth-i-understand",
    )


def _migrate(settings: Settings) -> None:
    from shared.db.schema import migrate

    migrate(settings)


def _probe(url: str) -> tuple[int, str]:
    """Status of `/health/ready` (0 when nobody answers), and what is wrong in the words of the answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read(65536)
    except (OSError, http.client.HTTPException):
        return 0, "does not answer"
    finally:
        connection.close()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return answer.status, f"answers {answer.status}: {json.loads(body)['detail']}"
    return answer.status, f"answers {answer.status}"


def _culprit(processes: list[Process]) -> tuple[str, str] | None:
    for states, why in ((("BACKOFF", "FATAL", "EXITED", "UNKNOWN"), "keeps ending"), (("STARTING",), "is not up yet")):
        for each in processes:
            if each.state in states:
                return each.name, why
    return None


def _tail(log: Path) -> list[str]:
    """Last lines of a log, [] when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return []
