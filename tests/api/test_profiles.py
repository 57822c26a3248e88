"""Profiles over REST, and their files."""

from pathlib import Path
from typing import Any

import pytest

from api.deps import Front
from api.profile_files import folder_of, parse, read_file
from api.profiles import apply_at_start
from shared.contracts import ApplyProfile
from shared.db import jobs, profiles
from tests.api.conftest import BEFORE_THE_DATABASE, Served

PATH = "/api/v1/models/profiles"
BODY = {"name": "api-test-profile", "description": "For the tests.", "enabledModels": ["one"]}


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(answer: Any) -> tuple[int, str]:
    problem = answer.json()
    assert problem["hint"]
    return answer.status_code, problem["code"]


def test_a_profile_is_made_shown_replaced_and_deleted(api: Served) -> None:
    assert api.http.get(PATH).json()["profiles"] == []
    made = api.http.post(PATH, json=BODY)
    assert (made.status_code, made.json()["enabledModels"], made.json()["source"]) == (201, ["one"], "rest")
    assert refused(api.http.post(PATH, json=BODY)) == (409, "profile_exists")
    snake = {"name": BODY["name"], "enabled_models": ["two"], "settings": {"two": {"context_length": 512}}}
    replaced = api.http.put(f"{PATH}/{BODY['name']}", json=snake).json()
    assert (replaced["enabledModels"], replaced["settings"]["two"]["contextLength"]) == (["two"], 512)
    assert api.http.get(f"/api/models/profiles/{BODY['name']}").json() == replaced
    assert api.http.delete(f"{PATH}/{BODY['name']}").json()["total"] == 0
    assert refused(api.http.delete(f"{PATH}/{BODY['name']}")) == (404, "profile_not_found")
    assert refused(api.http.put(f"{PATH}/other", json=BODY)) == (422, "other_name")


def test_its_plan_is_shown_and_the_job_is_one(api: Served) -> None:
    api.http.post(PATH, json=BODY)
    plan = api.http.post("/api/v1/plan", json={"action": "apply-profile", "profile": BODY["name"]}).json()
    assert (plan["action"], plan["download"][0]["modelId"]) == ("apply-profile", "one")
    assert "two" in plan["disable"]
    assert "one" not in plan["disable"]
    assert [(one["modelId"], one["servesType"], one["fits"]) for one in plan["load"]] == [("one", True, None)]
    apply = f"{PATH}/{BODY['name']}/apply"
    assert refused(api.http.post(f"{apply}?plan={'0' * 32}")) == (409, "plan_outdated")
    answer = api.http.post(f"{apply}?plan={plan['id']}")
    assert (answer.status_code, answer.json()["job"]["kind"]) == (202, "profile.apply")
    assert api.http.post(apply).json()["job"]["id"] == answer.json()["job"]["id"]
    api.http.post(PATH, json={**BODY, "name": "newer"})
    assert api.http.post(f"{PATH}/newer/apply").status_code == 202
    assert refused(api.http.post(apply)) == (409, "profile_overtaken"), "joining what ends soon would come to nothing"


@pytest.mark.parametrize(
    "body",
    [{"action": "apply-profile"}, {"action": "apply-profile", "modelId": "one"},
     {"action": "load", "modelId": "one", "profile": "x"}, {"action": "load"}, {"action": "load", "profile": "x"}],
)  # fmt: skip
@BEFORE_THE_DATABASE
def test_a_plan_is_of_one_thing(api: Served, body: dict[str, Any]) -> None:
    assert refused(api.http.post("/api/v1/plan", json=body)) == (422, "invalid_request")


def test_models_that_nobody_knows_are_named_with_the_nearest(api: Served) -> None:
    answer = api.http.post(PATH, json={**BODY, "enabledModels": ["onne"]})
    assert refused(answer) == (422, "unknown_models")
    assert "did you mean 'one'?" in answer.json()["detail"]


@pytest.mark.parametrize("other", ["one", "nobody", "sdxl-base-1.0"])
def test_who_cannot_stand_in_for_a_model_is_refused(api: Served, other: str) -> None:
    """Itself, one that nobody knows, one of another type."""
    body = {**BODY, "settings": {"one": {"fallback": [{"model": other}]}}}
    assert refused(api.http.post(PATH, json=body)) == (422, "unfit_fallback")
    assert api.http.post(PATH, json={**BODY, "settings": {"one": {"fallback": [{"model": "two"}]}}}).status_code == 201


