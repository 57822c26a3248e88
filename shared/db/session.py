"""The database: engine, clock, transactions, migration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Float, event, func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import Session, create_engine

from shared.errors import Invalid, Unavailable
from shared.settings import Settings

BUSY_SECONDS = 5
"""Longest wait for another writer of SQLite; after it the caller hears `database_busy`."""


PATIENCE = {
    "connect_timeout": BUSY_SECONDS,
    "options": "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""PostgreSQL: no statement, lock or dead connection holds a thread for more than seconds."""


class now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock in seconds since 1970. Leases are judged by it, never by a worker's own."""

    type = Float(53)
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """Short transactions only: none stays open across network, hashing or device work."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._readers = self.engine.execution_options(reads=True)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One writing transaction, committed at the end of the block.

        Raises:
            Unavailable: the database cannot be reached or stays locked.
        """
        with self._session(self.engine) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One reading transaction; on SQLite it waits for no writer.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with self._session(self._readers) as session:
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DataError as error:
            raise Invalid("invalid_text", "A value cannot be stored.", "Leave out control characters.") from error
        except (DBAPIError, PoolTimeout) as error:
            if isinstance(error, DBAPIError) and not _is_passing(error):
                raise
            raise Unavailable(
                "database_unavailable", "The database does not answer.", "Try again in a few seconds.", None, 2
            ) from error

    def ping(self) -> None:
        """Raises: Unavailable."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, pool_timeout=BUSY_SECONDS, connect_args=PATIENCE)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_SECONDS * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that turns writer inside one transaction fails at once instead of waiting its turn.
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if not connection.get_execution_options().get("reads") else "BEGIN"
        )

    return engine


def _is_passing(error: DBAPIError) -> bool:
    """Will the same statement work later? On SQLite the one class of error stands for defects, too."""
    if error.connection_invalidated:
        return True
    on_sqlite = type(error.orig).__module__.startswith("sqlite3")
    return isinstance(error, OperationalError) and (not on_sqlite or "locked" in str(error.orig))


def serialise(session: Session, name: str) -> None:
    """Let one transaction at a time past this point, until it ends. SQLite has one writer anyhow."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))


def migrate(settings: Settings) -> None:
    """Bring the schema to the newest version; safe to run from several processes at once."""
    url = settings.database
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()
