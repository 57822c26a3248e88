"""The retention policy and cleanups over REST, and removals of what is needed."""

from typing import Any

import pytest
from sqlmodel import col, update

from shared.db import catalog, jobs, retention, upkeep
from shared.db.tables import Installation, Model
from shared.jobs import Ledger
from shared.retention import DAY, Hold
from tests.api.conftest import BEFORE_THE_DATABASE, Served

GIB = 1024**3


@pytest.fixture
def stocked(api: Served) -> Served:
    """Model `one` of 3 GiB and `two` of 2 GiB, of which 1 GiB is the same; nobody has used `one` for sixty days."""
    with api.front.database.session() as session:
        for name, size in (("one", 3), ("two", 2)):
            catalog.publish(session, Installation(
                model_id=name, model_type="llm", revision="r1", state="published", path=f"/store/{name}",
                size=size * GIB, files=1, integrity=1.0, published_at=0.0, verified_at=0.0,
            ))  # fmt: skip
        old = {"published_at": Installation.published_at - 60 * DAY}
        session.exec(update(Installation).where(col(Installation.model_id) == "one").values(**old))
        report(session)
    return api


def report(session: Any, **more: Any) -> None:
    found = {
        "diskTotal": 100 * GIB, "diskUsed": 50 * GIB, "diskFree": 50 * GIB, "trashFrees": 2 * GIB,
        "byModel": [{"modelId": "one", "size": 3 * GIB}, {"modelId": "two", "size": 2 * GIB}],
        "aloneBytes": {"one": 2 * GIB, "two": GIB}, "shares": [{"models": ["one", "two"], "size": GIB}], **more,
    }  # fmt: skip
    upkeep.put_report(session, "s", "local", found)


def test_the_policy_is_the_settings_until_somebody_changes_it(api: Served) -> None:
    as_set = {
        "maxUnusedDays": 30.0, "maxStorageUsagePercent": 80.0, "minUsageFrequency": 0.1, "recentDays": 7.0,
        "preserveRecentlyDownloaded": True, "preserveHighPriority": True, "automatic": False, "changed": [],
        "checkDays": 1.0,
    }  # fmt: skip
    assert api.http.get("/api/v1/retention").json() == as_set
    told = api.http.put("/api/v1/retention", json={"max_unused_days": 14, "automatic": True})
    assert told.json() == as_set | {
        "maxUnusedDays": 14.0, "automatic": True, "changed": ["automatic", "maxUnusedDays"]
    }  # fmt: skip
    assert api.http.get("/api/v1/retention").json() == told.json()
    with api.front.database.reading() as session:
        assert retention.policy(session, api.front.settings.retention).max_unused_days == 14
    assert api.http.put("/api/v1/retention", json={}).json() == as_set


NO_POLICIES: list[Any] = [
    {"maxUnusedDays": 0}, {"maxUnusedDays": -1}, {"maxUnusedDays": "14"}, {"maxUnusedDays": 1e300},
    {"maxStorageUsagePercent": 101}, {"minUsageFrequency": -0.1}, {"recentDays": -1}, {"automatic": "yes"},
    {"checkDays": 2}, {"days": 3}, [],
]  # fmt: skip
NO_CLEANUPS: list[Any] = [{"dryRun": 1}, {"models": []}, {"models": ["../etc"]}, {"models": "one"}, {"force": True}]


@BEFORE_THE_DATABASE
def test_what_is_no_policy_and_no_cleanup_is_refused(api: Served) -> None:
    for body in NO_POLICIES:
        told = api.http.put("/api/v1/retention", json=body)
        assert (told.status_code, told.json()["code"]) == (422, "invalid_request"), body
    for body in NO_CLEANUPS:
        assert api.http.post("/api/v1/cleanup", json=body).status_code == 422, body


def test_recommendations_come_with_their_reasons_and_bytes(stocked: Served) -> None:
    told = stocked.http.get("/api/v1/cleanup").json()
    (one,) = told["recommendations"]
    assert (one["modelId"], one["reason"], one["frees"], one["size"]) == ("one", "unused", 2 * GIB, 3 * GIB)
    assert (one["priority"], one["lastUsedAt"], round(one["idleDays"])) == ("LOW", None, 60)
    cost = 3 * GIB / 12.5e6 + 60
    assert one["fetchSeconds"] == pytest.approx(cost, abs=0.1)
    assert one["value"] == pytest.approx(cost / (60 * 2.5), rel=1e-3), "with its half of what it shares"
    assert told["disk"] == {
        "total": 100 * GIB, "used": 50 * GIB, "leavesWithTrash": 2 * GIB, "over": 0, "usedAfter": 46 * GIB,
    }  # fmt: skip
    assert (told["frees"], told["kept"]) == (2 * GIB, [])


