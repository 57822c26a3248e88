"""The scrub: reads what was proven longest ago, convicts what is damaged, and has it repaired."""

import os
import time

import pytest
from sqlmodel import col, delete, update

from shared.contracts import Repair, Scrub
from shared.db import jobs
from shared.db.tables import Installation, ScheduleRun
from shared.errors import Conflict, MadeWay
from shared.points import reached
from shared.schedules import DAY
from shared.states import JobState
from tests.factories.repository import make_repository
from tests.workers.jobs.conftest import Place
from workers.job import BODIES, Work
from workers.jobs.verify import look_before_load
from workers.upkeep import keep_schedules

MIB = 1024**2


@pytest.fixture
def oak(place: Place) -> Place:
    make_repository(place.repositories / "tiny" / "oak", first=MIB, second=MIB)
    place.pull("oak", "tiny/oak")
    return place


def age(place: Place, model_id: str, days: float) -> None:
    with place.services.database.session() as session:
        when = Installation.verified_at - days * DAY
        session.exec(update(Installation).where(col(Installation.model_id) == model_id).values(verified_at=when))


def queued(place: Place, kind: str) -> list[str | None]:
    with place.services.database.reading() as session:
        return [job.model_id for job in jobs.find(session, kind=kind, state=JobState.QUEUED)]


def test_a_whole_model_is_proven_anew(oak: Place) -> None:
    age(oak, "oak", 20)
    before = oak.row("oak").verified_at
    done = oak.run(Scrub(model_id="oak"))
    assert (done["ok"], done["checkedBytes"]) == (True, oak.row("oak").size)
    assert oak.row("oak").verified_at > before + 19 * DAY


@pytest.mark.fault("F-57")
def test_what_is_damaged_is_quarantined_and_repaired(oak: Place) -> None:
    oak.damage(oak.folder("oak") / "second.safetensors", 1000)
    done = oak.run(Scrub(model_id="oak"))
    assert not done["ok"]
    assert [file["name"] for file in done["corrupted"]] == ["second.safetensors"]
    assert queued(oak, "model.repair") == ["oak"]
    assert oak.row("oak").state == "corrupt"
    oak.run(Repair(model_id="oak"))
    assert oak.status("oak") == "available"


def test_an_interrupted_scrub_goes_on_where_it_was(oak: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    work = oak.work(Scrub(model_id="oak"))

    def stop(*name: str) -> None:
        if oak.row("oak").scrubbed_to == "first.safetensors":
            work.stop(MadeWay("a more urgent job waits"))
        reached(*name)

    monkeypatch.setattr("workers.jobs.scrub.reached", stop)
    with pytest.raises(MadeWay):
        BODIES["model.scrub"](Scrub(model_id="oak"), work)
    monkeypatch.undo()
    done = BODIES["model.scrub"](Scrub(model_id="oak"), next_attempt(oak, work.job_id))
    assert done["ok"]
    assert done["checkedBytes"] < MIB + 200, "what was proven before it was interrupted is not read again"
    assert oak.row("oak").scrubbed_to is None


def next_attempt(place: Place, job_id: str) -> Work:
    with place.services.database.reading() as session:
        return Work(place.services, jobs.get(session, job_id))


def test_the_schedule_asks_for_the_oldest_one_at_a_time(oak: Place) -> None:
    make_repository(oak.repositories / "tiny" / "elm", first=1000)
    oak.pull("elm", "tiny/elm")
    keep_schedules(oak.services)
    assert queued(oak, "model.scrub") == [], "both were proven today"
    age(oak, "oak", 20)
    age(oak, "elm", 25)
    for _ in range(3):
        forget_slots(oak)
        keep_schedules(oak.services)
    assert queued(oak, "model.scrub") == ["elm"]


def forget_slots(place: Place) -> None:
    with place.services.database.session() as session:
        session.exec(delete(ScheduleRun))


def test_sources_are_asked_for_updates(oak: Place) -> None:
    keep_schedules(oak.services)
    assert queued(oak, "model.update_check") == [], "a download has just asked"
    with oak.services.database.session() as session:
        session.exec(update(Installation).values(update_checked_at=Installation.update_checked_at - 2 * DAY))
    forget_slots(oak)
    keep_schedules(oak.services)
    assert queued(oak, "model.update_check") == ["oak"]


@pytest.mark.fault("F-58")
def test_without_its_disk_nothing_is_asked_marked_or_deleted(oak: Place) -> None:
    keep_schedules(oak.services)
    marker = next(path for path in oak.layout.root.iterdir() if path.name.startswith(".modelyard"))
    hidden = marker.rename(marker.with_name("unmounted"))
    forget_slots(oak)
    before = oak.row("oak")
    keep_schedules(oak.services)
    assert oak.status("oak") == "unavailable"
    assert oak.row("oak") == before
    hidden.rename(marker)
    forget_slots(oak)
    keep_schedules(oak.services)
    assert oak.status("oak") == "available"


@pytest.mark.fault("F-57")
def test_a_file_that_was_cut_off_or_edited_is_not_loaded(oak: Place) -> None:
    file = oak.folder("oak") / "first.safetensors"
    look_before_load(oak.work(Repair(model_id="oak")), oak.row("oak"))
    file.chmod(0o600)
    with file.open("r+b") as handle:
        handle.seek(5000)
        handle.write(b"edited")
    later = time.time() + 60
    os.utime(file, (later, later))
    work = oak.work(Scrub(model_id="oak"))
    with pytest.raises(Conflict) as caught:
        look_before_load(work, oak.row("oak"))
    assert caught.value.code == "model_corrupt"
    assert oak.row("oak").state == "corrupt"
