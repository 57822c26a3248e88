"""Every request that changes something is in the audit log, with the change or not at all."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.app import create_app
from api.audit import ACTIONS, BY_JOBS, CHANGE_NOTHING, READS, route_name
from shared.contracts import Download
from shared.jobs import Ledger
from shared.settings import Settings
from tests.api.conftest import BEFORE_THE_DATABASE, Serve, Served
from tests.shared.test_audit import tamper

PATH = "/api/v1/audit"


def rows(api: Served, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.http.get(PATH, params=query).json()["entries"]
    return found


def _routes(app: Any) -> set[tuple[str, str]]:
    """Name and method of every route, however deep it is included."""
    found, waiting = set(), list(app.routes)
    while waiting:
        route = waiting.pop()
        waiting += getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", [])
        for method in getattr(route, "methods", None) or ():
            found.add((route_name(route.endpoint), method))
    return found


@BEFORE_THE_DATABASE
def test_every_route_that_changes_something_is_audited_or_said_not_to_be(settings: Settings) -> None:
    """Mend by naming the route in one of the three lists of `api/audit.py`."""
    changing = {name for name, method in _routes(create_app(settings)) if method not in READS}
    assert len(changing) > 40
    assert not set(ACTIONS) & BY_JOBS
    assert not (set(ACTIONS) | BY_JOBS) & set(CHANGE_NOTHING)
    assert changing == set(ACTIONS) | BY_JOBS | set(CHANGE_NOTHING)


def test_changes_are_told_with_who_and_what(api: Served) -> None:
    api.http.put("/api/v1/limits/office", json={"bytesPerSecond": 1000})
    api.http.put("/api/v1/models/one/priority", json={"priority": "HIGH"})
    body = {"revision": "b5a1e7c", "allowPickle": True}
    api.http.put("/api/v1/models/one/trust", json=body)
    api.http.put("/api/v1/models/one/fallback", json={"steps": [{"model": "two"}]})
    job = api.http.post("/api/v1/models/download", json={"model_id": "one", "priority": "HIGH"}).json()["job"]
    api.http.post(f"/api/v1/jobs/{job['id']}/cancel")
    api.http.delete("/api/v1/limits/office")
    told = [(row["action"], row["target"]) for row in reversed(rows(api))]
    assert told == [
        ("limit.set", "office"), ("model.priority", "one"), ("model.trust", "one"), ("model.fallback", "one"),
        ("model.download", "one"), ("job.cancel", job["id"]), ("limit.clear", "office"),
    ]  # fmt: skip
    (trust,) = rows(api, action="model.trust")
    assert trust["details"] == body
    assert (trust["origin"], trust["role"], trust["key"], trust["address"]) == ("rest", "open", None, "127.0.0.1")
    assert [row["action"] for row in rows(api, action="limit")] == ["limit.clear", "limit.set"]
    assert {row["action"] for row in rows(api, target="one")} == {
        "model.priority", "model.trust", "model.fallback", "model.download",
    }  # fmt: skip
    assert rows(api, origin="foreign") == []


def test_to_ask_for_a_model_that_is_missing_says_who_had_it_fetched(api: Served) -> None:
    job = api.http.post("/api/v1/models/one/request").json()["job"]
    (row,) = rows(api)
    assert (row["action"], row["target"], row["origin"]) == ("model.download", "one", "rest")
    assert row["details"]["job_id"] == job["id"]


def test_what_changes_nothing_or_fails_leaves_no_row(api: Served) -> None:
    assert api.http.delete("/api/v1/limits/nobody").status_code == 404
    assert api.http.post("/api/v1/models/nobody/pin").status_code == 404
    assert api.http.post("/api/v1/jobs/nobody/cancel").status_code == 404
    assert api.http.put("/api/v1/limits/office", json={}).status_code == 422
    assert api.http.post("/api/v1/models/download", json={"model_id": "nobody"}).status_code == 404
    job = api.http.post("/api/v1/models/download", json={"model_id": "one"}).json()["job"]
    assert api.http.post("/api/v1/models/download", json={"model_id": "one"}).status_code == 200, "it joins"
    for _ in range(2):
        assert api.http.post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 200
    assert api.http.post(f"/api/v1/jobs/{job['id']}/resume").status_code == 409
    api.http.post("/api/v1/models/one/usage", json={"seconds": 1})
    assert [row["action"] for row in rows(api)] == ["job.cancel", "model.download"]


def test_the_dialect_of_ollama_says_what_it_entered_and_asked_for(api: Served) -> None:
    with api.http.stream("POST", "/api/pull", json={"model": "tiny:latest"}) as answer:
        assert answer.status_code == 200
        next(answer.iter_lines())
    assert [(row["action"], row["target"]) for row in reversed(rows(api))] == [
        ("model.add", "tiny:latest"), ("model.download", "tiny"),
    ]  # fmt: skip
    with api.http.stream("POST", "/api/pull", json={"model": "one"}) as answer:
        next(answer.iter_lines())
    assert [(row["action"], row["target"]) for row in rows(api, target="one")] == [("model.download", "one")]


@pytest.mark.fault("A-10")
def test_of_two_keys_neither_counts_and_no_row_says_so(api: Served) -> None:
    body = b'{"allowPickle": true, "revision": "b5a1e7c", "allowPickle": false, "allowRemoteCode": true}'
    answer = api.http.put("/api/v1/models/one/trust", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "duplicate_key")
    assert rows(api) == []


@BEFORE_THE_DATABASE
def test_keys_are_told_apart_and_never_written(serve: Serve, settings: Settings, ledger: Ledger) -> None:
    settings.api_key = SecretStr("a-very-secret-key")
    api = serve()
    api.http.headers["Authorization"] = "Bearer a-very-secret-key"
    url = "https://h.example/m.gguf?token=very-secret-token"
    body = {"model_id": "x", "model_type": "llm", "name": "x", "source": "url", "source_url": url}
    assert api.http.post("/api/v1/models/add", json=body).status_code == 201
    (row,) = rows(api)
    told = hashlib.sha256(b"a-very-secret-key").hexdigest()[:8]
    assert (row["role"], row["key"]) == ("admin", f"MODELYARD_API_KEY:{told}")
    assert "very-secret" not in json.dumps(row)


@BEFORE_THE_DATABASE
def test_pages_go_both_ways(api: Served) -> None:
    for number in range(5):
        api.http.put("/api/v1/limits/office", json={"jobs": number + 1})
    for forward in (True, False):
        seen: list[int] = []
        cursor = None
        while cursor is not None or not seen:
            page = api.http.get(PATH, params={"limit": 2, "forward": forward} | ({"cursor": cursor} if cursor else {}))
            seen += [row["seq"] for row in page.json()["entries"]]
            cursor = page.json()["nextCursor"]
        assert seen == sorted(range(1, 6), reverse=not forward)
    for query in ({"cursor": "forged"}, {"limit": 0}, {"limit": 1001}, {"forward": "perhaps"}, {"action": "x" * 65}):
        assert api.http.get(PATH, params=query).status_code == 422, query


def modelyard(api: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from api.cli.main import main; main()", *arguments],
        env={"MODELYARD_URL": api.url, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@BEFORE_THE_DATABASE
def test_the_command_names_the_first_broken_row(api: Served, tmp_path: Path) -> None:
    for number in range(4):
        api.http.put("/api/v1/limits/office", json={"jobs": number + 1})
    whole = json.loads(modelyard(api, "audit", "verify", "--json").stdout)
    assert (whole["ok"], whole["rows"]) == (True, 4)
    export = tmp_path / "audit.jsonl"
    assert modelyard(api, "audit", "export", str(export)).returncode == 0
    assert len(export.read_text().splitlines()) == 4

    archived = modelyard(api, "audit", "archive", str(tmp_path / "old.jsonl"))
    assert archived.returncode == 0, archived.stderr
    assert [row["seq"] for row in rows(api)] == [5, 4]
    kept = modelyard(api, "audit", "verify", "--head", whole["head"])
    assert kept.returncode == 0, kept.stdout
    assert modelyard(api, "audit", "verify", "--file", str(tmp_path / "old.jsonl")).returncode == 0

    tamper(api.front.database, "UPDATE audit_log SET details = '{\"jobs\": 9}' WHERE seq = 4")
    broken = modelyard(api, "audit", "verify")
    assert broken.returncode == 1
    assert "row 4: its content does not have its hash" in broken.stdout
    tamper(api.front.database, "DELETE FROM audit_log WHERE seq = 5")
    export.write_text(export.read_text().replace('"jobs": 2', '"jobs": 3'))
    broken = modelyard(api, "audit", "verify", "--file", str(export))
    assert (broken.returncode, "row 2:" in broken.stdout) == (1, True)


@BEFORE_THE_DATABASE
def test_rows_that_were_cut_off_at_the_end_are_missed_by_whoever_noted_the_head(api: Served) -> None:
    for number in range(3):
        api.http.put("/api/v1/limits/office", json={"jobs": number + 1})
    head = json.loads(modelyard(api, "audit", "verify", "--json").stdout)["head"]
    tamper(api.front.database, "DELETE FROM audit_log WHERE seq = 3")
    assert modelyard(api, "audit", "verify").returncode == 0
    missed = modelyard(api, "audit", "verify", "--head", head)
    assert (missed.returncode, "row 3: it was noted, and is not there" in missed.stdout) == (1, True)


def test_an_archive_is_refused_to_whoever_has_not_exported(api: Served) -> None:
    for number in range(2):
        api.http.put("/api/v1/limits/office", json={"jobs": number + 1})
    answer = api.http.post(f"{PATH}/1/archive", json={"hash": "0" * 64})
    assert (answer.status_code, answer.json()["code"]) == (409, "audit_not_archived")
    assert api.http.post(f"{PATH}/1/archive", json={"hash": "x"}).status_code == 422
    assert api.http.post(f"{PATH}/1/archive", json={}).status_code == 422
    with api.front.database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM audit_log")).scalar_one() == 2


@BEFORE_THE_DATABASE
def test_a_job_of_a_request_and_one_of_the_schedule_are_told_apart(api: Served, ledger: Ledger) -> None:
    ledger.submit(Download(model_id="two"), origin="schedule")
    ledger.submit(Download(model_id="one"), origin="idle")
    answer: httpx.Response = api.http.post("/api/v1/models/rescan")
    assert answer.status_code == 202
    assert [(row["action"], row["origin"], row["address"]) for row in reversed(rows(api))] == [
        ("model.download", "schedule", None), ("model.scan", "rest", "127.0.0.1"),
    ]  # fmt: skip
