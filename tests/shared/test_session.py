"""A file of SQLite that is not whole is never written over, and what passes is told apart from defects."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from shared.db.schema import migrate
from shared.db.session import Database
from shared.errors import Corrupt, Unavailable
from shared.settings import Settings

WRITER = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("INSERT INTO schedule_runs (name, slot, ran_at) VALUES ('x', 1, 1)")
db.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database whose last writer was killed, its log beside it."""
    path = tmp_path / "modelyard.db"
    migrate(on(path))
    killed = subprocess.run([sys.executable, "-c", WRITER, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert beside(path, "-wal").stat().st_size
    return path


def on(path: Path) -> Settings:
    return Settings(database_url=SecretStr(f"sqlite:///{path}"))


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def scribble(path: Path) -> None:
    content = path.read_bytes()
    page = 4096
    path.write_bytes(content[:page] + b"\xa5" * 5 * page + content[6 * page :])
    beside(path, "-wal").unlink(missing_ok=True)
    beside(path, "-shm").unlink(missing_ok=True)


def overwrite(path: Path) -> None:
    scribble(path)
    path.write_bytes(b"not a database at all" * 1000)


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "damaged pages": (scribble, "database_damaged"),
    "another file": (overwrite, "database_damaged"),
    "its log deleted": (lambda path: beside(path, "-wal").unlink(), "database_log_missing"),
    "deleted, its log left": (lambda path: path.unlink(), "database_missing"),
    "emptied, its log left": (lambda path: path.write_bytes(b""), "database_missing"),
}


@pytest.mark.fault("F-34")
@pytest.mark.parametrize(("harm", "code"), HARM.values(), ids=HARM.keys())
def test_a_start_refuses_what_is_not_whole(file: Path, harm: Callable[[Path], None], code: str) -> None:
    harm(file)
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(Corrupt) as refused:
        migrate(on(file))
    assert refused.value.code == code
    assert str(file) in refused.value.message + refused.value.hint, "it says what to do with which file"
    assert (file.read_bytes() if file.exists() else None) == before, "nothing was touched"


def test_a_start_after_a_kill_has_everything(file: Path) -> None:
    migrate(on(file))
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM schedule_runs").fetchone() == (1,)
    connection.close()


def trouble(path: Path, *statements: str) -> Unavailable:
    """What a process hears whose transaction does not work."""
    database = Database(f"sqlite:///{path}")
    try:
        with pytest.raises(Unavailable) as found:
            _run(database, statements)
        assert database.seconds_since_away() < 60
    finally:
        database.close()
    return found.value


def _run(database: Database, statements: tuple[str, ...]) -> None:
    with database.session() as session:
        for statement in statements:
            session.execute(text(statement))


@pytest.mark.fault("F-31")
def test_a_full_disk_has_a_name(file: Path) -> None:
    found = trouble(file, "PRAGMA max_page_count = 1", "CREATE TABLE more AS SELECT zeroblob(1000000) AS bytes")
    assert found.code == "database_full"


@pytest.mark.fault("F-34")
def test_damage_has_a_name(file: Path) -> None:
    overwrite(file)
    assert trouble(file, "INSERT INTO schedule_runs (name, slot, ran_at) VALUES ('y', 1, 1)").code == "database_damaged"


@pytest.mark.fault("F-30")
def test_a_locked_file_is_busy_for_writers_alone(file: Path) -> None:
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    database = Database(f"sqlite:///{file}")
    try:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
        found = trouble(file, "SELECT 1")
        assert (found.code, found.retry_after) == ("database_busy", 2)
    finally:
        database.close()
        holder.close()
