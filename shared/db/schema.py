"""The schema of the database: brought up to date, and refused where it is not ours to touch."""

import contextlib
import os
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import select

from shared.db.session import BUSY_SECONDS, Database, now
from shared.errors import Conflict, Corrupt
from shared.settings import Settings


def migrate(settings: Settings) -> None:
    """Bring the schema to the newest version; safe to run from several processes at once.

    Raises:
        Corrupt: the file of SQLite is not whole; nothing was touched.
        Conflict: the schema is of a newer version.
    """
    url = settings.database
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_file(path)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    database = Database(url)
    try:
        _refuse_newer(database, config)
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()


def examine(settings: Settings) -> tuple[bool, float]:
    """Whether the schema of a database that is there is ours, and the database's clock; nothing is changed.

    Raises:
        Corrupt, Conflict: as `migrate`.
        Unavailable: it cannot be reached, or stays locked.
    """
    url = settings.database
    if url.startswith("sqlite:///"):
        _check_file(Path(url.removeprefix("sqlite:///")))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    database = Database(url)
    try:
        _refuse_newer(database, config)
        with database.session() as session:  # one that may write: a reader would not notice a lock
            there = set(MigrationContext.configure(session.connection()).get_current_heads())
            clock = session.exec(select(now())).one()
    finally:
        database.close()
    return there == set(ScriptDirectory.from_config(config).get_heads()), clock


def _refuse_newer(database: Database, config: Config) -> None:
    """An older version must not write to what a newer one has changed.

    Raises:
        Conflict
    """
    with database.reading() as session:
        there = set(MigrationContext.configure(session.connection()).get_current_heads())
    if there - {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        message = f"The database is of a newer version of Modelyard (schema {', '.join(sorted(there))})."
        hint = "Start that version, or put back the backup that was made before the upgrade."
        raise Conflict("database_newer", message, hint)


def _check_file(path: Path) -> None:
    """Refuse to start on a file that is not whole, rather than to write over what may still be saved.

    Raises:
        Corrupt
    """
    wal, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    if wal.exists() and wal.stat().st_size and not (path.exists() and path.stat().st_size):
        hint = f"Put it back beside {wal.name}. To start with an empty ledger: rm {wal}"
        raise Corrupt("database_missing", f"{path} is gone, and its log {wal.name} is still there.", hint)
    if index.exists() and not wal.exists():
        hint = f"Put it back, or a backup of all. To go on without the last changes: rm {index}"
        raise Corrupt("database_log_missing", f"{wal}, with the last changes, was deleted.", hint)
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return  # busy, or out of reach: whoever opens it next says so
    except sqlite3.DatabaseError as error:
        answer = str(error)
    if answer != "ok":
        mended = path.with_name("mended.db")
        hint = f"Put a backup in its place, or save what can be read: sqlite3 {path} .recover | sqlite3 {mended}"
        raise Corrupt("database_damaged", f"{path} is damaged: {answer}.", hint)
