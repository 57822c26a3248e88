"""Schedules over REST."""

from datetime import datetime
from typing import Any

import pytest

from shared.limits import WEEK, Day
from tests.api.conftest import BEFORE_THE_DATABASE, Served

PATH = "/api/v1/schedules"


def named(api: Served) -> dict[str, Any]:
    return {one["name"]: one for one in api.http.get(PATH).json()["schedules"]}


def test_what_is_done_by_the_clock_is_listed(api: Served) -> None:
    found = named(api)
    assert {"rescue", "scrub", "update-check", "empty-trash"} <= found.keys()
    scrub = found["scrub"]
    assert (scrub["enabled"], scrub["every"], scrub["changed"], scrub["lastRun"]) == (True, 30 * 86_400, False, None)
    assert scrub["setting"] == "MODELYARD_STORE__SCRUB_DAYS"
    assert scrub["nextRun"]
    assert not found["rescue"]["changeable"]
    assert (found["rescan"]["enabled"], found["rescan"]["nextRun"]) == (False, None)


def test_one_is_changed_and_changed_back(api: Served) -> None:
    changed = api.http.patch(f"{PATH}/update-check", json={"every": "12h", "enabled": False}).json()
    assert (changed["every"], changed["enabled"], changed["nextRun"], changed["changed"]) == (43_200, False, None, True)
    assert named(api)["update-check"]["every"] == 43_200
    back = api.http.patch(f"{PATH}/update-check", json={"every": None, "enabled": None}).json()
    assert (back["every"], back["enabled"], back["changed"]) == (86_400, True, False)
    assert back["defaultEvery"] == 86_400


def test_a_change_that_names_nothing_changes_nothing(api: Served) -> None:
    before = named(api)["scrub"]
    answer = api.http.patch(f"{PATH}/scrub", json={})
    assert (answer.status_code, answer.json()["every"], answer.json()["changed"]) == (200, before["every"], False)


def test_one_has_its_turns_in_a_window_alone(api: Served) -> None:
    window = {"days": ["SAT"], "start": "01:00", "end": "05:00"}
    changed = api.http.patch(f"{PATH}/scrub", json={"window": window}).json()
    assert changed["window"] == {**window, "timeZone": "UTC"}
    assert datetime.fromisoformat(changed["nextRun"]).weekday() == WEEK.index(Day.SAT)
    assert api.http.patch(f"{PATH}/scrub", json={"every": "14d"}).json()["window"] == changed["window"], (
        "left out, stays"
    )
    back = api.http.patch(f"{PATH}/scrub", json={"window": None, "every": None}).json()
    assert (back["window"], back["changed"]) == (None, False)


def test_one_is_done_at_once(api: Served) -> None:
    answer = api.http.post(f"{PATH}/rescan/run")
    assert answer.status_code == 202
    (job,) = answer.json()["jobs"]
    assert (job["kind"], job["origin"]) == ("model.scan", "schedule")
    detail = api.http.get(f"{PATH}/rescan").json()
    assert detail["lastRun"] == detail["runs"][0]
    assert (detail["lastRun"]["jobs"], detail["lastRun"]["asked"]) == ([job["id"]], True)
    assert api.http.post(f"{PATH}/scrub/run").json()["jobs"] == [], "nothing is in the store"
    assert api.http.post(f"{PATH}/empty-trash/run").json()["byWorkers"] is True


@BEFORE_THE_DATABASE
@pytest.mark.parametrize(
    "body",
    [{"every": 59}, {"every": "1s"}, {"every": "often"}, {"every": "1e3h"}, {"every": "999999999w"}, {"every": True},
     {"window": {"start": "1", "end": "2"}}, {"enabled": 1}, {"enabled": "no"}, {"evry": 60}, {"every": []}, []],
)  # fmt: skip
def test_changes_that_are_none_are_refused(api: Served, body: Any) -> None:
    answer = api.http.patch(f"{PATH}/scrub", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert named(api)["scrub"]["changed"] is False


@BEFORE_THE_DATABASE
def test_refusals_tell_the_way_out(api: Served) -> None:
    for answer, status, code in (
        (api.http.get(f"{PATH}/scrubb"), 404, "schedule_not_found"),
        (api.http.patch(f"{PATH}/nightly", json={"every": "1d"}), 404, "schedule_not_found"),
        (api.http.post(f"{PATH}/nightly/run"), 404, "schedule_not_found"),
        (api.http.patch(f"{PATH}/rescue", json={"enabled": False}), 409, "schedule_fixed"),
        (api.http.post(f"{PATH}/rescue/run"), 409, "schedule_fixed"),
        (api.http.patch(f"{PATH}/rescan", json={"enabled": True}), 422, "every_needed"),
    ):
        problem = answer.json()
        assert (answer.status_code, problem["code"], bool(problem["hint"])) == (status, code, True)
