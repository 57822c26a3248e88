"""Databases of both kinds that a test can take away and bring back."""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Protocol

from deploy.addresses import free_port
from shared.db.session import BUSY_SECONDS
from tests.conftest import until


class Losable(Protocol):
    """A database, as the harness sees it."""

    away_seconds: float
    """Long enough that nobody can wait it out unnoticed."""
    url: str

    def lose(self) -> None: ...
    def bring_back(self) -> None: ...
    def close(self) -> None: ...


class Sqlite:
    """SQLite is lost while somebody else holds its write lock for longer than anybody waits for it."""

    away_seconds = BUSY_SECONDS + 1.5

    def __init__(self, folder: Path) -> None:
        self._file = folder / "modelyard.db"
        self.url = f"sqlite:///{self._file}"
        self._holder: sqlite3.Connection | None = None

    def lose(self) -> None:
        self._holder = sqlite3.connect(self._file, timeout=30, isolation_level=None, check_same_thread=False)
        self._holder.execute("BEGIN EXCLUSIVE")

    def bring_back(self) -> None:
        if self._holder is not None:
            self._holder.rollback()
            self._holder.close()
            self._holder = None

    def close(self) -> None:
        self.bring_back()


class Postgresql:
    """A server of our own, without a password, on loopback; lost by an immediate shutdown, as by a crash."""

    away_seconds = 4.0

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/usr/bin")]
        self._server, initdb = programs[-1] / "postgres", programs[-1] / "initdb"
        assert self._server.exists(), "install postgresql (make test does)"
        # Not below pytest's folder: every other pytest that starts closes that one to other users again.
        self._folder = folder = Path(tempfile.mkdtemp(prefix="modelyard-postgres-"))
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._identity = {"user": "postgres", "group": "postgres"}
            shutil.chown(folder, "postgres", "postgres")
        command: list[str | Path] = [initdb, "-D", folder / "data", "-U", "modelyard", "-A", "trust"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._identity)
        self._port = free_port()
        self.url = f"postgresql+psycopg://modelyard@127.0.0.1:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self.bring_back()

    def lose(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def bring_back(self) -> None:
        if self._process is None:
            options = ("-h", "127.0.0.1", "-p", str(self._port), "-k", str(self._folder), "-c", "fsync=off")
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self._server, "-D", self._folder / "data", *options],
                    stdout=log, stderr=log, cwd="/", **self._identity,
                )  # fmt: skip
            until(self._answers, 60, "PostgreSQL")

    def close(self) -> None:
        self.lose()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(
                f"host=127.0.0.1 port={self._port} user=modelyard dbname=postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            return False
        return True