def test_recommendations_come_in_pages_of_one_moment(api: Served) -> None:
    """Though what each is worth falls from request to request, and all have about the same."""
    with api.front.database.session() as session:
        for number in range(7):
            name = f"oak-{number}"
            model = Model(id=name, type="llm", name=name, source="url", source_url="x", created_at=0.0, updated_at=0.0)
            catalog.add_model(session, model)
            catalog.publish(session, Installation(
                model_id=name, model_type="llm", revision="r1", state="published", path=f"/store/{name}",
                size=(number // 2) * GIB, files=1, integrity=1.0, published_at=0.0, verified_at=0.0,
            ))  # fmt: skip
            session.exec(update(Model).where(col(Model.id) == name).values(pinned=number > 4))
        session.exec(update(Installation).values(published_at=Installation.published_at - 60 * DAY))
        report(session, byModel=[], aloneBytes={}, shares=[])
    whole = api.http.get("/api/v1/cleanup").json()
    assert (whole["nextCursor"], whole["totalRecommendations"], whole["totalKept"]) == (None, 3, 2)
    pages, cursor = [], None
    for _ in range(3):
        pages.append(
            api.http.get("/api/v1/cleanup", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        )
        cursor = pages[-1]["nextCursor"]
    assert cursor is None
    for name in ("recommendations", "kept"):
        found = [each for page in pages for each in page[name]]
        assert [each["modelId"] for each in found] == [each["modelId"] for each in whole[name]]
    assert {page["frees"] for page in pages} == {whole["frees"]}, "of all, on every page"
    assert [len(page["kept"]) for page in pages] == [0, 1, 1]
    for cursor in ("x", pages[0]["nextCursor"][:-2]):
        assert api.http.get("/api/v1/cleanup", params={"cursor": cursor}).json()["code"] == "invalid_cursor"


def test_what_holds_a_model_is_told(stocked: Served) -> None:
    stocked.http.post("/api/v1/models/one/pin")
    stocked.http.put("/api/v1/models/two/fallback", json={"steps": [{"model": "one"}]})
    told = stocked.http.get("/api/v1/cleanup").json()
    assert told["recommendations"] == []
    (kept,) = told["kept"]
    assert (kept["modelId"], kept["holds"]) == ("one", [Hold.PINNED, Hold.FALLBACK])


def test_a_cleanup_is_a_job(stocked: Served, ledger: Ledger) -> None:
    dry = stocked.http.post("/api/v1/cleanup", json={"dryRun": True})
    real = stocked.http.post("/api/v1/cleanup", json={"models": ["one"]})
    assert (dry.status_code, real.status_code) == (202, 202)
    assert stocked.http.post("/api/v1/cleanup", json={"dry_run": True}).json()["job"]["id"] == dry.json()["job"]["id"]
    assert stocked.http.post("/api/v1/cleanup").status_code == 202
    with ledger.database.reading() as session:
        args = {job.id: job.args for job in jobs.find(session, kind="model.cleanup")}
    assert args[dry.json()["job"]["id"]] == {"dry_run": True}
    assert args[real.json()["job"]["id"]] == {"dry_run": False, "models": ["one"]}
    assert len(args) == 3


@pytest.mark.fault("F-58")
def test_without_its_disk_or_a_look_at_it_there_is_no_cleanup(api: Served) -> None:
    assert refused(api) == {(503, "storage_unknown")}
    with api.front.database.session() as session:
        report(session)
        upkeep.report_away(session, "local")
    assert refused(api) == {(503, "store_missing")}


def refused(api: Served) -> set[tuple[int, str]]:
    told = (api.http.get("/api/v1/cleanup"), api.http.post("/api/v1/cleanup", json={"dryRun": True}))
    return {(answer.status_code, answer.json()["code"]) for answer in told}


def test_a_removal_tells_who_needs_the_model(stocked: Served) -> None:
    stocked.http.put("/api/v1/models/two/fallback", json={"steps": [{"contextLength": 2048}]})
    assert stocked.http.delete("/api/v1/models/two").status_code == 202, "nobody needs it"
    stocked.http.post("/api/v1/models/one/pin")
    stocked.http.put("/api/v1/models/two/fallback", json={"steps": [{"model": "one"}]})
    told = stocked.http.delete("/api/v1/models/one")
    problem = told.json()
    assert (told.status_code, problem["code"]) == (409, "model_needed")
    assert problem["detail"] == "'one' is needed: it is pinned, and 'two' may fall back to it."
    assert problem["details"] == {"pinned": True, "fallbackOf": ["two"], "baseOf": []}
    assert "modelyard unpin one" in problem["hint"]
    assert "--force" in problem["hint"]
    assert stocked.http.request("DELETE", "/api/delete", json={"model": "one"}).status_code == 409
    assert stocked.http.delete("/api/v1/models/one?force=true").status_code == 202
