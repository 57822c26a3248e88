"""Everything of one database into another: `modelyard migrate-database URL`, `python -m workers move-database URL`."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Integer, Row, Table, func, insert, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlmodel import SQLModel, col

from shared.db import audit, keys, names, reports, trust, webhooks, wishes  # noqa: F401 - they fill the metadata
from shared.db.schema import migrate
from shared.db.session import Database, now
from shared.db.tables import Job, ScheduleRun
from shared.errors import Conflict, Corrupt, Invalid
from shared.settings import JobSettings, Settings
from shared.states import JobState

SQLITE, POSTGRESQL = "sqlite:///", "postgresql+psycopg://"
AT_ONCE = 500
"""Rows in memory at a time."""
QUIET_TURNS = 3
"""Workers that did not look for lost jobs for so many turns are gone."""
LOOK_SECONDS = 0.2
DIGEST_BYTES = 32
UNHURRIED = ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout")


def transfer(settings: Settings, url: str) -> dict[str, int]:
    """Copy every row into an empty database, whose schema is made first. Of the present one the schema is brought up to
    date, as any start does, and then it is only read.

    All of it is one transaction there, which is committed when every table's rows read back as they are here.
    Waits until no worker can be at work any more, half a minute at most.

    Args:
        url: `postgresql+psycopg://…` or `sqlite:///…`.

    Returns:
        How many rows each table has.

    Raises:
        Conflict: `workers_running`, `target_not_empty`, `same_database`.
        Invalid: `invalid_database_url`, `nothing_to_move`, `target_refuses`.
        Corrupt: `copy_differs`; nothing was committed.
        Unavailable: one of them cannot be reached.
    """
    url = target_url(url)
    _require_source(settings, url)
    source, target = Database(settings.database), Database(url)
    try:
        _wait_for_quiet(source, settings.jobs)  # first: workers of an older version do not know a newer schema
        migrate(settings)
        try:
            migrate(settings.model_copy(update={"database_url": SecretStr(url)}))
            with source.transaction() as here, target.transaction() as there:
                _refuse_writers(here)
                counts = _copy_all(here, there)
        except DBAPIError as error:
            reason = str(error.orig).partition("\n")[0]
            raise Invalid("target_refuses", f"The database refuses: {reason}", "Nothing was moved.") from error
        return counts
    finally:
        source.close()
        target.close()


def target_url(url: str) -> str:
    """As SQLAlchemy wants it; what other programs call `postgres://` is taken, too.

    Raises:
        Invalid
    """
    scheme, _, rest = url.strip().partition("://")
    whole = f"{POSTGRESQL}{rest}" if scheme in ("postgres", "postgresql") else url.strip()
    hint = f"Such as {POSTGRESQL}USER:PASSWORD@HOST/DATABASE"
    if not whole.startswith((SQLITE, POSTGRESQL)):
        raise Invalid("invalid_database_url", "That is no URL of PostgreSQL or SQLite.", hint)
    try:
        make_url(whole)
    except (ArgumentError, ValueError) as error:
        raise Invalid("invalid_database_url", "That URL cannot be read.", hint) from error
    return whole


def shown(url: str) -> str:
    """Without its password."""
    return make_url(target_url(url)).render_as_string()


def _require_source(settings: Settings, url: str) -> None:
    """Raises: Conflict, Invalid."""
    if make_url(settings.database) == make_url(url):
        hint = "MODELYARD_DATABASE_URL names the present one; give the URL of another."
        raise Conflict("same_database", "The service uses that database already.", hint)
    file = settings.database.removeprefix(SQLITE)
    if file != settings.database and not Path(file).exists():
        hint = "Set MODELYARD_DATA_DIR or MODELYARD_DATABASE_URL as the service has them."
        raise Invalid("nothing_to_move", f"There is no database at {file}.", hint)


def _wait_for_quiet(source: Database, jobs: JobSettings) -> None:
    """Workers look for lost jobs, and say that they live, all the time: whoever is silent for long enough is gone.

    Raises:
        Conflict: a new sign of life came.
    """
    with source.reading() as session:
        if not inspect(session.connection()).has_table("jobs"):
            return  # nobody has used it yet
    first, age = _last_sign(source, jobs)
    quiet = QUIET_TURNS * jobs.rescue_seconds
    while age < quiet:
        time.sleep(LOOK_SECONDS)
        last, age = _last_sign(source, jobs)
        if last > first:
            hint = "Stop the service (every worker of it), then type this again."
            raise Conflict("workers_running", "Workers use the present database.", hint)


def _last_sign(source: Database, jobs: JobSettings) -> tuple[float, float]:
    """When a worker last wrote something, and how many seconds ago that is; by the clock of the database."""
    device = SQLModel.metadata.tables["devices"]
    signs = (
        select(func.max(ScheduleRun.ran_at)),
        select(func.max(device.c.seen_at)),
        select(func.max(Job.lease_until) - jobs.lease_seconds).where(col(Job.state) == JobState.RUNNING),
    )
    with source.reading() as session:
        moments = [session.execute(each).scalar_one() for each in signs]
        clock = session.execute(select(now())).scalar_one()
    last = max((moment for moment in moments if moment is not None), default=0.0)
    return last, clock - last


def _refuse_writers(here: Connection) -> None:
    """Nobody writes to what is being copied; SQLite's transaction does that by itself."""
    if here.dialect.name == "postgresql":
        _take_time(here)
        for table in _tables():
            here.execute(text(f"LOCK TABLE {table.name} IN SHARE MODE"))


