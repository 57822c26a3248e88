"""Real parts for tests: a Redis, databases of both kinds, and nothing reachable outside loopback."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from xdist.scheduler import LoadFileScheduling

from deploy.addresses import free_port
from shared.broker import Broker, make_app
from shared.db.reports import Device
from shared.db.schema import migrate
from shared.db.session import Database
from shared.db.tables import Model
from shared.jobs import Ledger
from shared.progress import Events, connect
from shared.settings import Settings
from tests import canaries

LONGEST_FIRST = (
    "tests/faults/test_crashes", "tests/dashboard/test_dashboard", "tests/system/test_outages",
    "tests/faults/test_matrix", "tests/system/test_spine", "tests/system/test_kills", "tests/faults/test_concurrency",
    "tests/faults/test_swaps", "tests/benchmarks/", "tests/system/test_order", "tests/system/test_locks",
    "tests/system/test_memory", "tests/system/test_governor",
    "tests/fuzz/test_service", "tests/faults/", "tests/system/", "tests/conformance/",
    "tests/workers/runtimes/", "tests/deploy/", "tests/api/",
)  # fmt: skip
"""Where tests begin takes effect at the end: what is long and comes last is waited for by idle processors."""
APART = (
    "tests/faults/test_swaps.py", "tests/benchmarks/test_bench.py", "tests/system/test_order.py",
    "tests/system/test_governor.py", "tests/system/test_messages.py",
)  # fmt: skip
"""Files whose tests share nothing: each of them may run in another process."""
LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="DIR", help="keep pictures of the dashboard's views there")
    parser.addoption(
        "--canaries", action="store_true", help="give every instance secrets, and look for them at its end"
    )


def pytest_configure(config: pytest.Config) -> None:
    canaries.wanted = config.getoption("--canaries")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        starts = (number for number, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start))
        return next(starts, len(LONGEST_FIRST))

    items.sort(key=place)


class Files(LoadFileScheduling):
    """A file at a time to each process, in the order of the collection."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return nodeid if file in APART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    config.option.loadscopereorder = False  # it would begin with those of the most tests, which are the shortest
    return Files(config, log)


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches beyond this machine."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if isinstance(host, str) and host and not host.startswith(LOOPBACK):
            pytest.fail(f"a test tried to reach {host}")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


def until(condition: Any, seconds: float = 30.0, what: str = "it") -> Any:
    """The first true answer of `condition`; fails where there is none in time."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        if answer := condition():
            return answer
        time.sleep(min(0.1, 0.02 + waited / 20))  # each look costs a service something, and long waits have many
    pytest.fail(f"{what} did not happen within {seconds} s")


class RealRedis:
    """A redis-server of our own, which tests may kill and start again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("redis-server")
        assert binary is not None, "install redis-server (make test does)"
        options = ("--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--dir", str(self.folder))
        self.process = subprocess.Popen(
            [binary, "--port", str(self.port), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers, what="Redis")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    server = RealRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of our own, without a password, on loopback.

    In a folder of its own: those of pytest go when other sessions begin, and a server whose folder is gone ends.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/usr/bin")]
    initdb, postgres = programs[-1] / "initdb", programs[-1] / "postgres"
    assert postgres.exists(), "install postgresql (make test does)"
    folder = Path(tempfile.mkdtemp(prefix="modelyard-postgres-"))
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        identity = {"user": "postgres", "group": "postgres"}
        shutil.chown(folder, "postgres", "postgres")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([initdb, "-D", folder / "data", "-U", "modelyard", "-A", "trust"], check=True, **identity, **quiet)
    port = free_port()
    server = subprocess.Popen(
        [postgres, "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"],
        **identity, **quiet,
    )  # fmt: skip
    url = f"postgresql+psycopg://modelyard@127.0.0.1:{port}/postgres"
    until(lambda: _reachable(port), what="PostgreSQL")
    yield url
    server.send_signal(signal.SIGINT)  # fast: does not wait for connections that a failed test left
    server.wait(20)
    shutil.rmtree(folder)


def _reachable(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"host=127.0.0.1 port={port} user=modelyard dbname=postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def fresh_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as a fresh installation has it, to be copied: to migrate one takes a tenth of a second."""
    folder = tmp_path_factory.mktemp("fresh")
    migrate(Settings(data_dir=folder, database_url=SecretStr(f"sqlite:///{folder / 'modelyard.db'}")))
    return folder / "modelyard.db"


def put_database(fresh_sqlite: Path, data: Path) -> None:
    """Give a data folder, which is made here, the database of a fresh installation."""
    data.mkdir(mode=0o700)
    shutil.copy(fresh_sqlite, data / fresh_sqlite.name)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_server: RealRedis,
    fresh_sqlite: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """Settings of a fresh installation, once per kind of database."""
    put_database(fresh_sqlite, tmp_path / "data")
    monkeypatch.setenv("MODELYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MODELYARD_REDIS__URL", redis_server.url)
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        monkeypatch.setenv("MODELYARD_DATABASE_URL", url)
        if not _emptied(url, _version(fresh_sqlite)):
            migrate(Settings())
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    return Settings()


def _version(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(version)


def _emptied(url: str, newest: str) -> bool:
    """Leave of a database what a migration makes; of one that a test took to another version nothing, and False."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        tables = {name for (name,) in found} - {"alembic_version"}
        if not tables:
            return False
        if connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(newest,)]:
            connection.execute(f"TRUNCATE {', '.join(tables)}")
            return True
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return False


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    yield database
    database.close()


@pytest.fixture
def ledger(settings: Settings, database: Database) -> Iterator[Ledger]:
    """A ledger with two models and a device."""
    with database.session() as session:
        for model_id in ("one", "two"):
            session.add(
                Model(
                    id=model_id,
                    type="llm",
                    name=model_id,
                    source="huggingface",
                    source_url=f"tiny/{model_id}",
                    created_at=1.0,
                    updated_at=1.0,
                )
            )
        session.add(Device(id="cpu", kind="cpu", name="test", node="local", memory_total=1, seen_at=1.0))
    client = connect(settings.redis)
    app = make_app(settings, publisher=True)
    yield Ledger(database, settings.jobs, Broker(app), Events(client, settings.redis))
    app.close()
    client.close()
