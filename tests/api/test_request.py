"""Asking for a model: ready or not, what happens next, how long, what instead, and what the caller has to do."""

from typing import Any

import pytest

from api.request import Act, Situation, advise
from shared.contracts import Download, Load, Repair
from shared.db import footprints
from shared.db.reports import Footprint
from shared.db.tables import Job, Residency
from shared.errors import Corrupt
from shared.states import Availability, InstallationState
from tests.api.conftest import Served
from tests.api.test_problems import checked
from tests.api.test_registry import enter, install, put

GGUF = {"format": "gguf", "weightBytes": 1000}
AVAILABLE, MISSING = Availability.AVAILABLE, Availability.MISSING


def situation(availability: Availability = AVAILABLE, **more: Any) -> Situation:
    usual = {"enabled": True, "answers": False, "coming": False, "runnable": True, "loads_on_use": True}
    return Situation("oak", availability, **{**usual, "job": "j1", **more})


@pytest.mark.parametrize(
    ("its", "ready", "act", "bring", "todo"),
    [
        (situation(answers=True), True, Act.NOTHING, None, ""),
        (situation(MISSING, answers=True), True, Act.NOTHING, None, ""),
        (situation(coming=True), False, Act.NOTHING, None, "waits"),
        (situation(), False, Act.NOTHING, Load, "modelyard load oak"),
        (situation(loads_on_use=False), False, Act.START, Load, "modelyard load oak"),
        (situation(runnable=False), True, Act.NOTHING, None, ""),
        (situation(Availability.UPDATING), False, Act.NOTHING, Load, "modelyard load oak"),
        (situation(MISSING), False, Act.START, Download, "modelyard pull oak"),
        (situation(Availability.CORRUPTED), False, Act.START, Repair, "modelyard repair oak"),
        (situation(Availability.DOWNLOADING), False, Act.NOTHING, None, "modelyard jobs j1"),
        (situation(Availability.QUEUED), False, Act.NOTHING, None, "modelyard jobs j1"),
        (situation(Availability.PAUSED), False, Act.RESUME, None, "modelyard resume j1"),
        (situation(Availability.FAILED, hint="Mend it."), False, Act.RETRY, None, "Mend it. Then: modelyard retry j1"),
        (situation(Availability.UNAVAILABLE), False, Act.MEND, None, "Mount"),
        (situation(enabled=False, answers=True), False, Act.MEND, None, "enabled"),
    ],
)
def test_what_is_said(its: Situation, ready: bool, act: Act, bring: Any, todo: str) -> None:
    advice = advise(its)
    assert (advice.ready, advice.act, advice.bring) == (ready, act, bring)
    assert todo in advice.todo
    assert advice.next


@pytest.mark.parametrize("availability", Availability)
def test_something_is_said_of_every_state(availability: Availability) -> None:
    assert advise(situation(availability)).next


