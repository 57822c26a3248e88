"""Limits on how many downloads run: who is admitted, and how a job waits for its turn, on both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlmodel import col, select

from shared.contract import Contract
from shared.contracts import Download, Verify
from shared.db import jobs, limits
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from shared.limits import Fetch, Limit, admitted
from shared.refs import SourceKind
from shared.states import JobState, Priority

CRITICAL, HIGH, MEDIUM, LOW = Priority
HUB, URL = SourceKind.HUGGINGFACE, SourceKind.URL
ONE_AT_A_TIME = Limit("all", jobs=1)


@pytest.mark.parametrize(
    ("wanted", "running", "waiting", "expected"),
    [
        ([], [(URL, LOW)], [(URL, LOW), (HUB, LOW)], [0, 1]),
        ([Limit("rate", bytes_per_second=1)], [(URL, LOW)], [(URL, LOW)], [0]),
        ([ONE_AT_A_TIME], [], [(URL, CRITICAL), (URL, LOW)], [0]),
        ([ONE_AT_A_TIME], [(HUB, LOW)], [(URL, CRITICAL)], []),
        ([Limit("all", jobs=3)], [(HUB, LOW)], [(URL, CRITICAL), (URL, LOW), (URL, LOW)], [0, 1]),
        ([Limit("url", URL, jobs=1)], [(URL, LOW)], [(URL, CRITICAL), (HUB, LOW)], [1]),
        ([Limit("low", None, LOW, jobs=1)], [(URL, LOW)], [(URL, HIGH), (HUB, LOW)], [0]),
        ([Limit("all", jobs=2), Limit("url", URL, jobs=1)], [(URL, LOW)], [(URL, HIGH), (HUB, LOW), (HUB, LOW)], [1]),
        ([Limit("all", jobs=1)], [(HUB, LOW), (HUB, LOW)], [(HUB, LOW)], []),
    ],
)
def test_who_is_admitted(
    wanted: list[Limit], running: list[tuple[str, int]], waiting: list[tuple[str, int]], expected: list[int]
) -> None:
    def fetches(found: list[tuple[str, int]]) -> list[Fetch]:
        return [Fetch(str(number), source, priority) for number, (source, priority) in enumerate(found)]

    assert [int(fetch.job_id) for fetch in admitted(wanted, fetches(running), fetches(waiting))] == expected


def put(ledger: Ledger, *wanted: Limit) -> None:
    with ledger.database.session() as session:
        for limit in wanted:
            limits.put(session, limit)


def submit(ledger: Ledger, contract: Contract, priority: Priority = MEDIUM) -> Job:
    return ledger.submit(contract, origin="test", priority=priority).job


def take(ledger: Ledger, job: Job) -> Job | None:
    """As a worker does that finds the job's newest ticket."""
    with ledger.database.reading() as session:
        return ledger.claim(job.id, jobs.get(session, job.id).ticket, "worker", "io")


def read(ledger: Ledger, job: Job) -> Job:
    with ledger.database.reading() as session:
        return jobs.get(session, job.id)


def test_a_job_without_room_waits_without_an_attempt_and_goes_on_at_once(ledger: Ledger) -> None:
    put(ledger, ONE_AT_A_TIME)
    one, two = submit(ledger, Download(model_id="one")), submit(ledger, Download(model_id="two"))
    first = take(ledger, one)
    assert first is not None
    assert take(ledger, two) is None
    held = read(ledger, two)
    assert (held.state, held.attempt, held.sent_at, held.started_at) == (JobState.QUEUED, 0, None, None)
    assert held.error is not None
    assert held.error["code"] == "limit_reached"
    assert ledger.let_in() == [], "there is no room yet"
    assert take(ledger, two) is None, "it is not due"
    ledger.succeed(first.id, first.attempt, {})
    assert [job.id for job in ledger.let_in()] == [two.id]
    assert ledger.let_in() == [], "once is enough"
    assert read(ledger, two).sent_at is not None, "its ticket is out"
    second = take(ledger, two)
    assert second is not None
    assert (second.attempt, second.error) == (1, None)


def test_other_work_and_other_sources_go_on(ledger: Ledger) -> None:
    put(ledger, Limit("hub", HUB, jobs=1))
    with ledger.database.session() as session:
        session.add(Model(id="url", type="llm", name="u", source=URL, source_url="u", created_at=1.0, updated_at=1.0))
    assert take(ledger, submit(ledger, Download(model_id="one"))) is not None
    assert take(ledger, submit(ledger, Download(model_id="two"))) is None
    assert take(ledger, submit(ledger, Download(model_id="url"))) is not None
    assert take(ledger, submit(ledger, Verify(model_id="two"))) is not None


