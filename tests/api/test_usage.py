"""How often models are used, over REST."""

import math
from typing import Any

import pytest

from tests.api.conftest import Served
from tests.api.test_problems import GOOD, checked


def test_what_is_reported_is_told(api: Served) -> None:
    before = api.http.get("/api/v1/models/one/usage").json()
    assert (before["uses"], before["history"], before["p95Seconds"]) == (0, [], None)
    for seconds, failed in ((1.0, False), (3.0, True)):
        answer = api.http.post("/api/v1/models/one/usage", json={"seconds": seconds, "failed": failed})
        assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["uses"], told["failures"], told["meanSeconds"]) == (2, 1, 2.0)
    assert told["usesPerDay"] == pytest.approx(2 / 30), "it was entered long ago"
    assert [(day["uses"], day["failures"], day["meanSeconds"]) for day in told["history"]] == [(2, 1, 2.0)]
    page = api.http.get("/api/v1/usage", params={"days": 1}).json()
    assert [model["modelId"] for model in page["models"]] == ["one"]
    assert page["types"]["llm"]["uses"] == 2


def test_of_one_that_is_new_the_days_before_it_came_do_not_count(api: Served) -> None:
    assert api.http.post("/api/v1/models/add", json={**GOOD, "model_id": "fresh"}).status_code == 201
    answer = api.http.post("/api/v1/models/fresh/usage", json={"seconds": 1.5})
    assert answer.json()["usesPerDay"] == 1.0


@pytest.mark.parametrize(
    "body", [{}, [], None, {"seconds": -1}, {"seconds": "1"}, {"seconds": math.inf}, {"seconds": 1, "uses": 5}]
)
def test_what_is_no_use_is_refused(api: Served, body: Any) -> None:
    content = "null" if body is None else str(body).replace("'", '"').replace("inf", "Infinity")
    answer = api.http.post(
        "/api/v1/models/one/usage", content=content, headers={"Content-Type": "application/json"}
    )  # fmt: skip
    assert checked(answer) in (400, 422)


def test_of_nobody_nothing_is_told(api: Served) -> None:
    assert checked(api.http.get("/api/v1/models/nobody/usage")) == 404
    assert checked(api.http.post("/api/v1/models/nobody/usage", json={"seconds": 1})) == 404


def test_a_priority_follows_from_uses_and_may_be_set(api: Served) -> None:
    def of(model_id: str) -> tuple[str, bool]:
        model = api.http.get(f"/api/v1/models/{model_id}").json()
        return model["priority"], model["prioritySet"]

    assert of("one") == ("LOW", False)
    for _ in range(4):
        api.http.post("/api/v1/models/one/usage", json={"seconds": 1})
    assert of("one") == ("MEDIUM", False), "four in 30 days"
    changed = api.http.put("/api/v1/models/one/priority", json={"priority": "CRITICAL"}).json()
    assert (changed["priority"], changed["prioritySet"]) == of("one") == ("CRITICAL", True)
    assert of("two") == ("LOW", False)
    page = {model["modelId"]: model for model in api.http.get("/api/models/").json()["models"]}
    told = [(page[name]["priority"], page[name]["usesPerDay"]) for name in ("one", "two")]
    assert told == [("CRITICAL", pytest.approx(4 / 30)), ("LOW", 0.0)]
    assert api.http.put("/api/models/one/priority", json={"priority": None}).status_code == 200
    assert of("one") == ("MEDIUM", False)


@pytest.mark.parametrize("body", [{"priority": "URGENT"}, {"priority": 0}, {}, [], {"priority": "LOW", "by": "me"}])
def test_what_is_no_priority_is_refused(api: Served, body: Any) -> None:
    assert checked(api.http.put("/api/v1/models/one/priority", json=body)) == 422
    assert checked(api.http.put("/api/v1/models/nobody/priority", json={"priority": "LOW"})) == 404
