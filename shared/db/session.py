"""The database: engine, clock, transactions."""

import math
import select as readiness
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Float, event, func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlmodel import Session, create_engine

from shared.errors import Invalid, Unavailable

BUSY_SECONDS = 5
"""Longest wait for other writers of SQLite; after it the caller hears `database_busy`."""
TURN_SECONDS = 2
"""How much of it may be spent on writers of the same process."""
IDLE_SECONDS = 1.0
"""A connection to PostgreSQL that nobody used for so long is asked whether it lives before it is used."""

CHANGED = "changed"
"""Of a connection: its transaction changed a row, or may have, where the driver does not count."""

SQLITE_TROUBLE = {
    "SQLITE_BUSY": ("database_busy", "Another program keeps the database locked.", "Try again in a few seconds."),
    "SQLITE_LOCKED": ("database_busy", "Another program keeps the database locked.", "Try again in a few seconds."),
    "SQLITE_FULL": ("database_full", "The disk of the database is full.", "Free some space; it goes on by itself."),
    "SQLITE_IOERR": ("database_unavailable", "The disk of the database has an error.", "Look at the disk."),
    "SQLITE_READONLY": ("database_unavailable", "The database cannot be written to.", "Look at its file's rights."),
    "SQLITE_CANTOPEN": ("database_unavailable", "The database cannot be opened.", "Look at its folder."),
    "SQLITE_CORRUPT": (
        "database_damaged",
        "The database is damaged.",
        "Stop the service; its next start says what helps.",
    ),
    "SQLITE_NOTADB": (
        "database_damaged",
        "The database is damaged.",
        "Stop the service; its next start says what helps.",
    ),
}
"""By the beginning of SQLite's own name for an error: code, message and hint. All of them may pass."""

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
    """Short transactions only: none stays open across network, hashing or device work.

    Args:
        witness: called last in every `session` that changed something and went well, to write down who did.
    """

    def __init__(self, url: str, witness: Callable[[Connection], None] | None = None) -> None:
        self.engine = _engine(url)
        self._witness = witness
        if witness is not None:
            _note_changes(self.engine)
        self._readers = self.engine.execution_options(reads=True)
        # SQLite commits each statement by itself where we do not say BEGIN.
        alone: dict[str, Any] = {"alone": True} if url.startswith("sqlite") else {"isolation_level": "AUTOCOMMIT"}
        self._singles = self.engine.execution_options(**alone)
        self._writing = threading.Lock() if url.startswith("sqlite") else None
        self._away_at = -math.inf

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One writing transaction, committed at the end of the block.

        Raises:
            Unavailable: the database cannot be reached or stays locked.
        """
        with self._turn(), self._session(self.engine) as session:
            yield session
            if self._witness is not None:
                session.flush()
                if (connection := session.connection()).info.get(CHANGED):
                    self._witness(connection)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One reading transaction; on SQLite it waits for no writer.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with self._session(self._readers) as session:
            yield session

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """For one statement that is a transaction of its own: committed when it returns, without a word about it.

        Raises:
            Unavailable: the database cannot be reached or stays locked.
        """
        with self._judged(), self._turn(), self._singles.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """As `session`, for statements on tables.

        Raises:
            Unavailable: the database cannot be reached or stays locked.
        """
        with self._judged(), self._turn(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Threads of this process write to SQLite one after another: waiting for each other costs it milliseconds."""
        if self._writing is None:
            yield
            return
        if not self._writing.acquire(timeout=TURN_SECONDS):
            raise Unavailable(*SQLITE_TROUBLE["SQLITE_BUSY"], None, 2)
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        with self._judged(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise Invalid("invalid_text", "A value cannot be stored.", "Leave out control characters.") from error
        except (DBAPIError, PoolTimeout) as error:
            if (passing := _as_passing(error)) is None:
                raise
            self._away_at = time.monotonic()
            raise passing from error

    def seconds_since_away(self) -> float:
        """How long ago this process last found the database out of reach; infinite when it never did."""
        return time.monotonic() - self._away_at

    def ping(self) -> None:
        """Raises: Unavailable."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        engine = create_engine(url, pool_size=10, pool_timeout=BUSY_SECONDS, connect_args=PATIENCE)
        _ping_the_idle(engine)
        return engine
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS - TURN_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={(BUSY_SECONDS - TURN_SECONDS) * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that turns writer inside one transaction fails at once instead of waiting its turn.
        options = connection.get_execution_options()
        if not options.get("alone"):
            connection.exec_driver_sql("BEGIN" if options.get("reads") else "BEGIN IMMEDIATE")

    return engine


def _note_changes(engine: Engine) -> None:
    """Have each connection know whether its transaction changed a row."""

    @event.listens_for(engine, "begin")
    def _none_yet(connection: Connection) -> None:
        connection.info[CHANGED] = False

    @event.listens_for(engine, "after_cursor_execute")
    def _one_more(connection: Connection, cursor: Any, *told: Any) -> None:
        context = told[2]
        if (context.isinsert or context.isupdate or context.isdelete) and cursor.rowcount != 0:
            connection.info[CHANGED] = True


def _ping_the_idle(engine: Engine) -> None:
    """Replace a connection that died while nobody used it; to ask before each use would cost a short job a tenth."""

    @event.listens_for(engine, "checkin")
    def _left(_: Any, record: Any) -> None:
        record.info["left"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _taken(connection: Any, record: Any, _: Any) -> None:
        used = record.info.get("left", math.inf)
        if time.monotonic() - used < IDLE_SECONDS and not _has_word(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as error:
            raise DisconnectionError from error  # the pool connects anew


def _has_word(connection: Any) -> bool:
    """The server has sent something that nobody asked for: its last words, when it goes."""
    look = readiness.poll()
    look.register(connection.fileno(), readiness.POLLIN)
    return bool(look.poll(0))


def _as_passing(error: DBAPIError | PoolTimeout) -> Unavailable | None:
    """What to tell people where the same statement may work later; None where the defect is ours."""
    if isinstance(error, DBAPIError):
        cause = str(getattr(error.orig, "sqlite_errorname", ""))
        for prefix, (code, message, hint) in SQLITE_TROUBLE.items():
            if cause.startswith(prefix):
                return Unavailable(code, message, hint, None, 2)
        # On SQLite the one class of error stands for defects, too; a server that became read-only is an internal one.
        on_sqlite = type(error.orig).__module__.startswith("sqlite3")
        refused = getattr(error.orig, "sqlstate", None) in {"25006", "25P03"}
        if not (error.connection_invalidated or refused or (isinstance(error, OperationalError) and not on_sqlite)):
            return None
    message = "The database does not answer."
    return Unavailable("database_unavailable", message, "Try again in a few seconds.", None, 2)


def serialise(within: Session | Connection, name: str) -> None:
    """Let one transaction at a time past this point, until it ends. SQLite has one writer anyhow."""
    bind = within.dialect if isinstance(within, Connection) else within.get_bind().dialect
    if bind.name == "postgresql":
        within.execute(select(func.pg_advisory_xact_lock(func.hashtext(name))))
