"""Every control of a job in every state, once and twice, and in a race with the job's own end."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from shared import queues
from shared.contracts import Download
from shared.db import jobs
from shared.db.tables import Job
from shared.errors import Conflict, Failed, Invalid
from shared.jobs import Ledger
from shared.states import ENDED, Desired, JobState, Priority
from tests.api.conftest import Served

ONE = Download(model_id="one")
ROUNDS = 20


def queued(ledger: Ledger) -> str:
    return ledger.submit(ONE, origin="test").job.id


def running(ledger: Ledger) -> str:
    job = ledger.submit(ONE, origin="test").job
    assert ledger.claim(job.id, job.ticket, "worker") is not None
    return job.id


def paused(ledger: Ledger) -> str:
    return ledger.pause(queued(ledger)).id


def succeeded(ledger: Ledger) -> str:
    job_id = running(ledger)
    assert ledger.succeed(job_id, 1, {"size": 1})
    return job_id


def failed(ledger: Ledger) -> str:
    job_id = running(ledger)
    assert ledger.fail(job_id, 1, Failed("broken", "It broke."))
    return job_id


def cancelled(ledger: Ledger) -> str:
    return ledger.cancel(queued(ledger)).id


def rejected(ledger: Ledger) -> str:
    ledger.reject("a-message", "model.fly", {}, Invalid("unknown_kind", "No such kind."))
    return "a-message"


STATES: dict[str, Callable[[Ledger], str]] = {
    each.__name__: each for each in (queued, running, paused, succeeded, failed, cancelled, rejected)
}
NO = "409"
TABLE: dict[str, dict[str, tuple[str, str]]] = {
    # what the job is after the first time and after the second; NO where it stays as it is and the caller hears why
    "cancel": {
        "queued": ("cancelled", "cancelled"), "running": ("running", "running"), "paused": ("cancelled", "cancelled"),
        "succeeded": (NO, NO), "failed": (NO, NO), "cancelled": ("cancelled", "cancelled"), "rejected": (NO, NO),
    },
    "pause": {
        "queued": ("paused", "paused"), "running": ("running", "running"), "paused": ("paused", "paused"),
        "succeeded": (NO, NO), "failed": (NO, NO), "cancelled": (NO, NO), "rejected": (NO, NO),
    },
    "resume": {
        "queued": (NO, NO), "running": (NO, NO), "paused": ("queued", NO),
        "succeeded": (NO, NO), "failed": (NO, NO), "cancelled": (NO, NO), "rejected": (NO, NO),
    },
    "retry": {
        "queued": (NO, NO), "running": (NO, NO), "paused": (NO, NO), "succeeded": (NO, NO),
        "failed": ("queued", NO), "cancelled": ("queued", NO), "rejected": (NO, NO),
    },
    "priority": {
        "queued": ("queued", "queued"), "running": ("running", "running"), "paused": ("paused", "paused"),
        "succeeded": (NO, NO), "failed": (NO, NO), "cancelled": (NO, NO), "rejected": (NO, NO),
    },
}  # fmt: skip


def control(api: Served, action: str, job_id: str) -> httpx.Response:
    if action == "priority":
        return api.http.patch(f"/api/v1/jobs/{job_id}", json={"priority": "CRITICAL"})
    return api.http.post(f"/api/v1/jobs/{job_id}/{action}")


def read(ledger: Ledger, job_id: str) -> Job:
    with ledger.database.reading() as session:
        return jobs.get(session, job_id)


def clear(ledger: Ledger) -> None:
    from sqlmodel import delete

    with ledger.database.session() as session:
        session.exec(delete(Job))


@pytest.mark.fault("F-27")
def test_every_control_in_every_state_twice(api: Served, ledger: Ledger) -> None:
    wrong = []
    for action, row in TABLE.items():
        assert set(row) == {str(state) for state in JobState}
        for state, expected in row.items():
            clear(ledger)
            job_id = STATES[state](ledger)
            before = state
            for number, after in enumerate(expected):
                answer = control(api, action, job_id)
                is_no = answer.status_code == 409 and bool(answer.json()["hint"])
                shown = NO if is_no else answer.json().get("status")
                stored = read(ledger, job_id).state
                if shown != after or stored != (before if after == NO else after):
                    wrong.append((action, state, number, answer.status_code, answer.text, stored))
                before = stored
    assert not wrong


def test_what_a_control_changes(api: Served, ledger: Ledger) -> None:
    """The wishes of a running job, the ticket of one that waits again, and the class of one that is given another."""
    job_id = running(ledger)
    control(api, "pause", job_id)
    assert read(ledger, job_id).desired == Desired.PAUSE
    control(api, "cancel", job_id)
    assert read(ledger, job_id).desired == Desired.CANCEL
    assert control(api, "pause", job_id).status_code == 409, "a cancel is not taken back"
    control(api, "priority", job_id)
    assert read(ledger, job_id).urgency == Priority.CRITICAL
    assert ledger.stop(job_id, 1)
    assert read(ledger, job_id).state == JobState.CANCELLED
    assert read(ledger, job_id).finished_at is not None
    control(api, "retry", job_id)
    again = read(ledger, job_id)
    assert (again.state, again.desired, again.finished_at, again.error) == (JobState.QUEUED, Desired.RUN, None, None)
    assert ledger.claim(job_id, again.ticket - 1, "worker") is None, "old tickets find nothing"
    assert ledger.claim(job_id, again.ticket, "worker") is not None


def in_a_race(*steps: Callable[[], Any]) -> list[Any]:
    """All at once; what each returned, or the Conflict that it met."""
    gate = threading.Barrier(len(steps))

    def run(step: Callable[[], Any]) -> Any:
        gate.wait(10)
        try:
            return step()
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(len(steps)) as pool:
        return list(pool.map(run, steps))


@pytest.mark.fault("F-27")
def test_wishes_racing_the_end(ledger: Ledger) -> None:
    """One end, told once; a wish that was taken in is carried out, unless the job had succeeded by then."""
    outcomes = set()
    for _ in range(ROUNDS):
        job_id = running(ledger)

        def work(job_id: str = job_id) -> bool:
            desired = ledger.beat(job_id, 1, None)
            return ledger.stop(job_id, 1) if desired is not Desired.RUN else ledger.succeed(job_id, 1, None)

        settled, cancel, pause = in_a_race(work, lambda j=job_id: ledger.cancel(j), lambda j=job_id: ledger.pause(j))
        assert settled is True
        state = JobState(read(ledger, job_id).state)
        outcomes.add(state)
        assert state in (JobState.SUCCEEDED, JobState.CANCELLED, JobState.PAUSED)
        if not isinstance(cancel, Conflict):
            assert state in (JobState.CANCELLED, JobState.SUCCEEDED)
        elif not isinstance(pause, Conflict):
            assert state in (JobState.PAUSED, JobState.SUCCEEDED)
        else:
            assert state is JobState.SUCCEEDED
        if state is JobState.PAUSED:
            ledger.cancel(job_id)
        assert [told for told in _told(ledger, job_id) if told in ENDED] == [read(ledger, job_id).state]
    print("outcomes:", sorted(outcomes))


def _told(ledger: Ledger, job_id: str) -> list[str]:
    entries = ledger.events.client.xrevrange(queues.EVENTS_STREAM, count=50)
    events = [json.loads(fields["event"]) for _, fields in entries]
    return [event["status"] for event in events if event.get("jobId") == job_id and event["type"] == "job.state"]


@pytest.mark.fault("F-27")
def test_controls_racing_each_other(ledger: Ledger) -> None:
    """Of two who resume or retry, one moves the job; it gets one live ticket whatever comes with it."""
    for _ in range(ROUNDS // 2):
        job_id = paused(ledger)
        moved = in_a_race(*[lambda j=job_id: ledger.resume(j) for _ in range(3)])
        assert sum(not isinstance(each, Conflict) for each in moved) == 1
        in_a_race(lambda j=job_id: ledger.reprioritise(j, Priority.HIGH), lambda j=job_id: ledger.pause(j))
        assert read(ledger, job_id).state == JobState.PAUSED
        ledger.cancel(job_id)
        moved = in_a_race(*[lambda j=job_id: ledger.retry(j) for _ in range(3)])
        assert sum(not isinstance(each, Conflict) for each in moved) == 1
        ticket = read(ledger, job_id).ticket
        claims = in_a_race(*[lambda j=job_id, t=t: ledger.claim(j, t, "worker") for t in range(ticket - 2, ticket + 1)])
        assert [claim is not None for claim in claims] == [False, False, True]
        assert ledger.succeed(job_id, read(ledger, job_id).attempt, None)


@pytest.mark.fault("F-27")
def test_a_submit_racing_a_retry(ledger: Ledger) -> None:
    """Never two live jobs for the same work."""
    for _ in range(ROUNDS // 2):
        job_id = cancelled(ledger)
        in_a_race(lambda j=job_id: ledger.retry(j), lambda: ledger.submit(ONE, origin="test"))
        with ledger.database.reading() as session:
            live = [job for state in ("queued", "running", "paused") for job in jobs.find(session, state=state)]
        assert len(live) == 1
        ledger.cancel(live[0].id)


def download(api: Served, key: str, body: dict[str, Any]) -> httpx.Response:
    return api.http.post("/api/v1/models/download", json=body, headers={"Idempotency-Key": key})


@pytest.mark.fault("A-18", "F-10", "F-11")
def test_the_same_key_is_the_same_ask(api: Served, ledger: Ledger) -> None:
    first = download(api, "a", {"model_id": "one"})
    again = download(api, "a", {"modelId": "one"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["job"]["id"] == again.json()["job"]["id"]
    for body in (
        {"model_id": "two"},
        {"model_id": "one", "force_redownload": True},
        {"model_id": "one", "priority": "LOW"},
    ):
        other = download(api, "a", body)
        assert (other.status_code, other.json()["code"]) in (
            (409, "idempotency_key_reused"),
            (422, "idempotency_key_reused"),
        )
    job_id = first.json()["job"]["id"]
    claimed = ledger.claim(job_id, 1, "worker")
    assert claimed is not None
    ledger.succeed(job_id, 1, None)
    late = download(api, "a", {"model_id": "one"})
    assert late.json()["job"]["id"] == job_id, "even after its end: no second download"
    assert download(api, "b", {"model_id": "one"}).json()["job"]["id"] != job_id
    for bad in ("", "x" * 256, "a b", "a\tb"):
        assert download(api, bad, {"model_id": "one"}).status_code == 422, bad


@pytest.mark.fault("A-18")
def test_the_same_key_at_the_same_time_is_one_job(api: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(5):
            answers = list(pool.map(lambda _, n=number: download(api, f"k{n}", {"model_id": "one"}), range(8)))
            assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
            (job_id,) = {answer.json()["job"]["id"] for answer in answers}
            assert control(api, "cancel", job_id).status_code == 200
