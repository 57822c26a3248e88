"""Webhooks over REST: their secret is shown once, and everything else whenever it is asked for."""

import json
from typing import Any

import pytest
from sqlmodel import select

from shared import webhooks
from shared.db import deliveries
from shared.db import webhooks as rows
from shared.db.webhooks import Delivery, Webhook
from tests.api.conftest import BEFORE_THE_DATABASE, Served

PATH = "/api/v1/webhooks"
GOOD = {"url": "https://ops.example.com/hook?token=abc", "events": ["job.failed", "model.*"], "models": ["one"]}


def made(api: Served, **changes: Any) -> dict[str, Any]:
    answer = api.http.post(PATH, json=GOOD | changes)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_the_secret_is_shown_once_and_is_in_no_row(api: Served) -> None:
    answer = api.http.post(PATH, json=GOOD)
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert answer.headers["location"] == f"{PATH}/{told['id']}"
    key = webhooks.secret(api.front.settings, told["id"], 1)
    assert told["secret"] == webhooks.shown(key)
    shown = [api.http.get(f"{PATH}/{told['id']}").json(), *api.http.get(PATH).json()["webhooks"]]
    shown.append(api.http.patch(f"{PATH}/{told['id']}", json={"description": "ops"}).json())
    assert [each["secret"] for each in shown] == [None] * 3
    audited = json.dumps(api.http.get("/api/v1/audit").json())
    with api.front.database.reading() as session:
        stored = json.dumps([hook.model_dump() for hook in session.exec(select(Webhook)).all()])
    for text in (audited, stored):
        assert told["secret"].removeprefix(webhooks.PREFIX) not in text
        assert key.hex() not in text
    assert "token=abc" not in audited

    rotated = api.http.patch(f"{PATH}/{told['id']}", json={"rotateSecret": True}).json()
    assert rotated["secret"] == webhooks.shown(webhooks.secret(api.front.settings, told["id"], 2))
    assert rotated["secret"] != told["secret"]


def test_it_is_listed_changed_and_removed(api: Served) -> None:
    told = made(api)
    own = f"{PATH}/{told['id']}"
    assert {name: told[name] for name in GOOD} == GOOD
    (listed,) = api.http.get(PATH).json()["webhooks"]
    assert listed == told | {"secret": None}
    assert api.http.get(PATH).json()["eventTypes"] == webhooks.EVENTS
    body = {"events": ["*"], "models": [], "enabled": False, "url": "http://other.example/x"}
    changed = api.http.patch(own, json=body).json()
    assert {name: changed[name] for name in body} == body
    assert api.http.patch(own, json={}).json() == changed
    assert api.http.post(f"{own}/test").json()["code"] == "webhook_disabled"
    assert api.http.delete(own).json() == {"id": told["id"]}
    for method, path in (
        ("GET", own), ("PATCH", own), ("DELETE", own), ("POST", f"{own}/test"), ("GET", f"{own}/deliveries"),
        ("POST", f"{own}/deliveries/x/replay"),
    ):  # fmt: skip
        answer = api.http.request(method, path, json={} if method == "PATCH" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "webhook_not_found"), path
    actions = [(row["action"], row["target"]) for row in api.http.get("/api/v1/audit").json()["entries"]]
    wanted = [(f"webhook.{each}", told["id"]) for each in ("remove", "change", "add")]
    assert actions == wanted, "and no row of the change that changed nothing"


@BEFORE_THE_DATABASE
@pytest.mark.parametrize(
    "body",
    [
        {}, {"url": "ftp://h.example/x"}, {"url": "https://me:pw@h.example/"}, {"url": "https:///x"},
        {"url": "x" * 2001},
        {"url": "http://h.example/ x"}, {"url": "https://h.example", "events": []},
        {"url": "https://h.example", "events": ["job.exploded"]}, {"url": "https://h.example", "events": ["jo*"]},
        {"url": "https://h.example", "models": ["../etc"]}, {"url": "https://h.example", "secret": "mine"},
        {"url": "https://h.example", "description": "\u202e"}, {"url": "https://h.example", "events": "job.failed"},
    ],
)  # fmt: skip
def test_what_is_no_webhook_is_refused(api: Served, body: dict[str, Any]) -> None:
    answer = api.http.post(PATH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert api.http.get(PATH).json()["webhooks"] == []


def test_deliveries_are_paged_filtered_and_replayed(api: Served) -> None:
    own = f"{PATH}/{made(api)['id']}"
    ids = [api.http.post(f"{own}/test").json()["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while cursor is not None or not seen:
        page = api.http.get(f"{own}/deliveries", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [each["id"] for each in page["deliveries"]]
        cursor = page["nextCursor"]
    assert sorted(seen) == sorted(ids)
    assert len(seen) == 5
    first = f"{own}/deliveries/{seen[-1]}/replay"
    assert api.http.post(first).json()["code"] == "delivery_pending"
    with api.front.database.session() as session:
        row = session.get_one(Delivery, seen[-1])
        rows.delivered(session, row.webhook_id, [(row, 204)])
    (delivered,) = api.http.get(f"{own}/deliveries", params={"state": "delivered"}).json()["deliveries"]
    assert (delivered["id"], delivered["tries"], delivered["status"]) == (seen[-1], 1, 204)
    assert delivered["payload"]["type"] == webhooks.TEST
    hook = api.http.get(own).json()
    assert (hook["pending"], hook["delivered"], hook["dead"]) == (4, 1, 0)
    replayed = api.http.post(first).json()
    assert (replayed["state"], replayed["tries"], replayed["nextAt"]) == ("pending", 0, None)
    assert api.http.post(f"{own}/deliveries/nobody/replay").json()["code"] == "delivery_not_found"
    for query in ({"state": "lost"}, {"limit": 0}, {"cursor": "forged"}):
        assert api.http.get(f"{own}/deliveries", params=query).status_code == 422, query
    other = f"{PATH}/{made(api)['id']}"
    assert api.http.post(f"{other}/deliveries/{seen[0]}/replay").status_code == 404, "it is another's"


@BEFORE_THE_DATABASE
def test_there_are_not_more_than_can_be_told(api: Served) -> None:
    for _ in range(rows.MOST):
        made(api)
    answer = api.http.post(PATH, json=GOOD)
    assert (answer.status_code, answer.json()["code"]) == (507, "too_many_webhooks")
    with api.front.database.reading() as session:
        assert deliveries.counts(session) == {}
