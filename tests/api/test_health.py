"""How models are, over REST."""

from typing import Any

import pytest

from shared.db import catalog, health
from shared.db.health import Found
from shared.db.tables import Installation, Residency
from shared.jobs import Ledger
from tests.api.conftest import Served
from tests.api.test_problems import checked


@pytest.fixture
def installed(ledger: Ledger) -> Ledger:
    with ledger.database.session() as session:
        session.add(
            Installation(
                model_id="one", model_type="llm", revision="1", latest_revision="2", state="published", path="/x",
                size=1, files=1, integrity=1.0, published_at=1.0, verified_at=1.0,
            )
        )  # fmt: skip
    return ledger


def check(ledger: Ledger, job_id: str, outcome: bool, seconds: float) -> None:
    resident = Residency(
        id="r", model_id="one", model_type="llm", revision="1", device="cpu", runtime="torch", state="ready",
        load_seconds=2.0, context_length=256, started_at=1.0,
    )  # fmt: skip
    reasons = [] if outcome else [{"code": "slow_answer", "message": "It took long.", "hint": "Look."}]
    with ledger.database.session() as session:
        before = catalog.installed(session, "one")
        health.record(session, before, Found(job_id, (outcome,), reasons, seconds, asked=True, resident=resident))


def test_what_was_found_is_told_with_its_age(api: Served, installed: Ledger) -> None:
    fresh = api.http.get("/api/v1/models/one/health").json()
    assert (fresh["health"], fresh["performance"], fresh["integrity"]) == ("healthy", None, 1.0)
    assert fresh["checks"]["live"] == {"at": None, "ageSeconds": None}
    assert fresh["checks"]["deep"]["ageSeconds"] > 1e9
    assert [each["code"] for each in fresh["recommendations"]] == ["proven_long_ago", "newer"]
    check(installed, "well", True, 1.0)
    for number in range(3):
        check(installed, f"slow {number}", False, 4.0)
    told = api.http.get("/api/models/one/health").json()
    assert (told["health"], told["corrupted"], told["recent"]) == ("unhealthy", False, ["well", *["failed"] * 3])
    assert (told["usualAnswerSeconds"], told["lastAnswerSeconds"]) == (1.0, 4.0)
    assert told["performance"] == pytest.approx(0.75 * 0.25 + 0.25)
    assert 0 <= told["checks"]["live"]["ageSeconds"] < 600
    assert told["reasons"] == [{"code": "slow_answer", "message": "It took long.", "hint": "Look."}]
    assert told["recommendations"][0]["command"] == "modelyard reload one"
    shown = api.http.get("/api/v1/models/one").json()
    assert (shown["health"], shown["performance"]) == ("unhealthy", told["performance"])
    assert shown["healthCheckedAt"] == told["checks"]["cheap"]["at"]
    page = {model["modelId"]: model["health"] for model in api.http.get("/api/v1/models").json()["models"]}
    assert (page["one"], page["two"]) == ("unhealthy", "unknown")


def test_of_what_is_not_there_nothing_is_known(api: Served) -> None:
    told = api.http.get("/api/v1/models/two/health").json()
    assert (told["health"], told["integrity"], told["checks"]["cheap"]["at"]) == ("unknown", None, None)
    assert [each["command"] for each in told["recommendations"]] == ["modelyard pull two"]
    assert checked(api.http.post("/api/v1/models/two/health")) == 409
    assert checked(api.http.get("/api/v1/models/nobody/health")) == 404
    assert checked(api.http.post("/api/v1/models/nobody/health")) == 404


@pytest.mark.parametrize("query", [{"level": "closely"}, {"load": "true"}, {"level": "deep", "load": "true"}])
def test_what_is_no_check_is_refused(api: Served, installed: Ledger, query: dict[str, Any]) -> None:
    assert checked(api.http.post("/api/v1/models/one/health", params=query)) == 422


def test_a_check_is_a_job_and_asked_again_the_same(api: Served, installed: Ledger) -> None:
    first = api.http.post("/api/v1/models/one/health", params={"level": "live", "load": "true"})
    assert (first.status_code, first.json()["job"]["kind"]) == (202, "model.health_check")
    assert first.json()["job"]["priority"] == "LOW"
    again = api.http.post("/api/v1/models/one/health", params={"level": "live", "load": "true"})
    assert (again.status_code, again.json()["job"]["id"]) == (200, first.json()["job"]["id"])
    other = api.http.post("/api/v1/models/one/health", params={"level": "deep"})
    assert other.json()["job"]["id"] != first.json()["job"]["id"]