def _take_time(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        for name in UNHURRIED:
            connection.execute(text(f"SET LOCAL {name} = 0"))


def _tables() -> list[Table]:
    """Those that others refer to come first."""
    return list(SQLModel.metadata.sorted_tables)


def _copy_all(here: Connection, there: Connection) -> dict[str, int]:
    """Raises: Conflict, Corrupt."""
    _take_time(there)
    counts: dict[str, int] = {}
    with _without_triggers(there):
        for table in _tables():
            if there.execute(select(table).limit(1)).first() is not None:
                hint = "Give the URL of an empty one. Nothing was changed."
                raise Conflict("target_not_empty", f"That database has rows already, in {table.name}.", hint)
        for table in _tables():
            _copy(here, there, table)
            counts[table.name] = _compare(here, there, table)
            _go_on_counting(there, table)
    return counts


def _copy(here: Connection, there: Connection, table: Table) -> None:
    """Raises: Invalid."""
    try:
        for rows in _in_parts(here, table):
            there.execute(insert(table), [dict(row._mapping) for row in rows])  # noqa: SLF001 - its public name
    except DataError as error:
        reason = str(error.orig).partition("\n")[0]
        message = f"A row of {table.name} cannot be stored there: {reason}"
        raise Invalid("target_refuses", message, "Nothing was moved; mend or delete that row first.") from error


def _in_parts(connection: Connection, table: Table) -> Iterator[Iterable[Row[Any]]]:
    with connection.execute(select(table).execution_options(yield_per=AT_ONCE)) as rows:
        yield from rows.partitions()


def _compare(here: Connection, there: Connection, table: Table) -> int:
    """How many rows both have.

    Raises:
        Corrupt: they are not the same rows.
    """
    count, digest = _digest(here, table)
    copied, its_digest = _digest(there, table)
    if (count, digest) != (copied, its_digest):
        message = f"Of {count} rows in {table.name}, {copied} arrived, and they do not read as they did."
        raise Corrupt("copy_differs", message, "Nothing was moved; the present database is untouched.")
    return count


def _digest(connection: Connection, table: Table) -> tuple[int, int]:
    """Number of rows, and the sum of their digests: the two databases sort text in different ways."""
    count = total = 0
    for rows in _in_parts(connection, table):
        for row in rows:
            count += 1
            total += int.from_bytes(hashlib.sha256(repr(_plain(row._mapping)).encode()).digest())  # noqa: SLF001 - as above
    return count, total % 2 ** (8 * DIGEST_BYTES)


def _plain(row: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in row.items()]


def _go_on_counting(there: Connection, table: Table) -> None:
    """Numbers that PostgreSQL gives by itself go on after those that were copied."""
    if there.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        if not isinstance(column.type, Integer):
            continue
        name = there.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar_one()
        if name is not None and (last := there.execute(select(func.max(column))).scalar_one()) is not None:
            there.execute(select(func.setval(name, last)))


@contextmanager
def _without_triggers(there: Connection) -> Iterator[None]:
    """Rows that are copied happened long ago: nobody is told of them. The locks keep everybody else out meanwhile."""
    if there.dialect.name == "postgresql":
        for table in _tables():
            there.execute(text(f"ALTER TABLE {table.name} DISABLE TRIGGER USER"))
        yield
        for table in _tables():
            there.execute(text(f"ALTER TABLE {table.name} ENABLE TRIGGER USER"))
        return
    made = there.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    for name, _ in made:
        there.execute(text(f"DROP TRIGGER {name}"))
    yield
    for _, sql in made:
        there.exec_driver_sql(sql)
