"""`modelyard doctor` on set-ups that are broken on purpose: each is found, and its fix is named."""

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from typer.testing import CliRunner

from api.cli.main import app
from deploy.addresses import free_port
from shared.db import devices
from shared.db.reports import Device, Node
from shared.db.session import Database
from tests.conftest import RealRedis, put_database, until

pytestmark = [pytest.mark.system]
KEY, TOKEN, DEAD_TOKEN = "of-the-test", "hf_right", "hf_wrong"
PROJECT = Path(__file__).parents[2]


class Elsewhere(BaseHTTPRequestHandler):
    """A hub that knows one token, and whatever else listens on a port."""

    def do_GET(self) -> None:
        wrong = self.path == "/api/whoami-v2" and self.headers["Authorization"] != f"Bearer {TOKEN}"
        self.send_response(401 if wrong else 200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""


class Ward(NamedTuple):
    """An API without workers, what is beside it, and the environment in which all of that is well."""

    url: str
    other_url: str
    redis: RealRedis
    data: Path
    environment: dict[str, str]

    def examine(self, **changes: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code, and what is wrong, by its words."""
        environment = {name: value for name, value in {**self.environment, **changes}.items() if value}
        told = CliRunner().invoke(app, ["doctor", "--json"], env=dict.fromkeys(changes) | environment)
        findings = json.loads(told.stdout)
        return told.exit_code, {finding["what"]: finding for finding in findings if not finding["ok"]}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, redis_server: RealRedis, fresh_sqlite: Path) -> Iterator[Ward]:
    folder, port = tmp_path_factory.mktemp("ward"), free_port()
    put_database(fresh_sqlite, folder / "service")
    put_database(fresh_sqlite, folder / "mine")
    database = Database(f"sqlite:///{folder / 'service' / 'modelyard.db'}")
    with database.session() as session:  # as a worker would report them whose driver is broken
        told = {"healthy": False, "reason": "It fell off the bus.", "noGpu": "The NVIDIA driver is not loaded."}
        devices.report(session, Device(
            id="gpu-1", kind="gpu", name="GPU", node="attic", memory_total=1, details=told, seen_at=0.0
        ))  # fmt: skip
        session.add(Node(name="attic", machine="attic", store="0" * 32, seen_at=1.0))
    database.close()
    there = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=there.serve_forever, args=(0.05,), daemon=True).start()
    other = f"http://127.0.0.1:{there.server_port}"
    service = {
        **os.environ, "MODELYARD_DATA_DIR": str(folder / "service"), "MODELYARD_REDIS__URL": redis_server.url,
        "MODELYARD_API_KEY": KEY, "MODELYARD_API__PORT": str(port),
    }  # fmt: skip
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen((sys.executable, "-m", "api"), env=service, cwd=PROJECT, **quiet)
    url = f"http://127.0.0.1:{port}"
    well = {
        "MODELYARD_URL": url, "MODELYARD_API_KEY": KEY, "MODELYARD_DATA_DIR": str(folder / "mine"),
        "HF_ENDPOINT": other, "MODELYARD_REDIS__URL": redis_server.url, "MODELYARD_API__MAX_STREAMS": "50",
        "HF_TOKEN": "",
    }  # fmt: skip
    try:
        until(lambda: _answers(url), 60, "the API")
        yield Ward(url, other, redis_server, folder / "mine", well)
    finally:
        process.terminate()
        process.wait()
        there.shutdown()
        there.server_close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", trust_env=False).is_success
    except httpx.HTTPError:
        return False


Breaks = Callable[[Ward], AbstractContextManager[dict[str, str]]]


def setting(**changes: str) -> Breaks:
    """Other variables; an empty one is not set."""
    return lambda ward: nullcontext({name: value.format(**ward._asdict()) for name, value in changes.items()})


def admin(*commands: str, mended: str) -> Breaks:
    @contextmanager
    def broken(ward: Ward) -> Iterator[dict[str, str]]:
        with redis.Redis(port=ward.redis.port) as client:
            for command in commands:
                client.execute_command(*command.split(" "))
            try:
                yield {}
            finally:
                for command in mended.split("; "):
                    client.execute_command(*command.split(" "))

    return broken


def on_database(statement: str, *, held: bool = False) -> Breaks:
    """Of the doctor's own database; `held`: the transaction stays open."""

    @contextmanager
    def broken(ward: Ward) -> Iterator[dict[str, str]]:
        connection = sqlite3.connect(ward.data / "modelyard.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        (before,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute(statement)
        if not held:
            connection.execute("COMMIT")
        try:
            yield {}
        finally:
            if held:
                connection.execute("ROLLBACK")
            connection.execute("UPDATE alembic_version SET version_num = ?", (before,))
            connection.close()

    return broken


@contextmanager
def damaged(ward: Ward) -> Iterator[dict[str, str]]:
    folder = ward.data.parent / "damaged"
    folder.mkdir()
    (folder / "modelyard.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    yield {"MODELYARD_DATA_DIR": str(folder)}


@contextmanager
def late(ward: Ward) -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        real = time.time
        patch.setattr(time, "time", lambda: real() - 90)
        yield {}


@contextmanager
def few_files(ward: Ward) -> Iterator[dict[str, str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        yield {"MODELYARD_API__MAX_STREAMS": "1100"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


CASES = {
    "no service": (setting(MODELYARD_URL="http://127.0.0.1:9"), "Nothing answers", "modelyard up"),
    "port taken": (setting(MODELYARD_URL="{other_url}"), "Another program listens", "--port"),
    "no key for the service": (setting(MODELYARD_API_KEY=""), "key", "MODELYARD_API_KEY"),
    "no key on a public address": (
        setting(MODELYARD_API_KEY="", MODELYARD_API__HOST="0.0.0.0"), "no API key", "modelyard key",
    ),
    "Redis away": (
        setting(MODELYARD_REDIS__URL="redis://127.0.0.1:9/0"), "Redis does not answer", "Check that it runs",
    ),
    "Redis refuses the password": (
        setting(MODELYARD_REDIS__URL="redis://modelyard:wrong@127.0.0.1:{redis.port}/0"), "refuses our password",
        "redis://:PASSWORD@",
    ),
    "Redis may drop jobs": (
        admin("CONFIG SET maxmemory 1gb", "CONFIG SET maxmemory-policy allkeys-lru",
              mended="CONFIG SET maxmemory 0; CONFIG SET maxmemory-policy noeviction"),
        "The Redis that you set: Redis may drop queued jobs", "CONFIG SET maxmemory-policy noeviction",
    ),
    "Redis without a log": (
        admin("CONFIG SET appendonly no", mended="CONFIG SET appendonly yes"), "keeps no log",
        "CONFIG SET appendonly yes",
    ),
    "database locked": (
        on_database("DELETE FROM schedule_runs", held=True), "keeps the database locked", "Try again in a few seconds",
    ),
    "database of a newer version": (
        on_database("UPDATE alembic_version SET version_num = '9999'"), "of a newer version", "Start that version",
    ),
    "database of an older version": (
        on_database("UPDATE alembic_version SET version_num = '0001'"), "older schema", "python -m workers migrate",
    ),
    "database damaged": (damaged, "is damaged", ".recover"),
    "database away": (
        setting(MODELYARD_DATABASE_URL="postgresql+psycopg://me@127.0.0.1:9/none"), "The database (postgresql)", "",
    ),
    "data folder is no folder": (setting(MODELYARD_DATA_DIR="/etc/hostname"), "is a file", "MODELYARD_DATA_DIR"),
    "data folder not to be written": (setting(MODELYARD_DATA_DIR="/proc/modelyard"), "cannot be written", "chown"),
    "disk full": (setting(MODELYARD_STORE__RESERVE_BYTES=f"{10**18}"), "GB free for the store", "modelyard cleanup"),
    "clocks differ": (late, "The clock of this machine is 90 s behind", "timedatectl"),
    "llama-server is not there": (
        setting(LLAMA_SERVER_PATH="/nowhere/llama-server"), "is no program", "LLAMA_SERVER_PATH",
    ),
    "Hub out of reach": (setting(HF_ENDPOINT="http://127.0.0.1:9"), "does not answer", "HF_ENDPOINT"),
    "Hub refuses the token": (setting(HF_TOKEN=DEAD_TOKEN), "refuses HF_TOKEN", "/settings/tokens"),
    "too few files": (few_files, "too few for 1100 event streams", "ulimit -n"),
}  # fmt: skip
"""What is broken, the words in which it is found, and of its fix."""
ALWAYS = {
    "no io worker": ("ioWorker: No sign of life", "python -m workers io"),
    "no device worker": ("deviceWorker: No sign of life", "python -m workers device"),
    "a GPU is ill": ("gpu-1 on attic: It fell off the bus", "nvidia-smi"),
    "the driver is broken": ("No GPU: The NVIDIA driver is not loaded", "start the device worker again"),
    "a machine is away": ("The machine attic is away", "Start the workers of attic"),
}
"""Broken from the start."""


@pytest.fixture(scope="module")
def before(ward: Ward) -> dict[str, dict[str, Any]]:
    return ward.examine()[1]


@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_found_and_its_fix_named(ward: Ward, before: dict[str, dict[str, Any]], case: str) -> None:
    breaks, what, fix = CASES[case]
    with breaks(ward) as changes:
        code, wrong = ward.examine(**changes)
    news = [finding for words, finding in wrong.items() if words not in before and what in words]
    assert len(news) == 1, wrong
    assert fix in news[0]["fix"]
    assert news[0]["fix"]
    assert code == 1


@pytest.mark.parametrize("case", ALWAYS)
def test_what_the_service_lacks_is_found_and_its_fix_named(before: dict[str, dict[str, Any]], case: str) -> None:
    what, fix = ALWAYS[case]
    found = [finding for words, finding in before.items() if words.startswith(what)]
    assert len(found) == 1, before
    assert fix in found[0]["fix"]


def test_what_is_well_is_no_finding(ward: Ward, before: dict[str, dict[str, Any]]) -> None:
    known = tuple(what for what, _ in ALWAYS.values())
    optional = ("llama-server for GGUF", "torch and transformers")
    assert [words for words in before if not words.startswith((*known, *optional))] == []
    _, wrong = ward.examine(HF_TOKEN=TOKEN)
    assert wrong.keys() == before.keys()


def test_the_command_itself_tells_a_person(ward: Ward) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from api.cli.main import main; main()", "doctor"], capture_output=True, text=True,
        env={**os.environ, **ward.environment}, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert "→ Start one: python -m workers io" in told.stdout
