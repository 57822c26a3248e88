"""A model is looked at and asked, by a job: what is found, what follows, and what does not."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from sqlmodel import col, select, update

from shared import queues
from shared.contracts import HealthCheck, Load, Repair
from shared.db import health, jobs, usage
from shared.db.facts import Facts
from shared.db.reports import ModelHealth
from shared.db.tables import Installation, Job, Residency
from shared.errors import Cancelled, Conflict, Failed, ModelyardError, Snooze, Unavailable
from shared.schedules import DAY
from shared.states import Health, HealthLevel, Priority
from tests.factories.repository import make_repository
from tests.fakes.answers import Server, in_memory
from tests.workers.jobs.conftest import Place
from workers.jobs import health_check
from workers.jobs.health_check import judge
from workers.upkeep import keep_schedules

MIB = 1024**2
CHEAP, DEEP, LIVE = (HealthCheck(model_id="oak", level=level) for level in HealthLevel)
GOOD = json.dumps({"text": "hi", "tokens": 1, "seconds": 0.1}).encode()


@pytest.fixture
def oak(place: Place) -> Place:
    make_repository(place.repositories / "tiny" / "oak", first=MIB, second=MIB)
    place.pull("oak", "tiny/oak")
    return place


@pytest.fixture
def loaded(oak: Place) -> Iterator[Place]:
    with in_memory(oak.services, "oak", "r", "torch"):
        yield oak


def says(monkeypatch: pytest.MonkeyPatch, status: int, content: bytes) -> None:
    monkeypatch.setattr(Server, "answer", (status, content))


def told(place: Place) -> Health:
    with place.services.database.reading() as session:
        return Facts(session, ["oak"]).health("oak")


def row(place: Place) -> ModelHealth:
    with place.services.database.reading() as session:
        return health.of_models(session, ["oak"])["oak"]


def repairs(place: Place) -> list[Job]:
    with place.services.database.reading() as session:
        return jobs.find(session, kind=Repair.kind)


def changed(place: Place, since: str) -> list[tuple[str, str]]:
    entries: Any = place.services.events.client.xrange(queues.EVENTS_STREAM, f"({since}", "+")
    events = [json.loads(fields["event"]) for _, fields in entries]
    return [(each["before"], each["health"]) for each in events if each["type"] == "model.health"]


@pytest.fixture
def mark(place: Place) -> str:
    """What comes after this was told later."""
    place.services.events.publish("mark")
    last: Any = place.services.events.client.xrevrange(queues.EVENTS_STREAM, count=1)
    return str(last[0][0])


def test_a_whole_model_is_healthy(oak: Place) -> None:
    done = oak.run(CHEAP)
    assert (done["health"], done["files"]["ok"], done["live"]["asked"]) == ("healthy", True, False)
    before = oak.row("oak").verified_at
    assert oak.run(DEEP)["health"] == "healthy"
    assert oak.row("oak").verified_at > before, "every byte was proven anew"


@pytest.mark.fault("F-57")
def test_a_flipped_bit_is_found_quarantined_and_repaired_first(oak: Place, mark: str) -> None:
    oak.damage(oak.folder("oak") / "second.safetensors", 1000)
    assert oak.run(CHEAP)["health"] == "healthy", "no look can see it"
    done = oak.run(DEEP)
    assert (done["health"], [file["name"] for file in done["files"]["corrupted"]]) == (
        "corrupted", ["second.safetensors"],
    )  # fmt: skip
    assert oak.row("oak").state == "corrupt"
    (repair,) = repairs(oak)
    assert (repair.id, repair.priority) == (done["files"]["repairJobId"], Priority.CRITICAL)
    oak.run(Repair(model_id="oak"))
    assert told(oak) is Health.HEALTHY
    assert oak.run(CHEAP)["health"] == "healthy"
    assert changed(oak, mark) == [("healthy", "corrupted"), ("corrupted", "healthy")]


@pytest.mark.fault("F-57")
def test_a_file_that_was_cut_off_is_seen_by_a_look(oak: Place) -> None:
    file = oak.folder("oak") / "first.safetensors"
    file.chmod(0o600)
    with file.open("r+b") as handle:
        handle.truncate(100)
    assert oak.run(CHEAP)["health"] == "corrupted"
    assert file.exists(), "nothing is deleted"
    assert len(repairs(oak)) == 1


def test_a_repair_that_failed_is_not_asked_for_again_for_a_day(oak: Place) -> None:
    oak.damage(oak.folder("oak") / "first.safetensors", 1000)
    oak.run(DEEP)
    with oak.services.database.session() as session:
        session.exec(update(Job).where(col(Job.kind) == Repair.kind).values(state="failed", finished_at=health.now()))
    assert "repairJobId" not in oak.run(CHEAP)["files"]
    assert len(repairs(oak)) == 1
    with oak.services.database.session() as session:
        session.exec(update(Job).where(col(Job.kind) == Repair.kind).values(finished_at=health.now() - 2 * DAY))
    assert "repairJobId" in oak.run(CHEAP)["files"]


def test_where_nobody_wants_repairs_none_is_asked_for(oak: Place) -> None:
    oak.services.settings.store.auto_repair = False
    oak.damage(oak.folder("oak") / "first.safetensors", 1000)
    assert oak.run(DEEP)["health"] == "corrupted"
    assert repairs(oak) == []


@pytest.mark.fault("F-58")
def test_without_its_disk_nothing_is_said(oak: Place) -> None:
    marker = next(path for path in oak.layout.root.iterdir() if path.name.startswith(".modelyard"))
    hidden = marker.rename(marker.with_name("unmounted"))
    done = oak.run(CHEAP)
    assert (done["files"]["ok"], done["health"], oak.row("oak").state) == (None, None, "published")
    hidden.rename(marker)
    assert oak.run(CHEAP)["files"]["ok"]


def test_nothing_is_there_to_look_at(place: Place) -> None:
    place.add("oak", "tiny/oak")
    with pytest.raises(Conflict) as caught:
        place.run(CHEAP)
    assert caught.value.code == "model_not_installed"


def test_a_model_in_memory_is_asked_and_not_used(loaded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, 200, GOOD)
    done = loaded.run(LIVE)
    assert (done["live"]["ok"], done["loadState"], done["health"]) == (True, "ready", "healthy")
    assert Server.asked == [{"prompt": "Hello", "max_tokens": 1}]
    assert (row(loaded).outcomes, row(loaded).answers, row(loaded).loads) == ([True], [done["live"]["seconds"]], [2.0])
    leases = loaded.services.leases
    assert (leases.count("r"), leases.unused(["r"])) == (0, {}), "no idle model is kept in memory by it"
    with loaded.services.database.reading() as session:
        assert usage.of_models(session) == {}


BAD = [
    (200, json.dumps({"text": "", "tokens": 1, "seconds": math.nan}).encode()), (200, b"\xff\x00 not json"),
    (200, b"[]"), (200, b"{}"), (500, b'{"error": "numbers_not_finite"}'), (200, b"x" * 400_000),
]  # fmt: skip


@pytest.mark.fault("F-48")
@pytest.mark.parametrize(("status", "content"), BAD)
def test_what_is_no_answer_counts(loaded: Place, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes) -> None:
    says(monkeypatch, status, content)
    done = loaded.run(LIVE)
    assert (done["live"]["ok"], done["live"]["why"]["code"], done["health"]) == (False, "bad_answer", "healthy")
    assert (row(loaded).outcomes, row(loaded).unsettled) == ([False], True)
    assert row(loaded).reasons[0]["message"].startswith("Its test inference failed")


@pytest.mark.fault("F-48")
def test_bad_answers_make_it_unhealthy_and_good_ones_healthy_and_nothing_is_deleted(
    loaded: Place, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    says(monkeypatch, *BAD[0])
    assert [loaded.run(LIVE)["health"] for _ in range(4)] == ["healthy", "healthy", "unhealthy", "unhealthy"]
    assert loaded.run(CHEAP)["health"] == "unhealthy", "a look does not forgive"
    says(monkeypatch, 200, GOOD)
    assert [loaded.run(LIVE)["health"] for _ in range(4)] == ["unhealthy", "unhealthy", "healthy", "healthy"]
    for turn in range(6):
        says(monkeypatch, *(BAD[0] if turn % 2 else (200, GOOD)))
        loaded.run(LIVE)
    assert changed(loaded, mark) == [("healthy", "unhealthy"), ("unhealthy", "healthy"), ("healthy", "unhealthy")]
    assert (loaded.status("oak"), repairs(loaded), loaded.folder("oak").is_dir()) == ("available", [], True)


def test_one_that_is_busy_or_about_to_leave_is_not_judged(loaded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, 503, b"{}")
    assert loaded.run(LIVE)["live"]["why"]["code"] == "busy"
    loaded.services.leases.close("r")
    done = loaded.run(LIVE)
    assert (done["live"]["asked"], done["live"]["why"]["code"], row(loaded).outcomes) == (False, "draining", [])


def test_one_whose_server_is_gone_did_not_answer(loaded: Place) -> None:
    with loaded.services.database.session() as session:
        session.exec(update(Residency).values(url="http://127.0.0.1:9"))
    assert loaded.run(LIVE)["live"]["ok"] is False


def no_answer() -> Failed:
    return Failed("probe_failed", "The model was loaded, but its test inference failed: none.", "", {"status": 0})


@pytest.mark.fault("F-48")
@pytest.mark.parametrize(
    ("seconds", "error", "busy", "outcomes", "code"),
    [
        (1.0, None, False, (True,), None),
        (9.0, None, False, (False,), "slow_answer"),
        (9.0, None, True, (), "busy"),
        (60.0, no_answer(), False, (False,), "bad_answer"),
        (60.0, no_answer(), True, (), "busy"),
        (0.1, Failed("unknown_runtime", "?"), False, (), "unknown_runtime"),
        (0.1, Unavailable("ollama_failed", "?"), False, (False,), "bad_answer"),
        (60.0, Unavailable("ollama_silent", "?"), True, (), "busy"),
        (0.1, Unavailable("ollama_not_running", "?"), False, (), "ollama_not_running"),
    ],
)
def test_where_others_ask_too_a_late_answer_says_nothing(
    seconds: float, error: ModelyardError | None, busy: bool, outcomes: tuple[bool, ...], code: str | None
) -> None:
    answer = judge(seconds, error, [1.0] * 10, busy=busy)
    assert (answer.outcomes, answer.reason and answer.reason["code"]) == (outcomes, code)


def test_a_stop_waits_for_no_answer(loaded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "answer", None)
    work = loaded.work(LIVE)

    def checkpoint() -> None:
        if Server.asked:
            raise Cancelled

    monkeypatch.setattr(work, "checkpoint", checkpoint)
    with pytest.raises(Cancelled):
        health_check.health_check(LIVE, work)
    assert loaded.services.leases.count("r") == 0


def test_one_that_is_not_in_memory_is_loaded_where_that_is_wanted(oak: Place) -> None:
    done = oak.run(LIVE)
    assert (done["live"]["asked"], done["live"]["why"]["code"]) == (False, "not_in_memory")
    asking = HealthCheck(model_id="oak", level=HealthLevel.LIVE, load=True)
    with pytest.raises(Snooze):
        oak.run(asking)
    with oak.services.database.reading() as session:
        load = session.exec(select(Job).where(col(Job.kind) == Load.kind)).one()
    end(oak, load, "will_not_fit")
    done = oak.run(asking)
    assert (done["live"]["ok"], done["live"]["why"]["code"]) == (None, "will_not_fit"), "no fault of its own"
    end(oak, load, "runner_exited")
    assert oak.run(asking)["live"]["ok"] is False


def end(place: Place, load: Job, code: str) -> None:
    error = {"code": code, "message": "It did not load.", "hint": "", "retryable": False}
    with place.services.database.session() as session:
        session.exec(
            update(Job).where(col(Job.id) == load.id).values(state="failed", error=error, finished_at=health.now())
        )


def test_a_runner_that_ends_again_and_again_is_unhealthy_at_once(loaded: Place) -> None:
    with loaded.services.database.session() as session:
        session.exec(update(Residency).values(state="crash_loop", active=True))
    done = loaded.run(CHEAP)
    assert (done["health"], done["loadState"], done["live"]["why"]["code"]) == ("unhealthy", "crash_loop", "crash_loop")


def test_the_schedule_looks_and_asks(loaded: Place) -> None:
    def asked() -> set[tuple[str | None, str]]:
        with loaded.services.database.session() as session:
            session.connection().exec_driver_sql("DELETE FROM schedule_runs")
        keep_schedules(loaded.services)
        with loaded.services.database.reading() as session:
            found = jobs.find(session, kind=HealthCheck.kind)
        return {(job.model_id, job.args["level"]) for job in found}

    loaded.services.settings.health.ask_minutes = 0
    assert asked() == set(), "it has just been proven"
    with loaded.services.database.session() as session:
        session.exec(update(Installation).values(published_at=1.0))
    assert asked() == {("oak", "cheap")}
    loaded.services.settings.health.ask_minutes = 30
    with loaded.services.database.session() as session:
        session.exec(update(Job).values(created_at=1.0))
    assert asked() == {("oak", "cheap"), ("oak", "live")}
