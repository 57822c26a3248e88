"""Webhooks go to a real server on loopback: signed, bounded, again until they are taken, and never elsewhere."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlmodel import select, update

from shared import webhooks
from shared.contracts import Deliver, Download
from shared.db import deliveries
from shared.db import webhooks as rows
from shared.db.session import now
from shared.db.tables import Job
from shared.db.webhooks import DEAD, DELIVERED, PENDING, Delivery, Webhook
from shared.errors import Cancelled, Failed
from shared.settings import WebhookSettings
from tests.fakes.receiver import Receiver
from tests.shared.test_webhooks import verifier
from tests.workers.jobs.conftest import Place
from workers.courier import carry
from workers.job import BODIES


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class Told:
    """A webhook, and shorthands for what tests do with it."""

    def __init__(self, place: Place, url: str, events: list[str]) -> None:
        self.place, self.database = place, place.services.database
        self.id = rows.new_id()
        self.key = webhooks.secret(place.services.settings, self.id, 1)
        with self.database.session() as session:
            rows.add(session, Webhook(
                id=self.id, url=url, events=events, models=[], wants="", created_at=0.0,
                secret_check=webhooks.check(self.key),
            ))  # fmt: skip

    def fail_a_job(self, model_id: str = "one") -> None:
        ledger = self.place.services.ledger
        job = ledger.submit(Download(model_id=model_id), origin="test").job
        claimed = ledger.claim(job.id, job.ticket, "me")
        assert claimed is not None
        ledger.fail(job.id, claimed.attempt, Failed("broken", "It broke."))

    def ask(self) -> str:
        with self.database.session() as session:
            return rows.ask_for_test(session, self.id).id

    def turn(self) -> dict[str, Any]:
        """What a job does, whatever the clock says of the last try."""
        with self.database.session() as session:
            session.exec(update(Delivery).values(next_at=0.0))
            session.exec(update(Webhook).values(held_until=0.0))
        return self.place.run(Deliver(webhook_id=self.id))

    def all(self) -> list[Delivery]:
        with self.database.reading() as session:
            return deliveries.page(session, self.id, state=None, before=None, limit=500)

    def row(self) -> Webhook:
        with self.database.reading() as session:
            return rows.find(session, self.id)


def settled(place: Place, receiver: Receiver, **more: Any) -> None:
    own = WebhookSettings(allowed_hosts=[receiver.place], **more)
    place.services.settings = place.services.settings.model_copy(update={"webhooks": own})


@pytest.fixture
def told(place: Place, receiver: Receiver) -> Told:
    settled(place, receiver, tries=3, backoff_seconds=1000, backoff_cap_seconds=1500)
    return Told(place, f"{receiver.url}?for=me", ["job.*"])


def test_what_happened_arrives_signed(told: Told, receiver: Receiver) -> None:
    told.fail_a_job()
    carry(told.place.services)
    with told.database.reading() as session:
        (asked,) = session.exec(select(Job).where(Job.kind == Deliver.kind)).all()
    assert (asked.origin, asked.args) == ("events", {"webhook_id": told.id})
    carry(told.place.services)  # while that job lives there is no other one
    with told.database.reading() as session:
        assert len(session.exec(select(Job).where(Job.kind == Deliver.kind)).all()) == 1
    assert told.turn() == {"delivered": 1, "failed": 0}
    (message,) = receiver.messages
    assert message.path == "/hook?for=me"
    assert verifier()(webhooks.shown(told.key), message.headers, message.body)
    sent = json.loads(message.body)
    assert (sent["type"], sent["data"]["modelId"], sent["data"]["error"]["code"]) == ("job.failed", "one", "broken")
    (delivery,) = told.all()
    assert message.headers["webhook-id"] == delivery.id
    assert (delivery.state, delivery.tries, delivery.status, delivery.error) == (DELIVERED, 1, 204, None)
    assert told.turn() == {"delivered": 0, "failed": 0}


def test_many_go_over_one_connection_in_their_order(told: Told, receiver: Receiver) -> None:
    for number in range(20):
        told.fail_a_job(f"m{number}")
    carry(told.place.services)
    assert told.turn() == {"delivered": 20, "failed": 0}
    assert [json.loads(message.body)["data"]["modelId"] for message in receiver.messages] == [
        f"m{number}" for number in range(20)
    ]
    assert len({message.peer for message in receiver.messages}) == 1


def test_one_that_is_refused_is_tried_again_later_and_others_before_it(told: Told, receiver: Receiver) -> None:
    told.ask()
    receiver.manners.answers.append((500, {}))
    assert told.turn() == {"delivered": 0, "failed": 1}
    (delivery,) = told.all()
    assert (delivery.state, delivery.tries, delivery.status) == (PENDING, 1, 500)
    assert (delivery.error or {})["code"] == "webhook_refused"
    with told.database.reading() as session:
        moment = rows.clock(session)
        assert rows.waiting(session) == [], "its receiver is left alone"
    assert 0 < delivery.next_at - moment <= 1000
    assert 0 < told.row().held_until - moment <= 1000
    assert told.place.run(Deliver(webhook_id=told.id)) == {"delivered": 0, "failed": 0}
    assert told.row().failures == 1

    fresh = told.ask()
    assert told.turn() == {"delivered": 2, "failed": 0}
    assert [message.headers["webhook-id"] for message in receiver.messages] == [delivery.id, fresh, delivery.id]
    assert (told.row().failures, told.row().held_until) == (0, 0.0)


def test_after_the_last_try_it_is_dead_with_its_reason_and_can_be_replayed(told: Told, receiver: Receiver) -> None:
    own = told.ask()
    receiver.manners.answers.extend([(503, {})] * 3)
    for _ in range(3):
        told.turn()
    (delivery,) = told.all()
    assert (delivery.state, delivery.tries, (delivery.error or {})["code"]) == (DEAD, 3, "webhook_refused")
    assert told.turn() == {"delivered": 0, "failed": 0}
    with told.database.session() as session:
        deliveries.replay(session, told.id, own)
    assert told.turn() == {"delivered": 1, "failed": 0}
    assert {message.headers["webhook-id"] for message in receiver.messages} == {own}


def test_who_asks_to_wait_is_waited_for(told: Told, receiver: Receiver) -> None:
    told.ask()
    receiver.manners.answers.append((429, {"Retry-After": "3000"}))
    told.turn()
    (delivery,) = told.all()
    with told.database.reading() as session:
        moment = rows.clock(session)
    assert 2900 < delivery.next_at - moment <= 3000
    assert 2900 < told.row().held_until - moment <= 3000


def test_redirects_are_not_followed(told: Told, receiver: Receiver) -> None:
    told.ask()
    receiver.manners.answers.append((307, {"Location": "/elsewhere"}))
    told.turn()
    (delivery,) = told.all()
    assert (delivery.status, (delivery.error or {})["code"]) == (307, "webhook_redirected")
    assert [message.path for message in receiver.messages] == ["/hook?for=me"]


def test_one_that_wants_nothing_any_more_is_told_nothing(told: Told, receiver: Receiver) -> None:
    told.ask()
    receiver.manners.answers.append((410, {}))
    told.turn()
    assert [row.state for row in told.all()] == [DEAD]
    hook = told.row()
    assert (hook.enabled, "410" in (hook.disabled_because or "")) == (False, True)


@pytest.mark.parametrize("manner", ["slow", "drip"])
def test_one_that_does_not_end_its_answer_is_left(place: Place, receiver: Receiver, manner: str) -> None:
    settled(place, receiver, timeout_seconds=0.5)
    told = Told(place, receiver.url, ["*"])
    told.ask()
    setattr(receiver.manners, manner, True)
    assert told.turn() == {"delivered": 0, "failed": 1}
    (delivery,) = told.all()
    assert (delivery.status, (delivery.error or {})["code"]) == (None, "webhook_timeout")


def test_one_that_hangs_up_or_is_not_there_is_tried_again(told: Told, receiver: Receiver) -> None:
    told.ask()
    receiver.manners.cut = True
    told.turn()
    (delivery,) = told.all()
    assert (delivery.state, (delivery.error or {})["code"]) == (PENDING, "webhook_unreachable")
    receiver.manners.cut = False
    assert told.turn() == {"delivered": 1, "failed": 0}
    gone = Told(told.place, receiver.url.replace(receiver.place, "127.0.0.1:9"), ["*"])
    settings = told.place.services.settings.webhooks
    settings.allowed_hosts.append("127.0.0.1:9")
    gone.ask()
    assert gone.turn() == {"delivered": 0, "failed": 1}


def test_a_connection_that_the_receiver_closed_meanwhile_costs_no_try(told: Told, receiver: Receiver) -> None:
    first = told.ask()
    second = told.ask()
    receiver.manners.answers.append((204, {"Connection": "close"}))
    assert told.turn() == {"delivered": 2, "failed": 0}
    assert {message.headers["webhook-id"] for message in receiver.messages} == {first, second}
    assert [row.tries for row in told.all()] == [1, 1]


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "169.254.169.254"])
def test_nothing_goes_to_private_addresses(place: Place, receiver: Receiver, host: str) -> None:
    """Also not to those that sources may use."""
    _, _, port = receiver.place.rpartition(":")
    listed = {
        "sources": place.services.settings.sources.model_copy(update={"allowed_hosts": ["127.0.0.1", "localhost"]})
    }
    place.services.settings = place.services.settings.model_copy(update=listed)
    told = Told(place, f"http://{host.format(port=port)}/hook", ["*"])
    told.ask()
    assert told.turn() == {"delivered": 0, "failed": 1}
    (delivery,) = told.all()
    assert (delivery.error or {})["code"] == "source_not_allowed"
    if "169" not in host:
        assert "MODELYARD_WEBHOOKS__ALLOWED_HOSTS" in (delivery.error or {})["hint"]
    assert receiver.messages == []


def test_a_worker_that_dies_between_the_try_and_its_record_sends_it_again(told: Told, receiver: Receiver) -> None:
    """The job stops where its receiver has the message and nobody knows; the next attempt has the same message."""
    own = told.ask()
    work = told.place.work(Deliver(webhook_id=told.id))
    receiver.manners.on = lambda _: work.stop(Cancelled("as if it died"))
    receiver.manners.slow = True
    with pytest.raises(Cancelled):
        BODIES[Deliver.kind](Deliver(webhook_id=told.id), work)
    (delivery,) = told.all()
    assert (delivery.state, delivery.tries) == (PENDING, 0)
    told.place.services.ledger.stop(work.job_id, work.attempt)
    told.place.services.ledger.cancel(work.job_id)
    receiver.manners.on, receiver.manners.slow = None, False
    assert told.turn() == {"delivered": 1, "failed": 0}
    assert [message.headers["webhook-id"] for message in receiver.messages] == [own, own]


def test_two_that_send_the_same_count_one_try(told: Told) -> None:
    told.ask()
    with told.database.session() as session:
        found = rows.due(session, told.id, 10)
    assert found is not None
    (delivery,) = found[1]
    error = {"code": "x"}
    for _ in range(2):
        with told.database.session() as session:
            rows.failed(session, delivery, error, status=None, delay=10, hold=10)
    with told.database.session() as session:
        rows.delivered(session, told.id, [(delivery, 204)])
    (row,) = told.all()
    assert (row.state, row.tries, told.row().failures) == (PENDING, 1, 1)


def test_after_a_new_secret_both_sign_for_a_day(told: Told, receiver: Receiver) -> None:
    new = webhooks.secret(told.place.services.settings, told.id, 2)
    with told.database.session() as session:
        rows.rotate(session, told.id, webhooks.check(new))
    verify = verifier()
    told.ask()
    told.turn()
    message = receiver.messages[-1]
    assert verify(webhooks.shown(told.key), message.headers, message.body)
    assert verify(webhooks.shown(new), message.headers, message.body)
    with told.database.session() as session:
        session.exec(update(Webhook).values(rotated_at=now() - webhooks.ROTATION_SECONDS - 1))
    told.ask()
    told.turn()
    message = receiver.messages[-1]
    assert not verify(webhooks.shown(told.key), message.headers, message.body)
    assert verify(webhooks.shown(new), message.headers, message.body)


def test_with_another_secret_of_the_installation_nothing_is_signed(told: Told, receiver: Receiver) -> None:
    (told.place.services.settings.data_dir / "secrets" / "runner").write_text("another")
    told.ask()
    assert told.turn() == {"delivered": 0, "failed": 1}
    (delivery,) = told.all()
    assert (delivery.error or {})["code"] == "webhook_secret_changed"
    assert receiver.messages == []


def test_one_that_is_disabled_or_gone_is_told_nothing(told: Told, receiver: Receiver) -> None:
    told.ask()
    with told.database.session() as session:
        rows.change(session, told.id, enabled=False)
    assert told.turn() == {"delivered": 0, "failed": 0}
    with told.database.session() as session:
        rows.change(session, told.id, enabled=True)
    assert told.turn() == {"delivered": 1, "failed": 0}
    with told.database.session() as session:
        rows.remove(session, told.id)
    assert told.place.run(Deliver(webhook_id=told.id)) == {"delivered": 0, "failed": 0}
