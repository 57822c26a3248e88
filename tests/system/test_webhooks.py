"""Webhooks from the whole service to a server on loopback, also when workers die while it has the message."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.receiver import Message, Receiver
from tests.shared.test_webhooks import verifier
from tests.system.conftest import Yard, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def yard(tmp_path: Path, hub_root: Path, receiver: Receiver) -> Iterator[Yard]:
    settings = {
        "MODELYARD_WEBHOOKS__ALLOWED_HOSTS": receiver.place, "MODELYARD_WEBHOOKS__BACKOFF_SECONDS": "0.5",
        "MODELYARD_JOBS__LEASE_SECONDS": "3", "MODELYARD_JOBS__RESCUE_SECONDS": "1",
    }  # fmt: skip
    with opened(tmp_path / "yard", hub_root, **settings) as yard:
        yield yard


def types(messages: list[Message]) -> list[str]:
    return [json.loads(message.body)["type"] for message in messages]


def test_a_receiver_is_told_whatever_dies(yard: Yard, receiver: Receiver) -> None:
    body = {"url": receiver.url, "events": ["job.*", "model.*", "residency.active"]}
    hook = yard.post("/api/v1/webhooks", body).json()
    receiver.manners.answers.append((500, {}))
    tested = yard.post(f"/api/v1/webhooks/{hook['id']}/test").json()
    first = receiver.wait(lambda messages: len(messages) >= 2)
    assert {message.headers["webhook-id"] for message in first} == {tested["id"]}, "refused once, and sent again"

    died: list[str] = []

    def die(message: Message) -> None:
        """The first that a job is told with: every io worker dies while its receiver has the message."""
        if json.loads(message.body)["type"] == "job.succeeded" and not died:
            died.append(message.headers["webhook-id"])
            for process in yard.instance.processes():
                if process.name.startswith("io") and process.pid:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)

    receiver.manners.on = die
    yard.pull("acorn", "tiny/acorn")

    def twice(messages: list[Message]) -> Any:
        return died and sum(message.headers["webhook-id"] == died[0] for message in messages) >= 2

    told = receiver.wait(twice, 180)
    assert {"model.available", "job.succeeded"} <= set(types(told))
    yard.done("/api/v1/models/activate", {"model_id": "acorn"})
    told = receiver.wait(lambda messages: "residency.active" in types(messages), 180)
    verify = verifier()
    assert all(verify(hook["secret"], message.headers, message.body, 400) for message in told)
    ended = [
        json.loads(message.body)["data"] for message in told if json.loads(message.body)["type"].startswith("job.")
    ]
    assert {job["kind"] for job in ended} <= {"model.download", "model.switch"}, "no delivery tells of itself"
    dead = yard.http.get(f"/api/v1/webhooks/{hook['id']}/deliveries", params={"state": "dead"}).json()["deliveries"]
    assert dead == []
    assert yard.http.delete(f"/api/v1/webhooks/{hook['id']}").status_code == 200
