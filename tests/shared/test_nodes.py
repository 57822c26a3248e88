"""Which machines there are, and which of them a job goes to."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlmodel import select

import shared.db
from shared.contracts import Bundle, Cleanup, Download, Restore, SourceCheck, Switch, Verify
from shared.db import devices, lanes, nodes, residency
from shared.db.reports import Device, Node, StoreReport
from shared.db.schema import migrate
from shared.db.session import Database
from shared.db.tables import Installation, Residency
from shared.errors import Conflict, NotFound
from shared.jobs import Ledger
from shared.progress import Leases, Workers
from shared.queues import store_lane
from shared.settings import JobSettings, Settings
from shared.states import ResidencyState
from workers.job import Services
from workers.residency.failover import Failover
from workers.store.layout import Layout

HUT, BARN = "a" * 32, "b" * 32


def joined(ledger: Ledger, name: str, store: str, *, memory: int = 1, machine: str = "") -> None:
    with ledger.database.session() as session:
        node = Node(name=name, machine=machine or name, store=store, seen_at=0.0)
        nodes.check_name(session, node, cpu=True)
        nodes.report(session, node, io=True)
        one = Device(id=f"cpu-{name}", kind="cpu", name=name, node=name, memory_total=memory, seen_at=0.0)
        devices.report(session, one)


def silent(ledger: Ledger, name: str) -> None:
    with ledger.database.session() as session:
        for statement in (
            "UPDATE nodes SET seen_at = seen_at - 3600, io_seen_at = io_seen_at - 3600 WHERE name = :name",
            "UPDATE devices SET seen_at = seen_at - 3600 WHERE node = :name",
        ):
            session.execute(text(statement), {"name": name})


def installed(ledger: Ledger, model_id: str, store: str | None) -> None:
    with ledger.database.session() as session:
        session.add(
            Installation(
                model_id=model_id, model_type="llm", revision="r1", state="published", store=store, path="/", size=1,
                files=1, integrity=1.0, published_at=1.0, verified_at=1.0,
            )
        )  # fmt: skip


def lane(ledger: Ledger, contract: object) -> str:
    return ledger.lane_of(contract)  # type: ignore[arg-type] # any of them


@pytest.fixture
def services(ledger: Ledger, settings: Settings, tmp_path: Path) -> Services:
    layout, client = Layout(tmp_path / "store"), ledger.events.client
    layout.ensure()
    often = settings.model_copy(update={"jobs": JobSettings(rescue_seconds=0.001)})
    return Services(
        often, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger, layout, "me"
    )  # fmt: skip


@pytest.fixture
def two(ledger: Ledger) -> Ledger:
    """Two machines, each with its store, and a model in each; barn has the better device."""
    joined(ledger, "hut", HUT)
    joined(ledger, "barn", BARN, memory=2)
    installed(ledger, "one", HUT)
    installed(ledger, "two", BARN)
    return ledger


def test_with_one_store_every_job_on_files_stays_in_the_lane_of_all(ledger: Ledger) -> None:
    assert lane(ledger, Verify(model_id="one")) == "io"
    for name in ("hut", "shed"):
        joined(ledger, name, HUT)
    installed(ledger, "one", HUT)
    for contract in (Verify(model_id="one"), Download(model_id="two", node="shed"), Cleanup()):
        assert lane(ledger, contract) == "io"
    with pytest.raises(NotFound):
        lane(ledger, Cleanup(node="attic"))


def test_with_two_stores_a_job_on_files_goes_to_those_who_reach_them(two: Ledger) -> None:
    assert lane(two, Verify(model_id="one")) == store_lane(HUT)
    assert lane(two, Verify(model_id="two")) == store_lane(BARN)
    assert lane(two, Download(model_id="three")) == store_lane(BARN), "beside the best device"
    assert lane(two, Download(model_id="three", node="hut")) == store_lane(HUT)
    assert lane(two, Cleanup(node="hut")) == store_lane(HUT)
    assert lane(two, SourceCheck(model_id="one")) == "io", "touches no file"
    assert lane(two, Bundle(name="a.tar", models=["one"])) == store_lane(HUT)
    assert (lane(two, Switch(model_id="one")), lane(two, Switch(model_id="two"))) == (
        "device.cpu-hut", "device.cpu-barn",
    )  # fmt: skip
    with two.database.session() as session:
        trashed = {"trashed": [{"id": "entry"}]}
        session.add(StoreReport(store=HUT, node="hut", report=trashed, measured_at=1.0))
    assert lane(two, Restore(model_id="three", entry="entry")) == store_lane(HUT)


@pytest.mark.parametrize(
    ("contract", "refusal", "code"),
    [
        (Download(model_id="one", node="barn"), Conflict, "model_elsewhere"),
        (Download(model_id="three", node="attic"), NotFound, "unknown_node"),
        (Bundle(name="a.tar", models=["one", "two"]), Conflict, "models_apart"),
    ],
)
def test_what_no_machine_can_do_is_refused(two: Ledger, contract: object, refusal: type, code: str) -> None:
    with pytest.raises(refusal) as caught:
        lane(two, contract)
    assert caught.value.code == code


def test_a_model_in_a_store_that_nobody_has_any_more_is_anybodys(two: Ledger) -> None:
    with two.database.session() as session:
        session.execute(text("UPDATE installations SET store = 'gone' WHERE model_id = 'one'"))
    assert lane(two, Verify(model_id="one")) == store_lane(BARN)
    with two.database.reading() as session:
        assert session.exec(select(Installation.model_id).where(nodes.lies_in(HUT))).all() == ["one"]


def test_a_name_that_another_machine_bears_is_refused(two: Ledger) -> None:
    with pytest.raises(Conflict) as caught:
        joined(two, "hut", HUT, machine="another")
    assert caught.value.code == "node_taken"
    silent(two, "hut")
    joined(two, "hut", HUT, machine="another")


def test_what_waits_for_a_silent_machine_goes_on_elsewhere_or_says_so(two: Ledger, services: Services) -> None:
    free, bound = (two.submit(each, origin="test").job for each in (Download(model_id="three"), Verify(model_id="two")))
    look, late = Failover(services), Failover(services)
    look()
    silent(two, "barn")
    late()
    with two.database.reading() as session:
        there = [job.error for job in lanes.waiting_in(session, [store_lane(BARN)])]
    assert there == [None, None], "who has just started waits for the others to start"
    look()
    with two.database.reading() as session:
        moved, waits = lanes.waiting_in(session, [store_lane(HUT)]), lanes.waiting_in(session, [store_lane(BARN)])
        assert [job.id for job in moved] == [free.id]
        assert [job.id for job in waits] == [bound.id]
        assert (waits[0].error or {})["code"] == "node_away"
        assert lanes.waiting_counts(session) == {"barn": 1}
        away = nodes.away(session)
    assert (away.hold("store", BARN), away.hold("store", HUT)) == (True, False)


@pytest.mark.parametrize(("store", "where"), [(BARN, "device.cpu-shed"), (HUT, None)])
def test_what_a_silent_machine_served_is_loaded_beside_the_same_store(
    two: Ledger, services: Services, store: str, where: str | None
) -> None:
    joined(two, "shed", store)
    with two.database.session() as session:
        session.add(
            Residency(
                id="r", model_id="two", model_type="llm", revision="r1", device="cpu-barn", runtime="torch",
                state=ResidencyState.READY, active=True, started_at=1.0, pid=1,
            )
        )  # fmt: skip
    look = Failover(services)
    look()
    silent(two, "barn")
    look()
    with two.database.reading() as session:
        assert [row.state for row in residency.lost(session, "cpu-barn")] == [ResidencyState.LOST]
        assert [row.pid for row in residency.left_behind(session, "cpu-barn")] == [1], "it is ended once barn is back"
        found = session.execute(text("SELECT lane FROM jobs WHERE kind = 'model.switch'")).scalars().all()
    assert found == ([where] if where else [])


def test_the_cpu_of_a_machine_that_had_a_name_gets_it_with_the_upgrade(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    database = Database(settings.database)
    config = Config()
    config.set_main_option("script_location", str(Path(shared.db.__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0029")
    database.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "modelyard.db")) as connection:
        connection.execute(
            "INSERT INTO devices (id, kind, name, node, memory_total, details, seen_at) "
            "VALUES ('cpu', 'cpu', 'CPU', 'lab', 1, '{}', 1)"
        )
        connection.execute("INSERT INTO store_reports VALUES ('s1', 'lab', 1, '{}', 1)")
        connection.execute(
            "INSERT INTO jobs (id, kind, lane, priority, urgency, aged, args, origin, state, desired, attempt, lost, "
            "retries, ticket, not_before, parts, created_at, sent_at) VALUES "
            "('j', 'model.load', 'device.cpu', 1, 1, 0, '{}', 'rest', 'queued', 'run', 0, 0, 0, 1, 0, '[]', 1, 1)"
        )
        connection.commit()
    migrate(settings)
    with contextlib.closing(sqlite3.connect(tmp_path / "modelyard.db")) as connection:
        assert connection.execute("SELECT id FROM devices").fetchall() == [("cpu-lab",)]
        assert connection.execute("SELECT lane, ticket, sent_at FROM jobs").fetchall() == [("device.cpu-lab", 2, None)]