def test_what_is_more_urgent_is_let_in_first_and_is_not_overtaken(ledger: Ledger) -> None:
    with ledger.database.session() as session:
        session.add(Model(id="three", type="llm", name="3", source=HUB, source_url="t", created_at=1.0, updated_at=1.0))
    put(ledger, ONE_AT_A_TIME)
    first = take(ledger, submit(ledger, Download(model_id="one")))
    assert first is not None
    low = submit(ledger, Download(model_id="two"), LOW)
    critical = submit(ledger, Download(model_id="three"), CRITICAL)
    assert take(ledger, low) is None
    assert take(ledger, critical) is None
    ledger.succeed(first.id, first.attempt, {})
    late = submit(ledger, Download(model_id="one"), HIGH)
    assert take(ledger, late) is None, "the CRITICAL one was there before"
    assert ledger.let_in() == [], "it was let in when the other one found that"
    assert take(ledger, late) is None
    assert take(ledger, critical) is not None


@pytest.mark.parametrize(
    ("runs", "waits", "limit", "gives"),
    [
        (LOW, CRITICAL, ONE_AT_A_TIME, True),
        (MEDIUM, HIGH, ONE_AT_A_TIME, True),
        (HIGH, HIGH, ONE_AT_A_TIME, False),
        (LOW, MEDIUM, ONE_AT_A_TIME, False),
        (LOW, CRITICAL, Limit("critical", None, CRITICAL, jobs=1), False),
    ],
)
def test_an_urgent_one_gets_the_room_of_a_less_urgent_one(
    ledger: Ledger, runs: Priority, waits: Priority, limit: Limit, gives: bool
) -> None:
    put(ledger, limit)
    first = take(ledger, submit(ledger, Download(model_id="one"), runs))
    assert first is not None
    urgent = submit(ledger, Download(model_id="two"), waits)
    take(ledger, urgent)
    assert ledger.make_room("another worker", []) is None
    assert (ledger.make_room("worker", []) == (first.id, first.attempt)) is gives
    assert ledger.make_room("worker", []) is None, "way is made once"
    if gives:
        ledger.give_way(first.id, first.attempt)
        assert take(ledger, first) is None, "the urgent one is first"
        assert ledger.let_in() == [], "it was let in when the other one found that"
        assert take(ledger, urgent) is not None


@pytest.mark.parametrize("then", [Limit("all", jobs=2), Limit("all", bytes_per_second=1)])
def test_a_limit_that_changes_lets_in(ledger: Ledger, then: Limit) -> None:
    put(ledger, ONE_AT_A_TIME)
    assert take(ledger, submit(ledger, Download(model_id="one"))) is not None
    two = submit(ledger, Download(model_id="two"))
    assert take(ledger, two) is None
    put(ledger, then)
    assert [job.id for job in ledger.let_in()] == [two.id]
    assert take(ledger, two) is not None


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_one_that_waits_for_room_is_cancelled_and_paused_at_once(ledger: Ledger, action: str) -> None:
    put(ledger, ONE_AT_A_TIME)
    assert take(ledger, submit(ledger, Download(model_id="one"))) is not None
    two = submit(ledger, Download(model_id="two"))
    assert take(ledger, two) is None
    getattr(ledger, action)(two.id)
    assert read(ledger, two).state in (JobState.CANCELLED, JobState.PAUSED)
    put(ledger, Limit("all", jobs=2))
    assert ledger.let_in() == []


def test_an_end_in_the_middle_of_a_claim_is_not_missed(ledger: Ledger) -> None:
    """A claim that finds no room while the only running job ends: whoever is last lets in."""
    put(ledger, ONE_AT_A_TIME)
    for _ in range(20):
        first, second = submit(ledger, Download(model_id="one")), submit(ledger, Download(model_id="two"))
        running = take(ledger, first)
        assert running is not None

        def end(job: Job = running) -> None:
            ledger.succeed(job.id, job.attempt, {})
            ledger.let_in()

        with ThreadPoolExecutor(2) as threads:
            claim, ended = threads.submit(take, ledger, second), threads.submit(end)
            ended.result()
            follower = claim.result() or take(ledger, second)
        assert follower is not None, "it waits, and nobody will let it in"
        ledger.succeed(follower.id, follower.attempt, {})


def test_claims_at_the_same_time_do_not_pass_the_limit(ledger: Ledger) -> None:
    put(ledger, Limit("all", jobs=3))
    names = [f"model-{number}" for number in range(12)]
    with ledger.database.session() as session:
        for name in names:
            row = Model(id=name, type="llm", name=name, source=HUB, source_url=name, created_at=1.0, updated_at=1.0)
            session.add(row)
    asked = [(ledger, submit(ledger, Download(model_id=name))) for name in names]
    with ThreadPoolExecutor(8) as threads:
        taken = [job for job in threads.map(lambda pair: take(*pair), asked) if job is not None]
    assert len(taken) == 3
    with ledger.database.reading() as session:
        states = session.exec(select(Job.state).where(col(Job.model_id).in_(names))).all()
    assert sorted(states) == ["queued"] * 9 + ["running"] * 3