def ask(api: Served, model_id: str, **body: Any) -> dict[str, Any]:
    answer = api.http.post(f"/api/v1/models/{model_id}/request", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def jobs(api: Served) -> list[tuple[str, str, str]]:
    found = api.http.get("/api/v1/jobs").json()["jobs"]
    return [(job["kind"], job["modelId"], job["priority"]) for job in found]


def measured(api: Served) -> None:
    """One load took 2 s for 1000 bytes, and a download brought 100 bytes a second."""
    with api.front.database.session() as session:
        footprints.record(session, Footprint(
            model_id="one", revision="r", runtime="llamacpp", device="cpu", context_length=4096, memory_bytes=1000,
            predicted_bytes=1000, load_seconds=2.0, measured_at=0.0,
        ))  # fmt: skip
        session.add(Job(
            id="before", kind="model.download", lane="io", priority=2, urgency=2, model_id="one", origin="rest",
            state="succeeded", desired="run", bytes_total=1000, created_at=1.0, started_at=1.0, finished_at=11.0,
        ))  # fmt: skip


def test_a_missing_model_is_fetched_and_its_time_told(api: Served) -> None:
    measured(api)
    enter(api, "oak", file_size=500)
    install(api, "two", facts=GGUF)
    told = ask(api, "oak", start=False)
    assert (told["ready"], told["action"], told["actionRequired"], told["job"]) == (False, "start", True, None)
    assert told["next"].startswith("Nothing, until")
    assert told["waitParts"] == {"queue": 0.0, "download": 5.0, "load": 1.0}
    assert told["estimatedWaitSeconds"] == 6.0
    assert [other["modelId"] for other in told["alternatives"]] == ["two"]
    assert jobs(api) == [("model.download", "one", "MEDIUM")]
    told = ask(api, "oak")
    assert (told["action"], told["actionRequired"], told["job"]["kind"]) == ("nothing", False, "model.download")
    assert ("model.download", "oak", "LOW") in jobs(api), "as it matters: nobody has used it"
    again = ask(api, "oak", priority="HIGH")
    assert (again["availability"], again["job"]["id"]) == ("queued", told["job"]["id"])


def test_a_damaged_one_is_repaired_before_others_come(api: Served) -> None:
    install(api, "one", InstallationState.CORRUPT, facts=GGUF)
    assert ask(api, "one")["job"]["kind"] == "model.repair"
    assert jobs(api) == [("model.repair", "one", "HIGH")]


def test_one_on_disk_is_loaded_and_one_in_memory_is_ready(api: Served) -> None:
    measured(api)
    install(api, "one", facts=GGUF)
    told = ask(api, "one")
    assert (told["ready"], told["job"]["kind"], told["estimatedWaitSeconds"]) == (False, "model.load", 2.0)
    with api.front.database.session() as session:
        session.add(Residency(
            id="r", model_id="one", model_type="llm", revision="r1", device="cpu", runtime="llamacpp", state="ready",
            started_at=1.0,
        ))  # fmt: skip
    told = ask(api, "one")
    assert (told["ready"], told["loadState"], told["estimatedWaitSeconds"]) == (True, "ready", 0.0)
    enter(api, "oak")
    install(api, "two")
    others = ask(api, "oak", start=False)["alternatives"]
    assert [(other["modelId"], other["inMemory"]) for other in others] == [("one", True), ("two", False)]


def test_what_people_have_to_do_is_said_and_nothing_done(api: Served) -> None:
    ledger = api.front.ledger
    paused = ledger.submit(Download(model_id="one"), origin="rest").job
    ledger.pause(paused.id)
    told = ask(api, "one")
    assert (told["action"], told["todo"]) == ("resume", f"modelyard resume {paused.id}")
    job = ledger.submit(Download(model_id="two"), origin="rest").job
    claimed = ledger.claim(job.id, job.ticket, "test", job.lane)
    assert claimed is not None
    ledger.fail(job.id, claimed.attempt, Corrupt("broken", "It broke.", "Mend it."))
    told = ask(api, "two")
    assert (told["action"], told["problem"]["code"], told["estimatedWaitSeconds"]) == ("retry", "broken", None)
    assert f"modelyard retry {job.id}" in told["todo"]
    put(api, "two/enabled", enabled=False)
    assert ask(api, "two")["action"] == "mend"
    assert len(jobs(api)) == 2


def test_modes_find_alternatives_that_do_the_same(api: Served) -> None:
    for name, modes in (("a", ["t2v"]), ("b", ["i2v"]), ("c", ["t2v", "i2v"])):
        enter(api, name, model_type="video_gen", modes=modes)
        install(api, name, model_type="video_gen")
    assert [other["modelId"] for other in ask(api, "t2v-A14B", start=False)["alternatives"]] == ["c", "a"]


@pytest.mark.parametrize("body", [{"start": "yes"}, {"priority": "NOW"}, {"more": 1}, []])
def test_requests_that_are_none(api: Served, body: Any) -> None:
    assert checked(api.http.post("/api/v1/models/one/request", json=body)) == 422
    assert checked(api.http.post("/api/v1/models/nobody/request")) == 404


def test_the_order_is_told_and_carried_out(api: Served) -> None:
    install(api, "one", InstallationState.CORRUPT)
    enter(api, "oak", file_size=7)
    order = api.http.get("/api/v1/models/ensure").json()
    assert (order["repairs"], order["downloads"]) == (1, 2)
    assert [(step["modelId"], step["bring"]) for step in order["steps"]] == [
        ("one", "repair"), ("oak", "download"), ("two", "download"),
    ]  # fmt: skip
    assert api.http.post("/api/v1/models/ensure", json={"policy": "repair"}).status_code == 202
    assert checked(api.http.post("/api/v1/models/ensure", json={"policy": "some"})) == 422
    assert checked(api.http.get("/api/v1/models/ensure", params={"policy": "some"})) == 422


def test_sources_are_asked_in_a_job(api: Served) -> None:
    answer = api.http.post("/api/v1/models/one/source/check")
    assert (answer.status_code, answer.json()["job"]["kind"]) == (202, "model.source_check")
    assert answer.json()["job"]["modelId"] == "one"
    assert checked(api.http.post("/api/v1/models/nobody/source/check")) == 404
    body = {"source": "huggingface", "source_url": "tiny/acorn"}
    first = api.http.post("/api/v1/models/source/check", json=body).json()["job"]
    assert api.http.post("/api/v1/models/source/check", json=body).json()["job"]["id"] == first["id"]
    for wrong, status in (
        ({**body, "source_url": "tiny"}, 422), ({**body, "source": "cd"}, 422),
        ({"source": "file", "source_url": "/etc/passwd"}, 403),
    ):  # fmt: skip
        assert checked(api.http.post("/api/v1/models/source/check", json=wrong)) == status
