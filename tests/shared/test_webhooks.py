"""What receivers are to be told is written with what happened, for whoever wants it, and signed."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import delete, select, update

from shared import webhooks
from shared.contracts import Deliver, Download, Run
from shared.db import catalog, deliveries, residency
from shared.db import webhooks as rows
from shared.db.reports import ModelHealth
from shared.db.session import Database
from shared.db.tables import Installation, Job, Residency
from shared.db.webhooks import DEAD, PENDING, Delivery, Webhook, WebhookEvent
from shared.errors import Conflict, Failed, NotFound
from shared.jobs import Ledger
from shared.settings import Settings
from shared.states import Health, InstallationState, ResidencyState

PAGE = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


def hook(database: Database, events: list[str], models: list[str] | None = None, **more: Any) -> str:
    made = Webhook(
        id=rows.new_id(), url="https://h.example", events=events, models=models or [], wants="", secret_check="",
        created_at=0.0, **more,
    )  # fmt: skip
    with database.session() as session:
        return rows.add(session, made).id


def told(database: Database) -> list[tuple[str, str | None]]:
    with database.reading() as session:
        found = session.exec(select(WebhookEvent).order_by(WebhookEvent.seq)).all()  # type: ignore[arg-type] # a column
        return [(event.type, event.model_id) for event in found]


def claimed(ledger: Ledger, model_id: str = "one") -> Job:
    job = ledger.submit(Download(model_id=model_id), origin="test").job
    found = ledger.claim(job.id, job.ticket, "me")
    assert found is not None
    return found


def installation(model_id: str = "one") -> Installation:
    return Installation(
        model_id=model_id, model_type="llm", revision="r1", state=InstallationState.PUBLISHED, path="/x", size=1,
        files=1, integrity=1.0, published_at=0.0, verified_at=0.0,
    )  # fmt: skip


def test_while_nobody_wants_to_know_nothing_is_written(ledger: Ledger) -> None:
    hook(ledger.database, ["residency.*", "model.corrupted"])
    disabled = hook(ledger.database, ["*"])
    with ledger.database.session() as session:
        rows.change(session, disabled, enabled=False)
    for number in range(20):
        job = ledger.submit(Run(model_id="one", path="completions", request={"prompt": str(number)}), origin="test").job
        running = ledger.claim(job.id, job.ticket, "me")
        assert running is not None
        ledger.succeed(running.id, running.attempt, {})
    assert told(ledger.database) == []


def test_every_way_in_which_a_job_ends_is_told_once(ledger: Ledger) -> None:
    hook(ledger.database, ["job.*"])
    job = claimed(ledger)
    ledger.again(job.id, job.attempt, 0)
    ledger.cancel(job.id)  # while it waits
    ledger.cancel(job.id)
    job = claimed(ledger)
    assert ledger.succeed(job.id, job.attempt, {"a": 1})
    assert not ledger.fail(job.id, job.attempt, Failed("late", "It came too late."))
    job = claimed(ledger)
    ledger.fail(job.id, job.attempt, Failed("broken", "It broke: ünicode.", "Mend it.", {"n": 1}))
    ledger.retry(job.id)
    again = ledger.claim(job.id, ledger._get(job.id).ticket, "me")
    assert again is not None
    ledger.cancel(job.id)
    ledger.stop(job.id, again.attempt)
    ledger.reject("theirs", "model.nothing", {}, Failed("unknown_kind", "There is none."))
    job = claimed(ledger, "two")
    with ledger.database.session() as session:
        session.exec(update(Job).where(Job.id == job.id).values(lost=99, lease_until=1.0))  # type: ignore[arg-type] # a column
    assert ledger.recover_lost()
    assert told(ledger.database) == [
        ("job.cancelled", "one"), ("job.succeeded", "one"), ("job.failed", "one"), ("job.cancelled", "one"),
        ("job.rejected", None), ("job.failed", "two"),
    ]  # fmt: skip
    with ledger.database.reading() as session:
        broken = session.exec(select(WebhookEvent).where(WebhookEvent.type == "job.failed")).first()
    assert broken is not None
    assert broken.data["error"] == {
        "code": "broken", "message": "It broke: ünicode.", "hint": "Mend it.", "retryable": False, "details": {"n": 1},
    }  # fmt: skip
    assert broken.data["jobId"]
    assert (broken.data["kind"], broken.data["status"]) == ("model.download", "failed")


def test_a_delivery_that_ends_makes_no_other_one(ledger: Ledger) -> None:
    job = ledger.submit(Deliver(webhook_id=hook(ledger.database, ["*"])), origin="events").job
    running = ledger.claim(job.id, job.ticket, "me")
    assert running is not None
    ledger.succeed(running.id, running.attempt, {})
    assert told(ledger.database) == []


def test_models_and_memory_are_told_as_they_change(ledger: Ledger) -> None:
    database = ledger.database
    hook(database, ["model.*", "residency.*"])
    with database.session() as session:
        catalog.publish(session, installation())
    with database.session() as session:
        catalog.record_verify(session, "one", "r1", integrity=0.5, problems=[{"name": "a"}], full=True)
    with database.session() as session:
        catalog.record_verify(session, "one", "r1", integrity=0.5, problems=[{"name": "a"}], full=True)
    newer = installation()
    newer.revision = "r2"
    with database.session() as session:
        catalog.publish(session, newer)
        residency.start(session, Residency(
            id="r", model_id="one", model_type="llm", revision="r2", device="cpu", runtime="torch",
            state=ResidencyState.STARTING, started_at=0.0,
        ))  # fmt: skip
    with database.session() as session:
        residency.update_row(session, "r", state=ResidencyState.READY, memory_bytes=1)
        residency.flip(session, session.get_one(Residency, "r"))
    with database.session() as session:
        residency.update_row(session, "r", memory_bytes=2)
        residency.lose(session, residency.of_ids(["r"]))
    with database.session() as session:
        session.exec(update(Installation).values(latest_revision="r3"))
        session.exec(update(Installation).values(latest_revision="r3"))
    with pytest.raises(NotFound), database.session() as session:  # noqa: PT012 - what it did before is undone
        catalog.uninstall(session, "one")
        catalog.get_model(session, "nobody")
    with database.session() as session:
        catalog.uninstall(session, "one")
    assert [event for event, _ in told(database)] == [
        "model.available", "model.corrupted", "model.available", "residency.starting", "residency.ready",
        "residency.active", "residency.lost", "model.update_available", "model.removed",
    ]  # fmt: skip
    assert {model_id for _, model_id in told(database)} == {"one"}


def test_health_is_told_when_it_changes(ledger: Ledger) -> None:
    hook(ledger.database, ["health.*"])
    with ledger.database.session() as session:
        session.add(ModelHealth(model_id="one", published_at=1.0, state=Health.HEALTHY, since=1.0, checked_at=1.0))
    for health in (Health.HEALTHY, Health.HEALTHY, Health.UNHEALTHY, Health.UNKNOWN, Health.CORRUPTED, Health.HEALTHY):
        with ledger.database.session() as session:
            session.exec(update(ModelHealth).values(told=health, reasons=[{"code": "slow"}]))
    assert [event for event, _ in told(ledger.database)] == ["health.unhealthy", "health.corrupted", "health.healthy"]


def test_every_event_that_is_written_is_one_that_can_be_asked_for(ledger: Ledger) -> None:
    """Types that triggers make of states, against the list that people choose from."""
    hook(ledger.database, ["*"])
    with ledger.database.session() as session:
        catalog.publish(session, installation())
        residency.start(session, Residency(
            id="r", model_id="one", model_type="llm", revision="r1", device="cpu", runtime="torch",
            state=ResidencyState.STARTING, started_at=0.0,
        ))  # fmt: skip
        for state in InstallationState:
            session.exec(update(Installation).values(state=state))
        for residency_state in ResidencyState:
            session.exec(update(Residency).values(state=residency_state))
    types = {event for event, _ in told(ledger.database)}
    assert types <= webhooks.EVENTS.keys()
    of_states = {name for name in webhooks.EVENTS if name.startswith("residency.")} - {"residency.active"}
    assert of_states <= types


@pytest.mark.parametrize(
    ("event", "model_id", "events", "models", "wanted"),
    [
        ("job.failed", "a", ["*"], [], True), ("job.failed", "a", ["job.*"], [], True),
        ("job.failed", "a", ["job.failed"], [], True), ("job.failed", "a", ["job.succeeded", "model.*"], [], False),
        ("job.failed", "a", ["*"], ["a"], True), ("job.failed", "b", ["*"], ["a"], False),
        ("job.failed", None, ["*"], ["a"], False), ("job.rejected", None, ["*"], [], True),
        ("jobs.failed", "a", ["job.*"], [], False),
    ],
)  # fmt: skip
def test_filters(event: str, model_id: str | None, events: list[str], models: list[str], wanted: bool) -> None:
    assert webhooks.wanted(event, model_id, events, models) is wanted


def test_each_receiver_gets_what_it_wants_and_nothing_of_before(ledger: Ledger) -> None:
    database = ledger.database
    every = hook(database, ["*"])
    failures = hook(database, ["job.failed"], ["two"])
    for model_id in ("one", "two"):
        job = claimed(ledger, model_id)
        ledger.fail(job.id, job.attempt, Failed("broken", "It broke."))
    late = hook(database, ["*"])
    with database.session() as session:
        assert rows.fan_out(session) == 2
    with database.session() as session:
        assert rows.fan_out(session) == 0
        found = session.exec(select(Delivery)).all()
        assert sorted((row.webhook_id, row.model_id) for row in found) == sorted(
            [(every, "one"), (every, "two"), (failures, "two")]
        )
        assert set(rows.waiting(session)) == {every, failures}
        rows.remove(session, every)
        assert late not in rows.waiting(session)
        assert rows.waiting(session) == [failures]


def test_what_is_old_is_given_up_and_forgotten_and_can_be_replayed_before(ledger: Ledger) -> None:
    database, own = ledger.database, hook(ledger.database, ["*"])
    with database.session() as session:
        delivery = rows.ask_for_test(session, own)
        session.flush()
        with pytest.raises(Conflict):
            deliveries.replay(session, own, delivery.id)
        assert deliveries.give_up(session, 3600) == 0
        session.exec(update(Delivery).values(since=1.0, created_at=1.0))
        assert deliveries.give_up(session, 3600) == 1
        assert deliveries.prune(session, 3600) == 0
    with database.session() as session:
        dead = deliveries.find(session, own, delivery.id)
        assert (dead.state, (dead.error or {})["code"]) == (DEAD, "gave_up")
        replayed = deliveries.replay(session, own, delivery.id)
        assert (replayed.state, replayed.tries, replayed.error) == (PENDING, 0, None)
        assert deliveries.give_up(session, 3600) == 0, "it is as young as the ask"
        session.exec(update(Delivery).values(state=DEAD, ended_at=1.0))
        assert deliveries.prune(session, 3600) == 1


def test_the_deliveries_of_one_webhook_are_counted_without_reading_those_of_others(ledger: Ledger) -> None:
    database = ledger.database
    own, other = hook(database, ["*"]), hook(database, ["*"])
    with database.session() as session:
        for each in (own, other, other):
            rows.ask_for_test(session, each)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    with database.reading() as session:
        assert deliveries.counts(session, own) == {own: {PENDING: 1}}
    assert "webhook_deliveries.webhook_id = " in statements[-1]
    with database.reading() as session:
        assert deliveries.counts(session) == {own: {PENDING: 1}, other: {PENDING: 2}}


def test_a_webhook_that_goes_takes_its_deliveries_along(ledger: Ledger) -> None:
    with ledger.database.session() as session:
        session.exec(delete(Webhook))
    own = hook(ledger.database, ["*"])
    with ledger.database.session() as session:
        rows.ask_for_test(session, own)
    with ledger.database.session() as session:
        rows.remove(session, own)
        assert session.exec(select(Delivery)).all() == []


def test_signatures_are_those_of_the_specification() -> None:
    """The example that the libraries of standardwebhooks.com are tested with."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhooks.signed([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


def verifier() -> Any:
    """The function that the page tells people to use."""
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, Any] = {}
    exec(snippet, space)
    return space["verify"]


def test_the_page_verifies_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    import time

    settings, verify = Settings(data_dir=tmp_path), verifier()
    old, new = (webhooks.secret(settings, "wh_1", generation) for generation in (1, 2))
    body, moment = '{"type":"job.failed","data":{"x":"ünicode"}}'.encode(), int(time.time())
    both = webhooks.signed([new, old], "msg_1", moment, body)
    assert verify(webhooks.shown(old), both, body)
    assert verify(webhooks.shown(new), both, body)
    alone = webhooks.signed([new], "msg_1", moment, body)
    assert not verify(webhooks.shown(old), alone, body)
    assert not verify(webhooks.shown(new), alone, body + b" ")
    assert not verify(webhooks.shown(new), alone | {"webhook-id": "msg_2"}, body)
    assert not verify(webhooks.shown(new), webhooks.signed([new], "msg_1", moment - 3600, body), body)
    assert webhooks.secret(settings, "wh_2", 1) != old
    assert (tmp_path / "secrets" / "runner").stat().st_mode & 0o077 == 0