def test_files_of_the_folder_are_profiles(api: Served) -> None:
    folder = folder_of(api.front.settings)
    written(folder, "night.yaml", "description: At night\nenabled_models: [one]\n")
    written(folder, "broken.yml", "enabledModels:\n  - one\nsettings:\n  one:\n    contextLenght: 512\n")
    written(folder, "notes.txt", "no profile")
    shown = {one["name"]: one for one in api.http.get(PATH).json()["profiles"]}
    assert {name: (one["source"], one["valid"]) for name, one in shown.items()} == {
        "night": ("file", True), "broken": ("file", False),
    }  # fmt: skip
    (fault,) = shown["broken"]["faults"]
    assert (fault["line"], fault["field"]) == (5, "settings.one.contextLenght")
    assert "did you mean 'contextLength'?" in fault["message"]
    assert refused(api.http.post(f"{PATH}/broken/apply")) == (422, "invalid_profile")
    assert "line 5" in api.http.post(f"{PATH}/broken/apply").json()["detail"]
    assert refused(api.http.delete(f"{PATH}/night")) == (409, "profile_in_file")
    assert refused(api.http.post(PATH, json={**BODY, "name": "night"})) == (409, "profile_in_file")
    assert api.http.post(f"{PATH}/night/apply").status_code == 202


WRONG = [
    ("enabledModels:\n  - one\n  - ../two\n", 3, "enabledModels.1"),
    ("enabled_models:\n  - one\n  - one\n", 1, None),
    ("enabledModels: [one]\nname: other\n", 2, "name"),
    ("enabledModels: [one]\nsettings:\n  one:\n    load: maybe\n", 4, "settings.one.load"),
    ("enabled_models: [one]\nsettings:\n  one:\n    context_length: 5\n", 4, "settings.one.context_length"),
    ("description: x\n", 1, "enabledModels"),
    ("enabledModels: [one]\nenabledModels: [two]\n", 2, None),
    ("a: &a [1]\nb: *a\n", 2, None),
    ("enabledModels: [one\n", 2, None),
    ("- one\n", 1, None),
    ("", 1, None),
]


@pytest.mark.parametrize(("text", "line", "field"), WRONG)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path, text: str, line: int, field: str | None) -> None:
    found = read_file(written(tmp_path, "one.yaml", text))
    assert found.profile is None
    assert (found.faults[0].line, found.faults[0].field) == (line, field)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x00", b"[" * 50_000, b"- " * 500, b"x" * (1024**2 + 1)])
def test_files_that_nobody_sane_writes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.yaml"
    path.write_bytes(content)
    assert read_file(path).faults


def test_lines_are_those_of_keys_and_items() -> None:
    _, lines = parse("name: x\nenabled_models:\n- a\n\n- b\n")
    assert lines[("enabledmodels",)] == 2
    assert lines[("enabledmodels", 1)] == 5


def test_at_start_it_is_applied_or_told_why_not(api: Served) -> None:
    front: Front = api.front
    api.http.post(PATH, json=BODY)
    front.settings.active_profile = BODY["name"]
    apply_at_start(front)
    assert front.profile is not None
    assert front.profile.ok
    with front.database.reading() as session:
        (job,) = jobs.find(session, kind=ApplyProfile.kind)
    assert job.origin == "start"
    front.settings.active_profile = "nowhere"
    apply_at_start(front)
    part = api.http.get("/health/ready").json()["parts"]["profile"]
    assert (part["ok"], "modelyard profile ls" in part["detail"]) == (False, True)


def test_when_the_one_in_force_is_deleted_none_is(api: Served) -> None:
    for name in ("first", "second"):
        api.http.post(PATH, json={**BODY, "name": name})
        with api.front.database.session() as session:
            profiles.take_effect(session, profiles.read(session, name, None))
    assert api.http.get(PATH).json()["activeProfile"] == "second"
    assert api.http.delete(f"{PATH}/second").json()["activeProfile"] is None
    assert [one["active"] for one in api.http.get(PATH).json()["profiles"]] == [False]


def test_its_servers_are_told_as_a_whole(api: Served) -> None:
    assert api.http.get("/api/v1/models/servers").json()["fleet"] is None
    api.http.post(PATH, json={**BODY, "enabledModels": ["one", "two"], "settings": {"two": {"load": False}}})
    with api.front.database.session() as session:
        profiles.take_effect(session, profiles.read(session, str(BODY["name"]), None))
    fleet = api.http.get("/api/models/servers").json()["fleet"]
    assert fleet == {
        "profile": BODY["name"], "ready": False, "wantedServers": 1, "readyServers": 0, "missing": ["one"]
    }  # fmt: skip
