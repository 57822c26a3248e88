"""Everything of one database is in another, or nothing is: SQLite to PostgreSQL and back, on real servers."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import insert, inspect, select, text
from sqlmodel import SQLModel

from shared.db import audit, transfer
from shared.db.audit import Actor, Chain, Change
from shared.db.schema import migrate
from shared.db.session import Database, now
from shared.errors import Conflict, Invalid, ModelyardError
from shared.settings import JobSettings, Settings

TABLES = SQLModel.metadata.tables
QUIET = JobSettings(rescue_seconds=0.2)
"""Half a second of silence is enough."""
ENTRIES = 30
PAST = 1_700_000_000.123456


def on(url: str) -> Settings:
    return Settings(database_url=SecretStr(url), jobs=QUIET)


@pytest.fixture
def target(postgres_url: str) -> Iterator[str]:
    """An empty database of the real server."""
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("DROP DATABASE IF EXISTS moved WITH (FORCE)")
        server.execute("CREATE DATABASE moved")
        yield f"{postgres_url.rpartition('/')[0]}/moved"
        server.execute("DROP DATABASE IF EXISTS moved WITH (FORCE)")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a row in every table, its hardest values among them."""
    path = tmp_path_factory.mktemp("full") / "modelyard.db"
    url = f"sqlite:///{path}"
    migrate(on(url))
    database = Database(url)
    with database.transaction() as connection:
        for table in SQLModel.metadata.sorted_tables:
            numbers = {"webhook_events": (), "audit_log": (), "schedule_runs": range(transfer.AT_ONCE + 1)}
            for number in numbers.get(table.name, range(3)):
                connection.execute(insert(table).values(**filled(table, number)))
        connection.execute(text("DELETE FROM webhook_events"))
        connection.execute(insert(TABLES["webhook_events"]), [filled(TABLES["webhook_events"], n) for n in (3, 9)])
        for number in range(ENTRIES):
            audit.append(connection, Change("model.add", f"m{number}", {"näme": "𝄞", "size": 2**53 + 1}), Actor("rest"))
    database.close()
    return path


@pytest.fixture
def source(full: Path, tmp_path: Path) -> str:
    with sqlite3.connect(full) as original, sqlite3.connect(tmp_path / "modelyard.db") as copied:
        original.backup(copied)
    return f"sqlite:///{tmp_path / 'modelyard.db'}"


def filled(table: Any, number: int) -> dict[str, Any]:
    """A row with something in every column; other numbers make other keys."""
    return {column.name: value(column, number) for column in table.columns}


def value(column: Any, number: int) -> Any:
    name = column.type.__class__.__name__
    if column.foreign_keys:
        return f"{number}-é𝄞"
    if name == "JSON":
        return None if column.nullable and number == 2 else {"b": [1.5, None, True, "é𝄞"], "a": {"deep": 2**60}}
    if name == "Boolean":
        return column.name not in ("active", "is_mode") and number % 2 == 0
    if name in ("Integer", "BigInteger"):
        big = name == "BigInteger" and not column.primary_key
        return number + (2**62 if big else 1)
    if name == "Float":
        return PAST + number / 3
    return f"{number}-é𝄞"


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    database = Database(url)
    with database.reading() as session:
        found = {
            name: sorted((dict(row._mapping) for row in session.execute(select(table))), key=repr)
            for name, table in TABLES.items()
        }
    database.close()
    return found


def refusal(settings: Settings, url: str) -> ModelyardError:
    with pytest.raises(ModelyardError) as caught:
        transfer.transfer(settings, url)
    return caught.value


def test_the_copy_is_of_every_table_that_migrations_make(source: str) -> None:
    database = Database(source)
    made = set(inspect(database.engine).get_table_names()) - {"alembic_version"}
    database.close()
    assert set(TABLES) == made


def test_every_row_arrives_as_it_was(source: str, target: str) -> None:
    before = rows(source)
    counts = transfer.transfer(on(source), target)
    assert counts == {name: len(found) for name, found in before.items()}
    assert min(counts.values()) > 0, "a table without a row shows nothing"
    assert rows(target) == before == rows(source)


def test_and_back(source: str, target: str, tmp_path: Path) -> None:
    before = rows(source)
    transfer.transfer(on(source), target)
    again = f"sqlite:///{tmp_path / 'again.db'}"
    transfer.transfer(on(target), again)
    assert rows(again) == before
    names = "SELECT name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') ORDER BY name"
    with sqlite3.connect(tmp_path / "again.db") as one, sqlite3.connect(tmp_path / "modelyard.db") as other:
        assert one.execute(names).fetchall() == other.execute(names).fetchall()


def test_the_audit_log_is_whole_there_and_stays_as_it_is(source: str, target: str) -> None:
    transfer.transfer(on(source), target)
    database = Database(target)
    with database.session() as session:
        audit.append(session.connection(), Change("model.add", "later", {}), Actor("rest"))
    with database.reading() as session:
        chain = Chain()
        told = [audit.told(entry) | {"hash": entry.hash} for entry in audit.entries(session, forward=True, limit=1000)]
        assert audit.broken(told, chain) is None
        assert chain.rows == ENTRIES + 1
    with pytest.raises(Exception, match="do not change"), database.transaction() as connection:
        connection.execute(text("UPDATE audit_log SET target = 'x' WHERE seq = 1"))
    database.close()


