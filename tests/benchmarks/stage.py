"""Servers and processes that rows need: a Redis, a PostgreSQL that syncs, API, workers, the peer's workers."""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from pydantic import SecretStr

from deploy.addresses import free_port
from deploy.environment import environment
from shared.db.schema import migrate
from shared.settings import JobSettings, RedisSettings, Settings
from tests.benchmarks.peer import BROKER
from tests.benchmarks.starts import FILE, SECONDS, Starts
from tests.conftest import RealRedis

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 90
Entered = TypeVar("Entered")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = START_SECONDS) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            message = f"{what} did not happen within {seconds:g} s"
            raise TimeoutError(message)
        time.sleep(0.02)


class Stage:
    """Everything that one row started; ends with it. Its data lies where TMPDIR says, which should be a real disk."""

    def __init__(self) -> None:
        self._end = contextlib.ExitStack()
        # PostgreSQL does not run as root, and its own user must be able to walk here.
        self.folder = Path(self._end.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.folder.chmod(0o755)

    @cached_property
    def memory(self) -> Path:
        """A folder in memory, where the disk is not the limit; it needs a few GB for rows that move files."""
        return Path(self._end.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()

    def starts(self, name: str) -> Starts:
        """Where the bodies of one worker note that they began."""
        return self.enter(contextlib.closing(Starts(self.folder / f"{name}.starts")))

    def enter(self, manager: AbstractContextManager[Entered]) -> Entered:
        """What a row opened, closed when the row ends."""
        return self._end.enter_context(manager)

    @cached_property
    def redis(self) -> RealRedis:
        """One server for ours and for the peer, each in a database of its own."""
        folder = self.folder / "redis"
        folder.mkdir()
        server = RealRedis(folder)
        server.start()
        self._end.callback(server.stop)
        return server

    def redis_url(self, number: int) -> str:
        return f"redis://127.0.0.1:{self.redis.port}/{number}"

    @cached_property
    def redis_pid(self) -> int:
        assert self.redis.process is not None
        return self.redis.process.pid

    @cached_property
    def postgres(self) -> tuple[str, int]:
        """URL and pid of a PostgreSQL with its default durability."""
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        folder = self.folder / "postgres"
        folder.mkdir()
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            identity = {"user": "postgres", "group": "postgres"}
            shutil.chown(folder, "postgres", "postgres")
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **identity}
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "modelyard", "-A", "trust"], check=True, **quiet
        )
        port = free_port()
        options = ("-h", "127.0.0.1", "-p", str(port), "-k", folder)
        server = subprocess.Popen([programs / "postgres", "-D", folder / "data", *options], **quiet)
        self._end.callback(_stop, server, signal.SIGINT)
        wait_for(lambda: _postgres_answers(port), "PostgreSQL")
        return f"postgresql+psycopg://modelyard@127.0.0.1:{port}/postgres", server.pid

    def settings(self, name: str, number: int, *, database_url: str | None = None, slots: int = 4) -> Settings:
        """Settings of a fresh, migrated installation on the Redis database of that number."""
        settings = Settings(
            data_dir=self.folder / name,
            database_url=SecretStr(database_url or f"sqlite:///{self.folder / name / 'modelyard.db'}"),
            redis=RedisSettings(url=SecretStr(self.redis_url(number))),
            jobs=JobSettings(io_slots=slots),
        )
        migrate(settings)
        return settings

    def api(self, settings: Settings) -> tuple[str, int]:
        """Address and pid of an API process, once it is ready to be asked."""
        port = free_port()
        server = ("uvicorn", "api.app:create_app", "--factory", "--host", "127.0.0.1", "--port", str(port))
        more = ("--timeout-graceful-shutdown", "1", "--no-access-log", "--http", "api.connections:Connection")
        pid = self.run("api", *server, *more, **environment(settings))
        wait_for(lambda: _api_answers(port), "the API")
        return f"127.0.0.1:{port}", pid

    def worker(self, settings: Settings, starts: Path, *, body_seconds: float = 0) -> int:
        """The pid of an io worker whose bodies only note that they began."""
        variables = {**environment(settings), FILE: str(starts), SECONDS: str(body_seconds)}
        return self.run("worker", "tests.benchmarks.worker", "io", **variables)

    def peer(self, broker: str, starts: Path, *options: str, body_seconds: float = 0) -> int:
        """The pid of a bare Celery worker."""
        variables = {BROKER: broker, FILE: str(starts), SECONDS: str(body_seconds)}
        return self.run("peer", "celery", "-A", "tests.benchmarks.peer", "worker", *options, **variables)

    def run(self, name: str, *module: str, **variables: str) -> int:
        """Start `python -m module…` in the project; its output goes to a log. Answers its pid."""
        return self.start(name, sys.executable, "-m", *module, **variables)

    def start(self, name: str, *command: str, pass_fds: Collection[int] = (), **variables: str) -> int:
        """Start a program in the project, with those of our open files; its output goes to a log. Answers its pid."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MODELYARD_")}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=PROJECT, env={**inherited, **variables}, stdout=log, stderr=log, pass_fds=pass_fds,
            )  # fmt: skip
        self._end.callback(_stop, process)
        return process.pid


def _stop(process: "subprocess.Popen[bytes]", by: signal.Signals = signal.SIGTERM) -> None:
    process.send_signal(by)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _postgres_answers(port: int) -> bool:
    try:
        psycopg.connect(f"host=127.0.0.1 port={port} user=modelyard dbname=postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _api_answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/v1/models?limit=1")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
