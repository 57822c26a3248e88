"""The chain of the audit log: one chain whoever writes, and no change of it that is not found."""

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, select, update

from shared.contracts import Remove, Verify
from shared.db import audit
from shared.db.audit import ACTING, START, Acting, Actor, Chain, Change, append, broken, digest, told
from shared.db.redaction import HIDDEN, redacted
from shared.db.session import Database
from shared.db.tables import LimitRow, Model
from shared.errors import Conflict
from shared.jobs import Ledger

WHO = Actor("rest", "key", "0a1b2c3d", "127.0.0.1")


def write(database: Database, action: str, target: str | None = None, **details: Any) -> None:
    with database.transaction() as connection:
        append(connection, Change(action, target, details), WHO)


def rows(database: Database) -> list[dict[str, Any]]:
    with database.reading() as session:
        found = audit.entries(session, forward=True, limit=1000)
    return [{**told(entry), "hash": entry.hash} for entry in found]


def tamper(database: Database, statement: str) -> None:
    """As somebody does who may do anything to the database."""
    with database.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            for name in ("audit_log_stays", "audit_log_kept"):
                connection.execute(text(f"DROP TRIGGER IF EXISTS {name}"))
        else:
            connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER ALL"))
        connection.execute(text(statement))
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_log ENABLE TRIGGER ALL"))


def test_rows_are_a_chain_that_anybody_can_check(database: Database) -> None:
    write(database, "limit.set", "office", bytesPerSecond=20_000_000, at=0.1)
    write(database, "model.remove", "acorn", text="ünicode ✓")
    first, second = rows(database)
    assert (first["seq"], first["previous"]) == (1, START)
    assert (second["seq"], second["previous"]) == (2, first["hash"])
    for row in (first, second):
        travelled = json.loads(json.dumps(row))  # as it comes over HTTP
        assert digest(travelled) == row["hash"]
    assert broken([first, second], Chain()) is None


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE audit_log SET target = 'birch' WHERE seq = 3", 3),
        ("UPDATE audit_log SET details = '{\"n\": 7}' WHERE seq = 3", 3),
        ("UPDATE audit_log SET at = at + 1 WHERE seq = 5", 5),
        ("UPDATE audit_log SET origin = 'foreign' WHERE seq = 1", 1),
        ("UPDATE audit_log SET hash = previous WHERE seq = 2", 2),
        ("DELETE FROM audit_log WHERE seq = 3", 4),
        ("DELETE FROM audit_log WHERE seq <= 2", 3),
    ],
)
def test_the_first_row_that_is_not_as_it_was_is_found(database: Database, statement: str, seq: int) -> None:
    for number in range(5):
        write(database, "model.pin", "acorn", n=number)
    tamper(database, statement)
    fault = broken(rows(database), Chain())
    assert fault is not None
    assert fault[0] == seq


def test_a_row_that_was_rewritten_with_its_hash_breaks_the_next_one(database: Database) -> None:
    for number in range(3):
        write(database, "model.pin", "acorn", n=number)
    forged = rows(database)[1] | {"target": "birch"}
    tamper(database, f"UPDATE audit_log SET target = 'birch', hash = '{digest(forged)}' WHERE seq = 2")
    assert broken(rows(database), Chain()) == (3, "it does not carry the hash of the row before it")


def test_the_database_lets_no_row_be_changed_or_deleted(database: Database) -> None:
    write(database, "model.pin", "acorn")
    for statement in ("UPDATE audit_log SET target = 'birch'", "DELETE FROM audit_log"):
        with pytest.raises(DBAPIError, match="do not change"), database.engine.begin() as connection:
            connection.execute(text(statement))
    assert [row["target"] for row in rows(database)] == ["acorn"]


def test_writers_at_once_make_one_chain(database: Database, settings: Any) -> None:
    """Each with connections of its own, as processes have them."""
    others = [Database(settings.database) for _ in range(4)]
    ready, wrong = threading.Barrier(len(others)), []

    def work(own: Database, name: str) -> None:
        ready.wait()
        for number in range(10):
            try:
                write(own, "model.pin", name, n=number)
            except Exception as error:  # noqa: BLE001 - told below
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(own, f"w{at}")) for at, own in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in others:
        own.close()
    found = rows(database)
    assert wrong == []
    assert [row["seq"] for row in found] == list(range(1, 41))
    assert broken(found, Chain()) is None
    assert {row["target"] for row in found} == {"w0", "w1", "w2", "w3"}


