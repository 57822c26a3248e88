"""Old and new versions side by side, as an upgrade leaves them for a while."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text, update
from sqlmodel import col

from shared.broker import Broker, make_app
from shared.contracts import KINDS, Verify
from shared.db.schema import migrate
from shared.db.session import Database
from shared.db.tables import Job
from shared.errors import Conflict
from shared.jobs import Ledger
from shared.progress import Events, connect
from shared.settings import Settings
from shared.states import JobState
from tests.faults.conftest import Street
from tests.faults.house import House
from tests.faults.short_jobs import EFFECTS, Note

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def house(street: Street) -> House:
    return street.house("sqlite")


@pytest.fixture
def newer(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger of an API that knows one kind more than the workers do."""
    monkeypatch.setitem(KINDS, Note.kind, Note)
    app = make_app(house.settings, publisher=True)
    client = connect(house.settings.redis)
    yield Ledger(house.ledger, house.settings.jobs, Broker(app), Events(client, house.settings.redis))
    client.close()
    app.close()


@pytest.mark.fault("F-29")
def test_a_kind_of_a_newer_version_waits_for_a_newer_worker(house: House, newer: Ledger, tmp_path: Path) -> None:
    job_id = newer.submit(Note(model_id=f"note-{uuid.uuid4().hex[:8]}"), origin="test").job.id
    house.done("/api/v1/models/download", {"model_id": _known(house)})
    assert house.job(job_id).state == JobState.QUEUED, "an older worker leaves it alone"
    environment = {**psutil.Process(house.pid("io")).environ(), EFFECTS: str(tmp_path / "effects")}
    quiet = subprocess.DEVNULL
    command = (sys.executable, "-m", "tests.faults.short_jobs")
    worker = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, cwd=Path(__file__).parents[2])
    try:
        job = house.ended(job_id)
    finally:
        worker.terminate()
        worker.wait()
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


@pytest.mark.fault("F-29")
def test_an_argument_of_a_newer_version_is_refused_not_ignored(house: House, newer: Ledger) -> None:
    job = newer.submit(Verify(model_id=_known(house)), origin="test", ask=None).job
    house.ended(job.id)
    changed = update(Job).where(col(Job.id) == job.id).values(
        args={**job.args, "shiny": True}, state=JobState.FAILED, finished_at=1.0
    )  # fmt: skip
    with house.ledger.session() as session:
        session.exec(changed)
    newer.retry(job.id)
    ended = house.ended(job.id)
    assert (ended.state, ended.error and ended.error["code"]) == (JobState.FAILED, "invalid_arguments")
    assert "shiny" in (ended.error or {})["message"]


@pytest.mark.fault("F-29")
def test_a_database_of_a_newer_version_is_refused_at_the_start(settings: Settings) -> None:
    database = Database(settings.database)
    try:
        with database.session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(Conflict) as refused:
            migrate(settings)
        assert refused.value.code == "database_newer"
        with database.reading() as session:
            assert session.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    finally:
        database.close()


def _known(house: House) -> str:
    house.pull("known", "tiny/elm")
    return "known"
