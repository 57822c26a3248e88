"""Every route × whoever asks × Host × Origin, asked of a running service.

`ACCESS=write` writes docs/access.md anew from the answers; without it that page has to be what they are.
"""

import hashlib
import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from pydantic import SecretStr

from api.access import LOCAL, OPEN, OPEN_MOUNTS, needed
from api.keyring import Tries
from shared.db.keys import ApiKey, Role
from shared.settings import ApiSettings, RedisSettings, Settings, SourceSettings
from tests.api.conftest import Served
from tests.api.walk import MOUNT, SOCKET, Way, ways
from tests.conftest import RealRedis, put_database

PAGE = Path(__file__).resolve().parents[2] / "docs" / "access.md"
KEYS = {"wrong": "w" * 40, "expired": "e" * 40, "viewer": "v" * 40, "operator": "o" * 40, "admin": "a" * 40}
CALLERS = ("nobody", *KEYS)
CODES = {"nobody": "key_required", "wrong": "invalid_key", "expired": "key_expired"}
PAGES = ("none", "own", "foreign")
LET_IN = "✓"
REFUSALS = {*CODES.values(), "role_too_low", "unknown_host", "foreign_origin", "too_many_wrong_keys"}
HEAD = """# Who may ask for what

Every route, as a service with keys answered it, written by a test that asks them all
(`ACCESS=write python -m pytest tests/api/test_access.py`). ✓: let in, whatever came of it. The classes stand in
`api/access.py`; paths with † exist below `/api` as well, and were answered the same there.

{count} requests: each route × the six callers × its own Host and a foreign one × no Origin, its own and a foreign one
(of the paths with †, its own Host and no Origin). `local` is open where only this machine reaches the service, and
needs a viewer elsewhere. Without any key, which is possible on loopback only, everybody is let in, and Host and Origin
are checked all the same.

| route | class | no key | wrong key | expired key | viewer | operator | admin | foreign Host | foreign Origin |
|---|---|---|---|---|---|---|---|---|---|
"""


class Answer(NamedTuple):
    status: int
    code: str
    hint: str

    @property
    def shown(self) -> str:
        return str(self.status) if self.code in REFUSALS else LET_IN