def test_what_is_not_committed_leaves_no_row(settings: Any) -> None:
    database = Database(settings.database, audit.witness)
    acting = Acting(WHO, Change("limit.set", "office", {}))
    token = ACTING.set(acting)
    try:
        with pytest.raises(RuntimeError), database.session():
            raise RuntimeError
        assert rows(database) == []
        assert audit.waits()
        with database.session() as session:
            session.exec(select(Model)).all()
            session.exec(update(Model).where(col(Model.id) == "nobody").values(name="x"))
        assert rows(database) == [], "nothing was changed"
        for number in range(2):
            with database.session() as session:
                session.add(LimitRow(name=f"office {number}", created_at=0.0, jobs=1))
    finally:
        ACTING.reset(token)
    assert [row["action"] for row in rows(database)] == ["limit.set"], "once, however many transactions there are"
    database.close()


def test_a_job_is_written_down_with_whoever_asked(ledger: Ledger) -> None:
    ledger.submit(Verify(model_id="one"), origin="rest")
    removal = ledger.submit(Remove(model_id="one"), origin="rest").job
    assert ledger.submit(Remove(model_id="one"), origin="rest").job.id == removal.id
    ledger.adopt(Remove(model_id="two"), origin="foreign", priority=None, job_id="theirs", here="io")
    ledger.adopt(Remove(model_id="two"), origin="foreign", priority=None, job_id="theirs", here="io")
    first, second = rows(ledger.database)
    assert (first["action"], first["target"], first["origin"]) == ("model.remove", "one", "rest")
    assert first["details"]["job_id"] == removal.id
    assert (second["origin"], second["target"], second["details"]["job_id"]) == ("foreign", "two", "theirs")


def test_an_archive_lets_rows_go_and_the_chain_goes_on(settings: Any) -> None:
    database = Database(settings.database, audit.witness)
    for number in range(5):
        write(database, "model.pin", "acorn", n=number)
    before = rows(database)
    for seq, hash_ in ((3, "0" * 64), (9, before[2]["hash"]), (5, before[4]["hash"])):
        with pytest.raises(Conflict), database.session() as session:
            audit.archive(session, seq, hash_)
    assert rows(database) == before
    token = ACTING.set(Acting(WHO, Change(audit.ARCHIVE, "3", {"hash": before[2]["hash"]})))
    try:
        with database.session() as session:
            assert audit.archive(session, 3, before[2]["hash"]) == 3
    finally:
        ACTING.reset(token)
    left = rows(database)
    assert [row["seq"] for row in left] == [4, 5, 6]
    assert broken(left, Chain()) is None
    write(database, "model.pin", "acorn")
    assert broken(rows(database), Chain()) is None
    with pytest.raises(DBAPIError), database.engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_log WHERE seq = 4"))
    tamper(database, "DELETE FROM audit_log WHERE seq = 4")
    assert broken(rows(database), Chain()) == (5, "rows 1 to 4 are missing, and no archive has them")
    database.close()


@pytest.mark.parametrize(
    ("given_", "written"),
    [
        ({"source_url": "https://me:pw@h.example/x?token=abc#f"}, {"source_url": f"https://h.example/x?{HIDDEN}"}),
        ({"url": "https://hooks.example/services/T0/B0/key?a=b"}, {"url": f"https://hooks.example/{HIDDEN}"}),
        ({"url": "https://h.example"}, {"url": "https://h.example"}),
        ({"text": "see https://h.example/a?k=v now"}, {"text": f"see https://h.example/a?{HIDDEN} now"}),
        ({"secret": "s", "hfToken": "t", "api_key": "k", "Authorization": "a", "password": ["p"]},
         dict.fromkeys(("secret", "hfToken", "api_key", "Authorization", "password"), HIDDEN)),
        ({"max_tokens": 7, "tokenizer": "x", "monkey": "y"}, {"max_tokens": 7, "tokenizer": "x", "monkey": "y"}),
        ({"config": {"nested": [{"token": "t"}]}}, {"config": {"nested": [{"token": HIDDEN}]}}),
        ({"a": "x" * 1000}, {"a": "x" * 300 + "… 1000 characters"}),
        ({"a": list(range(30))}, {"a": [*range(20), "… 30 in all"]}),
        ({"source": "https://[bad"}, {"source": HIDDEN}),
    ],
)  # fmt: skip
def test_secrets_are_not_written(given_: dict[str, Any], written: dict[str, Any]) -> None:
    assert redacted(given_) == written


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(TEXTS, JSONS, max_size=4))
def test_the_hash_outlives_the_way_over_json(details: dict[str, Any]) -> None:
    row = {"seq": 1, "details": redacted(details)}
    assert digest(json.loads(json.dumps(row))) == digest(row)