def test_receivers_hear_of_what_happens_there_and_not_of_the_copy(source: str, target: str) -> None:
    transfer.transfer(on(source), target)
    database = Database(target)
    with database.transaction() as connection:
        connection.execute(text("UPDATE webhooks SET enabled = true, wants = ',*,'"))
        connection.execute(text("UPDATE jobs SET state = 'failed' WHERE id LIKE '0-%'"))
        numbers = connection.execute(text("SELECT seq, type FROM webhook_events ORDER BY seq")).all()
    database.close()
    assert [tuple(each) for each in numbers] == [(4, "3-é𝄞"), (10, "9-é𝄞"), (11, "job.failed")], "and no copied row"


def test_a_database_with_rows_is_left_alone(source: str, target: str) -> None:
    transfer.transfer(on(source), target)
    before = rows(target)
    refused = refusal(on(source), target)
    assert refused.code == "target_not_empty"
    assert rows(target) == before


def test_while_workers_run_nothing_is_copied(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that lives writes again and again: here, whenever the mover looks."""
    look, turns = transfer._last_sign, iter(range(1000))

    def looked(database: Database, jobs: JobSettings) -> tuple[float, float]:
        with database.transaction() as connection:
            slot = {"name": "rescue", "slot": next(turns), "finished_at": None, "outcome": None}
            connection.execute(insert(TABLES["schedule_runs"]).values(**slot, ran_at=now()))
        return look(database, jobs)

    monkeypatch.setattr(transfer, "_last_sign", looked)
    with sqlite3.connect(source.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0025'")
    refused = refusal(on(source), target)
    assert (type(refused), refused.code) == (Conflict, "workers_running")
    with sqlite3.connect(source.removeprefix("sqlite:///")) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert version == "0025", "workers of an older version go on with the schema that they know"


@pytest.mark.parametrize("sign", ["job", "device", "rescue"])
def test_every_sign_of_life_is_one(source: str, sign: str) -> None:
    database = Database(source)
    with database.transaction() as connection:
        clock = connection.execute(select(now())).scalar_one()
        if sign == "job":
            row = TABLES["jobs"].update().where(TABLES["jobs"].c.id.startswith("0-"))
            connection.execute(row.values(state="running", lease_until=clock + 20))
        elif sign == "device":
            connection.execute(TABLES["devices"].update().values(seen_at=clock))
        else:
            connection.execute(TABLES["schedule_runs"].update().values(ran_at=clock))
    last, age = transfer._last_sign(database, JobSettings(lease_seconds=20))
    database.close()
    assert last == pytest.approx(clock, abs=1)
    assert age >= -1


def test_a_worker_that_was_killed_long_ago_holds_nothing_up(source: str, target: str) -> None:
    database = Database(source)
    with database.transaction() as connection:
        connection.execute(TABLES["jobs"].update().values(state="running", lease_until=PAST))
    database.close()
    assert sum(transfer.transfer(on(source), target).values()) > transfer.AT_ONCE


def test_what_the_other_cannot_hold_is_named_and_nothing_arrives(source: str, target: str) -> None:
    database = Database(source)
    with database.transaction() as connection:
        connection.execute(TABLES["webhooks"].update().values(secret_check="x" * 99))
    database.close()
    refused = refusal(on(source), target)
    assert refused.code == "target_refuses"
    assert "webhooks" in refused.message
    assert not any(rows(target).values()), "one transaction: all of it or nothing"


def test_a_copy_that_reads_otherwise_is_not_kept(source: str, target: str) -> None:
    """A trigger of theirs that we know nothing of, and that no owner may switch off, would be such a reason; so is a
    rule that eats rows."""
    migrate(on(target))
    with psycopg.connect(target.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("CREATE RULE eaten AS ON INSERT TO model_names DO INSTEAD NOTHING")
    refused = refusal(on(source), target)
    assert refused.code == "copy_differs"
    assert not any(rows(target).values())


@pytest.mark.parametrize("url", ["mysql://x/y", "postgresql+psycopg", "", "/tmp/x.db", "postgresql://h:port/db"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        transfer.target_url(url)
    assert caught.value.code == "invalid_database_url"


def test_urls_of_other_programs_are_taken_and_no_password_is_shown() -> None:
    assert transfer.target_url("postgres://u:p@h/d") == "postgresql+psycopg://u:p@h/d"
    assert transfer.shown("postgresql://u:hidden@h/d") == "postgresql+psycopg://u:***@h/d"


def test_the_same_database_and_one_that_is_not_there(source: str, tmp_path: Path) -> None:
    assert refusal(on(source), source).code == "same_database"
    unused = tmp_path / "unused.db"
    unused.touch()
    assert set(transfer.transfer(on(f"sqlite:///{unused}"), f"sqlite:///{tmp_path / 'other.db'}").values()) == {0}
    (damaged := tmp_path / "damaged.db").write_bytes(b"no database" * 1000)
    assert refusal(on(f"sqlite:///{damaged}"), "sqlite:////tmp/x.db").code == "database_damaged"
    nowhere = tmp_path / "nowhere.db"
    assert refusal(on(f"sqlite:///{nowhere}"), "sqlite:////tmp/x.db").code == "nothing_to_move"
    assert not nowhere.exists()
