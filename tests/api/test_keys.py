"""Keys: made, used, given a new secret, revoked; and what becomes of those who guess."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.keyring import HINT, MOST_CALLERS, Tries
from shared.jobs import Ledger
from shared.settings import ApiSettings, Settings
from tests.api.conftest import BEFORE_THE_DATABASE, Serve, Served
from tests.conftest import until

KEYS = "/api/v1/keys"
STANDING = "s" * 40


def made(api: Served, name: str, role: str, key: str | None = None, **more: Any) -> dict[str, Any]:
    answer = api.http.post(KEYS, json={"name": name, "role": role, **more}, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert answer.json()["hint"]
    return answer.status_code, answer.json()["code"]


@pytest.mark.fault("A-97")
def test_a_key_from_its_first_day_to_its_last(api: Served, ledger: Ledger) -> None:
    http = api.http
    assert http.get("/api/v1/key").json() == {"name": None, "role": "admin", "expiresAt": None}
    assert refused(http.post(KEYS, json={"name": "ci", "role": "viewer"})) == (409, "admin_key_needed")
    assert http.get(KEYS).json() == {"keys": [], "standing": False}
    boss = made(api, "boss", "admin")["key"]
    assert refused(http.get(KEYS)) == (401, "key_required"), "from the first key on nobody is let in without"
    ci = made(api, "ci", "operator", boss, days=1)
    assert refused(http.post(KEYS, json={"name": "ci", "role": "viewer"}, headers=bearer(boss))) == (409, "key_exists")
    assert refused(http.get(KEYS, headers=bearer(ci["key"]))) == (403, "role_too_low")
    assert http.put("/api/v1/limits/office", json={"jobs": 1}, headers=bearer(ci["key"])).status_code == 403
    job = http.post("/api/v1/models/download", json={"model_id": "one"}, headers=bearer(ci["key"])).json()["job"]

    again = http.post(f"{KEYS}/ci/rotate", headers=bearer(boss)).json()
    assert refused(http.get("/api/v1/jobs", headers=bearer(ci["key"]))) == (401, "invalid_key")
    assert http.get("/api/v1/key", headers=bearer(again["key"])).json()["role"] == "operator"
    assert again["expiresAt"] > ci["expiresAt"], "it lasts as long as the one before"

    assert refused(http.delete(f"{KEYS}/boss", headers=bearer(boss))) == (409, "admin_key_needed")
    assert http.delete(f"{KEYS}/ci", headers=bearer(boss)).json() == {"name": "ci"}
    assert refused(http.get("/api/v1/jobs", headers=bearer(again["key"]))) == (401, "invalid_key")
    assert refused(http.delete(f"{KEYS}/ci", headers=bearer(boss))) == (404, "key_not_found")
    rows = http.get("/api/v1/audit", headers=bearer(boss)).json()["entries"]
    told = [(row["action"], row["target"], row["role"], (row["key"] or "").split(":")[0]) for row in reversed(rows)]
    assert told == [
        ("key.add", "boss", "open", ""), ("key.add", "ci", "admin", "boss"), ("access.refuse", KEYS, "operator", "ci"),
        ("access.refuse", "/api/v1/limits/office", "operator", "ci"), ("model.download", "one", "operator", "ci"),
        ("key.rotate", "ci", "admin", "boss"), ("key.revoke", "ci", "admin", "boss"),
    ]  # fmt: skip
    assert job["modelId"] == "one"
    assert http.delete(f"{KEYS}/boss", headers=bearer(boss)).status_code == 200, "the last of all may go"
    assert http.get(KEYS).json()["keys"] == []
    secrets = (boss, ci["key"], again["key"])
    assert not [each for each in secrets if each in _dump(ledger) or each in json.dumps(rows)]


def _dump(ledger: Ledger) -> str:
    with ledger.database.reading() as session:
        rows = session.connection().execute(text("SELECT * FROM api_keys")).all()
        rows += session.connection().execute(text("SELECT * FROM audit_log")).all()
    return repr(rows)


@pytest.mark.fault("A-97")
def test_a_row_has_the_digest_and_the_beginning(api: Served, ledger: Ledger) -> None:
    key = made(api, "boss", "admin")
    assert len(key["key"]) > 40
    with ledger.database.reading() as session:
        row = session.connection().execute(text("SELECT digest, start FROM api_keys")).one()
    assert row == (hashlib.sha256(key["key"].encode()).hexdigest(), key["key"][:9])


@BEFORE_THE_DATABASE
def test_a_use_is_noted_to_the_hour(api: Served, ledger: Ledger) -> None:
    boss = made(api, "boss", "admin")["key"]

    def used() -> Any:
        return api.http.get(KEYS, headers=bearer(boss)).json()["keys"][0]["usedAt"]

    assert used() is None
    api.front.keyring.look()
    first = used()
    api.front.keyring.look()
    assert used() == first
    with ledger.database.session() as session:
        session.connection().execute(text("UPDATE api_keys SET used_at = used_at - 3601"))
    api.front.keyring.look()
    assert used() >= first


@BEFORE_THE_DATABASE
def test_other_processes_hear_of_it(serve: Serve, ledger: Ledger) -> None:
    one, other = serve(), serve()
    boss = made(one, "boss", "admin")["key"]
    until(lambda: other.http.get("/api/v1/jobs").status_code == 401, what="the first key there")
    ci = made(one, "ci", "viewer", boss)["key"]
    until(lambda: other.http.get("/api/v1/jobs", headers=bearer(ci)).status_code == 200, 1.5, "the new key there")
    one.http.delete(f"{KEYS}/ci", headers=bearer(boss))
    until(lambda: other.http.get("/api/v1/jobs", headers=bearer(ci)).status_code == 401, what="its end there")


@BEFORE_THE_DATABASE
def test_what_has_expired_says_so(api: Served) -> None:
    boss = made(api, "boss", "admin")["key"]
    short = made(api, "short", "viewer", boss, days=1e-9)["key"]
    assert refused(api.http.get("/api/v1/jobs", headers=bearer(short))) == (401, "key_expired")
    answer = made(api, "long", "viewer", boss, days=1)
    assert api.http.get("/api/v1/key", headers=bearer(answer["key"])).json()["expiresAt"] == answer["expiresAt"]


@pytest.fixture
def standing(serve: Serve, settings: Settings, ledger: Ledger) -> Iterator[Served]:
    """With a key in its environment."""
    settings.api_key = SecretStr(STANDING)
    return serve()


@BEFORE_THE_DATABASE
def test_the_key_of_the_environment_is_an_admins(standing: Served) -> None:
    told = standing.http.get("/api/v1/key", headers=bearer(STANDING)).json()
    assert (told["name"], told["role"]) == ("MODELYARD_API_KEY", "admin")
    viewer = made(standing, "ci", "viewer", STANDING)["key"]
    assert standing.http.get(KEYS, headers=bearer(STANDING)).json()["standing"] is True
    assert standing.http.delete(f"{KEYS}/ci", headers=bearer(STANDING)).status_code == 200
    assert standing.http.get("/api/v1/jobs", headers=bearer(viewer)).status_code == 401
    assert standing.http.get("/api/v1/jobs").status_code == 401, "it is no row, and not open without rows"


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-97")
def test_who_guesses_is_told_to_wait_and_nobody_else(standing: Served) -> None:
    def ask(key: str) -> httpx.Response:
        return standing.http.get("/api/v1/jobs", headers=bearer(key))

    statuses = [ask(f"guess-{number}").status_code for number in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    late = ask("guess")
    assert late.json()["code"] == "too_many_wrong_keys"
    assert 0 < int(late.headers["Retry-After"]) <= 60
    assert ask(STANDING).status_code == 200, "who has the key is let in, whoever shares the address"
    assert standing.http.get("/api/v1/jobs").json()["hint"] == HINT


def test_tries_are_forgotten_and_bounded() -> None:
    moment = 0.0
    tries = Tries(2, lambda: moment)
    assert [tries.again("a") for _ in range(3)] == [0.0, 0.0, 60.0]
    assert tries.again("b") == 0.0
    moment = 59.0
    assert tries.again("a") == 1.0
    moment = 60.0
    assert tries.again("a") == 0.0
    for number in range(MOST_CALLERS + 5):
        tries.again(str(number))
    assert len(tries._since) == MOST_CALLERS


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-95")
def test_who_is_behind_a_proxy_is_who_the_proxy_says(serve: Serve, settings: Settings, ledger: Ledger) -> None:
    settings.api_key = SecretStr(STANDING)
    behind = serve(trusted_proxies=["127.0.0.0/8"], allowed_hosts=["models.example"])
    direct = serve()
    page = {"Host": "models.example", "Origin": "https://models.example", "X-Forwarded-Proto": "https"}
    for jobs, (api, address) in enumerate(((behind, "192.0.2.7"), (direct, "127.0.0.1")), 1):
        told = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7", **bearer(STANDING), **(page if api is behind else {})}
        assert api.http.put("/api/v1/limits/office", json={"jobs": jobs}, headers=told).status_code == 200
        (row,) = api.http.get("/api/v1/audit?limit=1", headers=bearer(STANDING)).json()["entries"]
        assert row["address"] == address
    for number in range(21):
        headers = {**bearer("wrong"), "X-Forwarded-For": f"192.0.2.{number}"}
        assert behind.http.get("/api/v1/jobs", headers=headers).status_code == 401
        assert direct.http.get("/api/v1/jobs", headers=headers).status_code == (401 if number < 20 else 429)


@pytest.mark.parametrize("proxy", ["*", "proxy.lan", "10.0.0.0/33", "127.0.0.1:80"])
def test_a_proxy_is_an_address_or_a_network(proxy: str) -> None:
    with pytest.raises(ValueError, match="network"):
        ApiSettings(trusted_proxies=[proxy])


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-94")
def test_the_page_of_the_api_is_for_this_machine_or_a_viewer(serve: Serve, settings: Settings, ledger: Ledger) -> None:
    settings.api_key = SecretStr(STANDING)
    for reached, expected in (({}, 200), ({"host": "0.0.0.0"}, 401), ({"trusted_proxies": ["127.0.0.1"]}, 401)):
        api = serve(**reached)
        for path in ("/docs", "/openapi.json"):
            assert api.http.get(path).status_code == expected
        assert api.http.get("/docs", headers=bearer(STANDING)).status_code == 200


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-110")
def test_one_key_has_not_all_streams(serve: Serve, settings: Settings, ledger: Ledger) -> None:
    settings.api_key = SecretStr(STANDING)
    api = serve(streams_per_key=2)
    other = made(api, "other", "viewer", STANDING)["key"]
    api.http.headers.update(bearer(STANDING))
    with api.follow(), api.follow():
        full = api.http.get("/api/v1/events")
        assert refused(full) == (429, "too_many_streams_of_key")
        assert "MODELYARD_API__STREAMS_PER_KEY" in full.json()["hint"]
        assert full.headers["Retry-After"] == "5"
        api.http.headers.update(bearer(other))
        with api.follow():
            pass
    api.http.headers.update(bearer(STANDING))
    until(lambda: api.front.hub.places.taken == 0, what="everybody's leave")
    with api.follow():
        pass


def modelyard(api: Served, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from api.cli.main import main; main()", "key", *arguments],
        env={"MODELYARD_URL": api.url, "MODELYARD_API_KEY": key, "PATH": "/usr/bin:/bin",
             "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@BEFORE_THE_DATABASE
def test_the_command(api: Served) -> None:
    fresh = modelyard(api).stdout.strip()
    assert len(fresh) >= 43
    assert fresh.isascii()
    boss = modelyard(api, "add", "boss", "--role", "admin").stdout.strip()
    short = modelyard(api, "add", "ci", "--expires", "90d", key=boss)
    assert short.stdout.strip().startswith("my_")
    assert "viewer" in short.stderr
    listed = modelyard(api, "ls", key=boss).stdout
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [["boss", "admin"], ["ci", "viewer"]]
    assert boss not in listed
    again = modelyard(api, "rotate", "ci", key=boss).stdout.strip()
    assert api.http.get("/api/v1/key", headers=bearer(again)).json()["name"] == "ci"
    assert modelyard(api, "revoke", "ci", key=boss).returncode == 0
    told = modelyard(api, "ls", key=again)
    assert (told.returncode, "invalid_key" in told.stderr) == (1, True)
