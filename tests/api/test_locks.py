"""Locks over REST, on both kinds of database: written, planned, applied, and the rows that this leaves."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.db import catalog, jobs, locks
from shared.db.tables import Installation, Model
from shared.lock import Lock, LockedModel
from tests.api.conftest import BEFORE_THE_DATABASE, Served
from tests.factories.bundles import FILES, lock_of

PATH = "/api/v1/models/lock"
LOCK = lock_of(config={"context": 4096})
DEEP = lock_of(config={"deep": json.loads("[" * 40 + "]" * 40)})


def install(api: Served, entry: LockedModel, **changes: Any) -> None:
    """As a download would leave it."""
    row = {
        "model_id": entry.model_id, "model_type": entry.model_type, "revision": entry.revision, "state": "published",
        "path": "/x", "size": entry.size, "files": len(entry.files), "integrity": 1.0,
    }  # fmt: skip
    with api.front.database.session() as session:
        locks.settle(session, entry)
        catalog.publish(session, Installation(**{**row, "published_at": 0.0, "verified_at": 0.0, **changes}))
        locks.put_files(session, entry.model_id, entry.revision, entry.digests)


def entries() -> list[LockedModel]:
    return Lock.model_validate(LOCK).models


def live(api: Served, model_id: str) -> list[tuple[str, dict[str, Any]]]:
    with api.front.database.reading() as session:
        return [(job.kind, job.args) for job in jobs.find(session, model_id=model_id)]


def test_what_is_installed_is_locked_and_the_rest_is_told(api: Served) -> None:
    for entry in entries():
        install(api, entry)
    install(api, entries()[0].model_copy(update={"model_id": "mine"}), holder="folder", owned=False)
    told = api.http.get(PATH).json()
    assert Lock.model_validate(told["lock"]) == Lock.model_validate(LOCK)
    left = {each["modelId"]: each["code"] for each in told["leftOut"]}
    assert (left["one"], left["two"], left["mine"]) == ("model_not_installed", "model_not_installed", "not_in_store")
    assert all(each["hint"] for each in told["leftOut"])
    assert [entry["modelId"] for entry in api.http.get(f"{PATH}?model=birch").json()["lock"]["models"]] == ["birch"]
    for model_id, status in (("one", 409), ("mine", 409), ("nobody", 404)):
        assert api.http.get(f"{PATH}?model={model_id}").status_code == status


def test_apply_enters_what_is_new_and_asks_for_it_once(api: Served) -> None:
    planned = api.http.post(f"{PATH}/plan", json=LOCK).json()
    assert planned["counts"] == {"add": 2}
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: api.http.post(f"{PATH}/apply", json=LOCK), range(8)))
    assert {answer.status_code for answer in told} == {202}
    assert len({job["id"] for answer in told for job in answer.json()["jobs"]}) == 2
    for entry in entries():
        ((kind, args),) = live(api, entry.model_id)
        assert kind == "model.download"
        assert args["lock"] == entry.digest()
        with api.front.database.reading() as session:
            assert locks.demanded(session, entry.model_id, entry.digest()) == entry
            assert locks.settings_of(catalog.get_model(session, entry.model_id)) == entry.settings


def test_nothing_to_do_is_nothing_done(api: Served) -> None:
    for entry in entries():
        install(api, entry)
    applied = api.http.post(f"{PATH}/apply?prune=true", json=LOCK).json()
    assert (applied["jobs"], applied["plan"]["steps"], applied["plan"]["unchanged"]) == ([], [], 2)
    assert api.http.post(f"{PATH}/drift", json=LOCK).json() == {"drift": False, "findings": []}


def test_settings_change_at_once_and_those_of_a_new_revision_with_it(api: Served) -> None:
    acorn, birch = entries()
    install(api, acorn.model_copy(update={"config": {"context": 1}}))
    install(api, birch.model_copy(update={"config": {"context": 1}, "revision": "b" * 40}))
    applied = api.http.post(f"{PATH}/apply", json=LOCK).json()
    assert [job["kind"] for job in applied["jobs"]] == ["model.download"]
    configs = {one: api.http.get(f"/api/v1/models/{one}").json()["config"] for one in FILES}
    assert configs == {"acorn": {"context": 4096}, "birch": {"context": 1}}


def test_damage_is_repaired_and_what_is_extra_goes_only_when_told(api: Served) -> None:
    acorn, birch = entries()
    install(api, acorn, state="corrupt")
    install(api, birch)
    only = {**LOCK, "models": LOCK["models"][:1]}
    assert api.http.post(f"{PATH}/plan", json=only).json()["extra"] == ["birch"]
    assert [job["kind"] for job in api.http.post(f"{PATH}/apply", json=only).json()["jobs"]] == ["model.repair"]
    applied = api.http.post(f"{PATH}/apply?prune=true", json=only).json()
    assert [(job["kind"], job["modelId"]) for job in applied["jobs"]] == [
        ("model.repair", "acorn"), ("model.remove", "birch"),
    ]  # fmt: skip


def test_what_is_pinned_or_needed_is_left_out_of_what_is_pruned_and_told(api: Served) -> None:
    acorn, birch = entries()
    for entry in (acorn, birch, *(birch.model_copy(update={"model_id": name}) for name in ("elm", "oak"))):
        install(api, entry)
    api.http.post("/api/v1/models/elm/pin")
    api.http.put("/api/v1/models/acorn/fallback", json={"steps": [{"model": "birch"}]})
    only = {**LOCK, "models": LOCK["models"][:1]}
    applied = api.http.post(f"{PATH}/apply?prune=true", json=only).json()
    assert [(job["kind"], job["modelId"]) for job in applied["jobs"]] == [("model.remove", "oak")]
    assert applied["plan"]["counts"] == {"keep": 2, "remove": 1}
    told = {step["modelId"]: step["hint"] for step in applied["plan"]["steps"] if step["action"] == "keep"}
    assert told.keys() == {"birch", "elm"}
    assert "'acorn' may fall back to it" in told["birch"]
    assert "it is pinned" in told["elm"]
    assert "modelyard rm elm --force" in told["elm"]


def test_another_plan_than_was_seen_is_not_carried_out(api: Served) -> None:
    seen = api.http.post(f"{PATH}/plan", json=LOCK).json()["planId"]
    install(api, entries()[0])
    refused = api.http.post(f"{PATH}/apply?plan={seen}", json=LOCK)
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_changed")
    assert live(api, "birch") == []
    again = api.http.post(f"{PATH}/plan", json=LOCK).json()["planId"]
    assert api.http.post(f"{PATH}/apply?plan={again}", json=LOCK).status_code == 202


def test_one_model_that_cannot_be_changed_stops_all(api: Served) -> None:
    with api.front.database.session() as session:
        facts = {"type": "llm", "source": "huggingface", "source_url": "else/acorn"}
        catalog.add_model(session, Model(id="acorn", name="mine", created_at=0.0, updated_at=0.0, **facts))
    refused = api.http.post(f"{PATH}/apply", json=LOCK)
    assert (refused.status_code, refused.json()["code"]) == (409, "plan_blocked")
    assert "modelyard rm acorn" in refused.json()["hint"]
    assert api.http.get("/api/v1/models/birch").status_code == 404
    assert live(api, "birch") == []


def test_what_was_published_before_files_were_written_down_is_asked_for_later(api: Served) -> None:
    install(api, entries()[0])
    with api.front.database.session() as session:
        locks.put_files(session, "acorn", "another revision", [])
    for path in ("plan", "drift", "apply"):
        refused = api.http.post(f"{PATH}/{path}", json=LOCK)
        assert (refused.status_code, refused.json()["code"]) == (503, "files_unlisted")
        assert int(refused.headers["Retry-After"]) > 0


@BEFORE_THE_DATABASE
@pytest.mark.parametrize(
    "body",
    [
        {}, [], {**LOCK, "lockVersion": 2}, {**LOCK, "more": 1}, {"lockVersion": 1, "models": [{"modelId": "x"}]},
        lock_of(revision="../x"), DEEP, lock_of(name="a\u202eb"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_lock_is_refused_with_what_is_wrong(api: Served, body: Any) -> None:
    for path in ("plan", "drift", "apply"):
        refused = api.http.post(f"{PATH}/{path}", json=body)
        code = "invalid_value" if body == DEEP else "invalid_request"
        assert (refused.status_code, refused.json()["code"]) == (422, code)
        assert refused.json()["hint"]


def test_a_lock_that_goes_is_forgotten_with_its_model(api: Served) -> None:
    (entry, _) = entries()
    install(api, entry)
    with api.front.database.session() as session:
        digest = locks.demand(session, entry)
        catalog.forget_model(session, "acorn")
    install(api, entry)
    with api.front.database.reading() as session, pytest.raises(Exception, match="counts no longer"):
        locks.demanded(session, "acorn", digest)


@BEFORE_THE_DATABASE
@pytest.mark.parametrize("name", ["b", "../b.tar", "b.tar.gz", ".b.tar", "b%00.tar", "a" * 200 + ".tar"])
def test_a_bundle_is_named_and_never_a_path(api: Served, name: str) -> None:
    install(api, entries()[0])
    told = api.http.post("/api/v1/models/bundles", json={"name": name, "models": ["acorn"]})
    assert told.status_code == 422
    assert api.http.post(f"/api/v1/models/bundles/{name}/import").status_code in (404, 422)


def test_bundles_are_asked_for_as_jobs(api: Served) -> None:
    install(api, entries()[0])
    told = api.http.post("/api/v1/models/bundles", json={"name": "b.tar", "models": ["acorn"]})
    assert (told.status_code, told.json()["job"]["kind"]) == (202, "model.bundle")
    told = api.http.post("/api/v1/models/bundles/b.tar/import", json={"sha256": "0" * 64})
    assert (told.status_code, told.json()["job"]["kind"]) == (202, "model.unbundle")
    assert api.http.post("/api/v1/models/bundles/b.tar/import").json()["job"]["id"] != told.json()["job"]["id"]
    for model_id, status in (("one", 409), ("nobody", 404)):
        body = {"name": "b.tar", "models": [model_id]}
        assert api.http.post("/api/v1/models/bundles", json=body).status_code == status
    assert api.http.get("/api/v1/models/bundles").json()["code"] == "storage_unknown"