class House:
    """A running service with a key of each kind."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def ask(self, way: Way, caller: str, *, own_host: bool = True, page: str = "none") -> Answer:
        own = f"127.0.0.1:{self.served.port}"
        headers = {"Host": own if own_host else "evil.example"}
        if caller in KEYS:
            headers["Authorization"] = f"Bearer {KEYS[caller]}"
        if page != "none":
            headers["Origin"] = f"http://{headers['Host'] if page == 'own' else 'elsewhere.example'}"
        method, path, body = (
            way.method,
            re.sub(r"\{\w+\}", lambda found: FILLED.get(found[0], "nobody"), way.path),
            None,
        )
        if method == SOCKET:
            method = "GET"
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw=="}  # fmt: skip
        elif method == MOUNT:
            method, path = "GET", f"{path}/main.js"
        elif method not in ("GET", "DELETE"):
            headers["Content-Type"] = "application/json"
            body = b'{"nothing that is known": 1}'
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        if answer.status == 101 or answer.headers.get_content_type() == "text/event-stream":
            answer.close()
            self._connection.close()  # the next request opens it again
            return Answer(answer.status, "", "")
        raw = answer.read()
        if answer.headers.get_content_type() != "application/problem+json":
            return Answer(answer.status, "", "")
        told = json.loads(raw)
        return Answer(answer.status, told["code"], told["hint"])


FILLED = {"{seq}": "1", "{tier}": "fast"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, fresh_sqlite: Path, redis_server: RealRedis) -> Iterator[House]:
    data = tmp_path_factory.mktemp("house") / "data"
    put_database(fresh_sqlite, data)
    settings = Settings(
        data_dir=data, redis=RedisSettings(url=SecretStr(redis_server.url)),
        api=ApiSettings(wrong_keys_per_minute=1_000_000, streams_per_key=100),
    )  # fmt: skip
    served = Served(settings)
    served.start()
    with served.front.database.session() as session:
        for name, key in KEYS.items():
            if name != "wrong":
                row = ApiKey(
                    name=name, role=Role.ADMIN if name == "expired" else Role(name), start="",
                    digest=hashlib.sha256(key.encode()).hexdigest(), created_at=0.0,
                    expires_at=1.0 if name == "expired" else None,
                )  # fmt: skip
                session.add(row)
    served.front.keyring.look()
    house = House(served)
    yield house
    house.close()
    served.stop()


def expected(way: Way, caller: str) -> str:
    """Code of the refusal, "" where it is let in."""
    role = None if way.path in OPEN_MOUNTS else needed(way.name, local=True)
    if role is None:
        return ""
    if caller in CODES:
        return CODES[caller]
    return "" if Role(caller).may(role) else "role_too_low"


@pytest.mark.fault("A-94", "A-99", "A-102", "A-104")
def test_every_route_for_everybody(house: House) -> None:
    found = ways(house.served.app)
    versioned = {way.path for way in found if way.path.startswith("/api/v1/")}
    twins = {path for path in (each.path for each in found) if path.replace("/api/", "/api/v1/", 1) in versioned}
    rows, wrong, count = [], [], 0
    for way in sorted(found, key=lambda way: (way.path, way.method)):
        twin = way.path in twins
        cells: dict[str, str] = {}
        for caller in CALLERS:
            for own_host in (True, False):
                for page in PAGES if not twin else PAGES[:1]:
                    count += 1
                    answer = house.ask(way, caller, own_host=own_host, page=page)
                    place = "unknown_host" if not own_host else "foreign_origin" if page == "foreign" else ""
                    code = place or expected(way, caller)
                    status = {"": None, "unknown_host": 421, "foreign_origin": 403, "role_too_low": 403}.get(code, 401)
                    refused = answer.code if answer.code in REFUSALS else ""
                    if refused != code or (status and (answer.status != status or not answer.hint)):
                        wrong.append((way.method, way.path, caller, own_host, page, answer, code))
                    cells.setdefault(place or caller, answer.shown)
        if not twin:
            mark = " †" if way.path.replace("/api/v1/", "/api/", 1) in twins else ""
            shown = [cells[name] for name in (*CALLERS, "unknown_host", "foreign_origin")]
            rows.append(f"| {way.method} {way.path}{mark} | {klass(way)} | {' | '.join(shown)} |")
    assert not wrong, wrong[:5]
    page_text = HEAD.format(count=f"{count:,}") + "\n".join(rows) + "\n"
    if os.environ.get("ACCESS") == "write":
        PAGE.write_text(page_text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page_text, "mend with ACCESS=write"


def klass(way: Way) -> str:
    if way.name in OPEN or way.path in OPEN_MOUNTS:
        return "open"
    return "local" if way.name in LOCAL else str(needed(way.name, local=False))


def sent(house: House, method: str, path: str, **headers: str) -> httpx.Response:
    return house.served.http.request(
        method, path, headers={name: each.encode("latin-1") for name, each in headers.items()}
    )


def as_(caller: str) -> str:
    return f"Bearer {KEYS[caller]}"


@pytest.mark.fault("A-94", "A-98")
def test_a_key_comes_in_its_header_only(house: House) -> None:
    key = KEYS["admin"]
    for path in ("/api/v1/jobs", "/api/v1/events", "/api/v1/ws", "/v1/models", "/api/tags", "/metrics"):
        for query in ("key", "api_key", "access_token", "token", "ticket"):
            assert sent(house, "GET", f"{path}?{query}={key}").status_code in (401, 404)
    for told in (
        "Bearer", f"Basic {key}", key, f"Bearer {key}x", f"Bearer {key} {key}", "Bearer \xff", f"Token {key}",
        f"Bearer x {key}",
    ):  # fmt: skip
        refused = sent(house, "GET", "/api/v1/jobs", Authorization=told)
        assert refused.status_code == 401, told
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert key not in refused.text
    for name in ("X-API-Key", "Cookie", "Proxy-Authorization", "Sec-WebSocket-Protocol"):
        assert sent(house, "GET", "/api/v1/jobs", **{name: f"Bearer {key}"}).status_code == 401
    for told in (f"Bearer {key}", f"bearer  {key}"):
        assert sent(house, "GET", "/api/v1/jobs", Authorization=told).status_code == 200


@pytest.mark.fault("A-95")
def test_no_spelling_of_a_path_goes_around_the_key(house: House) -> None:
    for path in (
        "/api/v1/jobs", "/api/v1/jobs/", "//api/v1/jobs", "/api//v1/jobs", "/api/v1/jobs%2f", "/api/v1/jobs;x",
        "/API/V1/JOBS", "/api/v1/%6aobs", "/dashboard/../api/v1/jobs", "/dashboard/%2e%2e/api/v1/jobs",
        "/health/live/../../api/v1/jobs", "/./api/v1/jobs", "/api/v1/jobs?/health/live", "/api/v1/jobs#/health/live",
        "/health/live%00/api/v1/jobs",
    ):  # fmt: skip
        for method in ("GET", "HEAD", "OPTIONS", "TRACE", "POST", "PROPFIND"):
            raw = House(house.served)._connection
            raw.putrequest(method, path, skip_accept_encoding=True)
            for name, value in TRICKS.items():
                raw.putheader(name, value)
            raw.endheaders()
            answer = raw.getresponse()
            assert answer.status in (400, 401, 404, 405), (method, path, answer.status)
            answer.read()
            raw.close()


TRICKS = {
    "X-HTTP-Method-Override": "GET", "X-Method-Override": "GET", "X-Original-URL": "/health/live",
    "X-Rewrite-URL": "/docs", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "127.0.0.1",
    "X-Forwarded-Prefix": "/health", "X-Real-IP": "127.0.0.1",
    "Forwarded": "for=127.0.0.1;host=localhost", "X-User": "admin", "X-Forwarded-User": "admin",
}  # fmt: skip


@pytest.mark.fault("A-96")
def test_targets_that_name_another_host(house: House) -> None:
    port = house.served.port
    for target in (
        "http://evil.example/api/v1/jobs",
        f"http://127.0.0.1:{port}/api/v1/jobs",
        "@google.com",
        "*",
        "x/docs?",
    ):
        for host in (f"127.0.0.1:{port}", "x/docs?", "a/?x=", "evil.example"):
            request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                client.sendall(request.encode())
                status = int(client.recv(1000).split()[1])
            assert status in ((400, 421) if not host.startswith("127.") else (400, 401, 404)), (target, host, status)


@pytest.mark.fault("A-101", "A-106")
def test_no_other_page_is_told_that_it_may(house: House) -> None:
    port = house.served.port
    origins = (
        "null", "http://localhost.evil.com", f"http://127.0.0.1.nip.io:{port}", f"http://127.0.0.1:{port + 1}",
        f"https://127.0.0.1:{port}.evil.com", "https://evil.example",
    )  # fmt: skip
    for origin in origins:
        for method, more in (
            ("GET", {"Cookie": "session=1", "Authorization": as_("admin")}),
            ("OPTIONS", {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}),
        ):  # fmt: skip
            refused = sent(house, method, "/api/v1/models", Origin=origin, **more)
            assert refused.status_code == 403, (origin, method)
            assert not [name for name in refused.headers if name.startswith("access-control")]
    pinged = sent(house, "GET", "/api/v1/models", Host=f"0.0.0.0:{port}", Origin=f"http://0.0.0.0:{port}")
    assert pinged.status_code == 421


@pytest.mark.fault("A-107")
def test_every_answer_says_what_browsers_may_do_with_it(house: House) -> None:
    for path, headers in (
        ("/api/v1/models", {"Authorization": as_("viewer")}), ("/api/v1/models", {}), ("/nothing", {}),
        ("/health/live", {}),
        ("/metrics", {"Authorization": as_("viewer")}), ("/", {}), ("/docs", {}), ("/openapi.json", {}),
        ("/dashboard/main.js", {}), ("/", {"Host": "evil.example"}), ("/v1/models", {"Authorization": as_("viewer")}),
    ):  # fmt: skip
        told = sent(house, "GET", path, **headers).headers
        policy = told["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert (told["x-content-type-options"], told["x-frame-options"]) == ("nosniff", "DENY")
        assert told["referrer-policy"] == "no-referrer"
        assert told["cache-control"] in ("no-store", "no-cache")
        if path.startswith(("/api", "/v1", "/metrics")):
            assert told["cache-control"] == "no-store"


@pytest.mark.fault("A-99")
def test_what_a_viewer_tried_is_in_the_audit_log(house: House) -> None:
    house.served.front.refused = Tries(3)
    models = "/api/v1/models/somebody"
    for _ in range(5):
        refused = sent(house, "DELETE", models, Authorization=as_("viewer"))
        assert (refused.status_code, refused.json()["code"]) == (403, "role_too_low")
        assert refused.json()["details"] == {"role": "viewer", "needed": "operator"}
        assert "--role operator" in refused.json()["hint"]
    query = f"/api/v1/audit?action=access.refuse&target={models}"
    rows = sent(house, "GET", query, Authorization=as_("admin")).json()["entries"]
    told = [(row["role"], row["key"].split(":")[0], row["details"]) for row in rows]
    assert told == [("viewer", "viewer", {"method": "DELETE", "needed": "operator"})] * 3, "not all of a mass of them"


@pytest.mark.fault("A-100")
def test_nobody_gives_himself_a_role(house: House) -> None:
    for path, body in (
        ("/api/v1/keys", {"name": "x", "role": "admin", "digest": "0" * 64}),
        ("/api/v1/keys", {"name": "x", "role": "owner"}), ("/api/v1/keys", {"name": "../x", "role": "viewer"}),
        ("/api/v1/keys", {"name": "x", "role": "viewer", "key": "chosen"}),
        ("/api/v1/models/add", {**NEW, "role": "admin"}), ("/api/v1/models/add", {**NEW, "localPath": "/etc"}),
        ("/api/v1/models/add", {**NEW, "state": "ready"}), ("/api/v1/models/add", {**NEW, "sha256": "0" * 64}),
    ):  # fmt: skip
        answer = house.served.http.post(path, json=body, headers={"Authorization": as_("admin")})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), body


NEW = {"model_id": "new", "model_type": "llm", "name": "New", "source": "huggingface", "source_url": "tiny/new"}


@pytest.mark.fault("A-114")
def test_nothing_shows_its_settings(house: House) -> None:
    secrets = ("hf_canary", "canary-key-of-an-admin", "canary-of-runners", "canary-of-redis", "canary-of-postgresql")
    token, key, runners, redis, database = map(SecretStr, secrets)
    told = Settings(
        api_key=key, secret=runners, sources=SourceSettings(hf_token=token),
        redis=RedisSettings(url=SecretStr(f"redis://:{redis.get_secret_value()}@h/0")),
        database_url=SecretStr(f"postgresql+psycopg://u:{database.get_secret_value()}@h/d"),
    )  # fmt: skip
    shown = f"{told!r} {told} {told.model_dump()} {told.model_dump_json()}"
    assert [each for each in secrets if each in shown] == []
    for path in (
        "/config",
        "/debug",
        "/env",
        "/settings",
        "/api/v1/config",
        "/api/v1/settings",
        "/.env",
        "/server-status",
    ):
        assert sent(house, "GET", path, Authorization=as_("admin")).status_code == 404
    assert house.served.app.debug is False


def test_readiness_tells_strangers_no_more_than_that(house: House) -> None:
    stranger, known = (
        sent(house, "GET", "/health/ready"),
        sent(house, "GET", "/health/ready", Authorization=as_("viewer")),
    )
    assert stranger.status_code == known.status_code == 503
    assert {part["detail"] for part in stranger.json()["parts"].values()} == {""}
    assert stranger.json()["parts"].keys() == known.json()["parts"].keys()
    assert all(part["detail"] for part in known.json()["parts"].values())


def test_a_key_says_what_it_may(house: House) -> None:
    for caller in ("viewer", "operator", "admin"):
        told = sent(house, "GET", "/api/v1/key", Authorization=as_(caller)).json()
        assert told == {"name": caller, "role": caller, "expiresAt": None}
