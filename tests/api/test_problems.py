"""What nobody sensible sends: refusals are problems with a code and a hint, never a 500, without a trace."""

import contextlib
import http.client
import json
from typing import Any

import httpx
import pytest
from sqlmodel import select

from shared.contracts import Download
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from tests.api.conftest import BEFORE_THE_DATABASE, Served

JSON = {"Content-Type": "application/json"}
ADD = "/api/v1/models/add"
GOOD: dict[str, Any] = {
    "model_id": "new", "model_type": "llm", "name": "New", "source": "huggingface", "source_url": "tiny/new"
}  # fmt: skip
BODIES = {
    ADD: GOOD,
    "/api/v1/models/download": {"model_id": "one"},
    "/api/v1/models/activate": {"model_id": "one"},
    "/api/v1/models/lock/plan": {"lockVersion": 1, "models": []},
    "/api/v1/models/lock/drift": {"lockVersion": 1, "models": []},
    "/api/v1/models/lock/apply": {"lockVersion": 1, "models": []},
    "/api/v1/models/bundles": {"name": "one.tar", "models": ["one"]},
    "/api/v1/models/registry/import": {"models": []},
    "/api/v1/models/source/check": {"source": "huggingface", "source_url": "tiny/acorn"},
    "/v1/chat/completions": {"model": "llm", "messages": [{"role": "user", "content": "Hello"}]},
    "/api/v1/plan": {"action": "switch", "model_id": "one"},
    "/api/v1/models/profiles": {"name": "night", "enabledModels": ["one"]},
    "/v1/completions": {"model": "llm", "prompt": "Once"},
    "/v1/embeddings": {"model": "llm", "input": ["one text", "another"]},
    "/v1/images/generations": {"model": "llm", "prompt": "A lighthouse"},
    "/api/v1/keys": {"name": "ci", "role": "viewer"},
    "/api/v1/webhooks": {"url": "https://ops.example.com/hook"},
    "/v1/audio/speech": {"model": "llm", "input": "Good morning"},
    "/api/pull": {"model": "one"},
    "/api/show": {"model": "one"},
}
"""Every path that takes a body, with a good one."""
IGNORING = {"/api/pull", "/api/show"}
"""Each client of Ollama sends along what its version knows; only the name is read."""


def checked(answer: httpx.Response) -> int:
    """The status, after making sure that the refusal is one of ours."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["code"]
    assert problem["hint"]
    assert "Traceback" not in answer.text
    return answer.status_code


@pytest.fixture
def untouched(ledger: Ledger) -> Any:
    """Nothing was written between the first look and the call of this."""
    before = _rows(ledger)
    return lambda: _rows(ledger) == before


def _rows(ledger: Ledger) -> tuple[list[str], list[str]]:
    with ledger.database.reading() as session:
        return sorted(session.exec(select(Model.id)).all()), sorted(session.exec(select(Job.id)).all())


@BEFORE_THE_DATABASE
def test_every_path_with_a_body_is_tried_here(api: Served) -> None:
    described = api.http.get("/openapi.json").json()["paths"]
    with_body = {
        path for path, methods in described.items() for method in methods.values() if "requestBody" in method
    }  # fmt: skip
    elsewhere = {
        "/api/v1/jobs/{job_id}", "/api/v1/models/{model_id}/trust", "/api/v1/models/rescan",
        "/api/v1/models/bundles/{name}/import", "/api/v1/limits/{name}", "/api/delete",
        "/api/v1/models/{model_id}", "/api/v1/models/{model_id}/fallback",
        "/api/v1/models/{model_id}/usage", "/api/v1/models/{model_id}/run",
        "/api/v1/retention", "/api/v1/cleanup",
        "/api/v1/models/{model_id}/priority",
        "/api/v1/schedules/{name}",
        "/api/v1/audit/{seq}/archive", "/api/v1/webhooks/{webhook_id}",
        "/api/v1/models/{model_id}/request", "/api/v1/models/ensure",
        *(f"/api/v1/models/{{model_id}}/{name}" for name in ("tier", "thinking", "enabled", "config", "names", "base")),
        "/api/v1/models/profiles/{name}",
    }  # fmt: skip
    assert with_body == {*BODIES, *elsewhere}


@pytest.mark.parametrize(
    "body",
    [{"revision": "../.."}, {"revision": 1}, {"checksum": "crc:1"}, {"checksum": ""}, {"source_url": "a/b"}, [], None],
)
def test_changes_that_are_none_leave_a_model_as_it_is(api: Served, body: Any) -> None:
    assert checked(api.http.patch("/api/v1/models/one", json=body)) == 422
    before = api.http.get("/api/v1/models/one").json()
    assert (before["revision"], before["checksum"]) == (None, None)
    changed = api.http.patch("/api/v1/models/one", json={"revision": "main", "checksum": f"sha256:{'a' * 64}"}).json()
    assert (changed["revision"], changed["checksum"]) == ("main", f"sha256:{'a' * 64}")
    assert api.http.patch("/api/v1/models/one", json={"checksum": None}).json()["revision"] == "main", "left out, stays"


@BEFORE_THE_DATABASE
def test_every_route_is_described(api: Served) -> None:
    for path, methods in api.http.get("/openapi.json").json()["paths"].items():
        for method in methods.values():
            assert method["summary"], path
            assert method["description"], path


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-1", "A-8", "A-11")
def test_bodies_that_are_no_object(api: Served, untouched: Any) -> None:
    cases: list[tuple[bytes, set[int]]] = [
        (b"", {422}), (b"{", {400}), (b"[]", {422}), (b"null", {422}), (b'"x"', {422}), (b"7", {422}), (b"true", {422}),
        (b"\x00", {400}), (b"\xff", {400}), (b"{}", {422}), (b'{"a":}', {400}), (b"{'a': 1}", {400}),
        (b"[" * 100_000, {400}), (b'{"model_id":' * 80_000, {400}), (b"[" * 900 + b"]" * 900, {400, 422}),
        (json.dumps(GOOD).encode("utf-16"), {400}), (json.dumps(GOOD).encode("utf-32"), {400}),
        (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), {400}), (b'{"model_id": "\xc0\xaf"}', {400, 422}),
    ]  # fmt: skip
    for path in BODIES:
        for body, expected in cases:
            status = checked(api.http.post(path, content=body, headers=JSON))
            assert status in expected, (path, body[:40], status)
    assert untouched()


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-2", "A-3", "A-14", "A-103")
def test_bodies_of_another_kind_or_size(api: Served, untouched: Any) -> None:
    good = json.dumps(GOOD).encode()
    kinds = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jso",
    ]
    for path in BODIES:
        for kind in kinds:
            assert checked(api.http.post(path, content=good, headers={"Content-Type": kind})) == 415, kind
        packed = JSON | {"Content-Encoding": "gzip"}
        assert checked(api.http.post(path, content=b"\x1f\x8b", headers=packed)) == 415
        huge = b'{"name": "' + b"x" * 2 * 1024 * 1024 + b'"}'
        assert checked(api.http.post(path, content=huge, headers=JSON)) == 413
    assert untouched()


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-2")
def test_fifty_megabytes_are_refused_by_their_length_or_cut_off(api: Served, untouched: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    connection.putrequest("POST", ADD)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(50 * 1024 * 1024))
    connection.endheaders()
    assert connection.getresponse().status == 413, "before a byte of it came"
    connection.close()

    def endless() -> Any:
        for _ in range(50):
            yield b"x" * 1024 * 1024

    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # cut off while it was still sending
        assert api.http.post(ADD, content=endless(), headers=JSON).status_code == 413
    for length in ("-1", "x", "1, 2", "9" * 30):
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
        connection.putrequest("POST", ADD)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status in (400, 413), length
        connection.close()
    assert untouched()


def places(body: Any, value: str) -> list[str]:
    """The body as JSON, with each string of it in turn replaced by a raw value."""
    mark = "\x01"
    return [
        json.dumps({**body, key: changed}).replace(json.dumps(mark), value)
        for key in body for changed in _replaced(body[key], mark)
    ]  # fmt: skip


def _replaced(value: Any, mark: str) -> list[Any]:
    if isinstance(value, str):
        return [mark]
    if isinstance(value, list):
        return [
            [*value[:at], changed, *value[at + 1 :]]
            for at, each in enumerate(value)
            for changed in _replaced(each, mark)
        ]
    if isinstance(value, dict):
        return [{**value, key: changed} for key in value for changed in _replaced(value[key], mark)]
    return []


@pytest.mark.fault("A-4", "A-5", "A-6", "A-7", "A-12")
def test_values_that_no_field_takes(api: Served, untouched: Any) -> None:
    values = [
        r'"\ud800"', r'"\udfff\ud800"', r'"a\u0000b"', "NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "-1", "1.5",
        "true", "null", "[]", "{}", f'"{"x" * 10_000}"',
        r'"a\nb"', r'"\u001b[31m"', r'"\u202e"', r'"a\r\nSet-Cookie: x"',
    ]  # fmt: skip
    wrong = []
    for path in (ADD, "/api/v1/models/download", "/api/v1/models/activate"):
        for value in values:
            for body in places(BODIES[path], value):
                answer = api.http.post(path, content=body.encode(), headers=JSON)
                if checked(answer) not in (400, 404, 422):
                    wrong.append((path, body[:200], answer.text))
    for value in values[:8]:
        for path in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/images/generations",
            "/v1/audio/speech",
        ):
            for body in places(BODIES[path], value):
                answer = api.http.post(path, content=body.encode(), headers=JSON)
                if checked(answer) not in (400, 404, 409, 422):
                    wrong.append((path, body[:200], answer.text))
    assert not wrong
    assert untouched()


@pytest.mark.fault("A-4", "A-5", "A-6", "A-7", "A-8")
def test_values_in_the_free_form_fields(api: Served, untouched: Any) -> None:
    deep = "[" * 900 + "]" * 900
    values = [
        r'{"a": "\ud800"}', r'{"\ud800": 1}', r'{"a": "\u0000"}', r'{"\u0000": 1}', '{"a": NaN}', '{"a": Infinity}',
        '{"a": 1e999}', f'{{"a": {"9" * 5000}}}', f'{{"a": {2**63}}}', f'{{"a": {-(2**63) - 1}}}', f'{{"a": {deep}}}',
        f'{{"a": {"9" * 400}}}', f'{{"a": {"[" * 40 + "]" * 40}}}',
    ]  # fmt: skip
    wrong = []
    for field in ("config", "requirements"):
        for value in values:
            body = json.dumps(GOOD)[:-1] + f', "{field}": {value}}}'
            answer = api.http.post(ADD, content=body.encode(), headers=JSON)
            if checked(answer) not in (400, 422):
                wrong.append((field, value[:60], answer.status_code))
    for body in (
        {"file_size": 2**63}, {"file_size": -1}, {"file_size": True}, {"file_size": 1.0}, {"file_size": "1"},
        {"tags": ["a\x00"]}, {"tags": ["\ud800"]}, {"tags": ["x"] * 51}, {"tags": [1]}, {"tags": "a"},
        {"checksum": "sha1:00"}, {"checksum": "sha256:" + "g" * 64}, {"revision": "a\x00"}, {"config": []},
    ):  # fmt: skip
        answer = api.http.post(ADD, content=json.dumps(GOOD | body).encode(), headers=JSON)
        if checked(answer) != 422:
            wrong.append(("-", str(body), answer.status_code))
    assert not wrong
    assert untouched()


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-9", "A-100")
def test_unknown_fields_are_refused_with_the_nearest_name(api: Served, untouched: Any) -> None:
    ours = {path: body for path, body in BODIES.items() if path not in IGNORING}
    for path, body in ours.items():
        for extra in ("admin", "state", "path", "__proto__", "sha256"):
            assert checked(api.http.post(path, json=body | {extra: "x"})) == 422, (path, extra)
    answer = api.http.post(ADD, json=GOOD | {"sourceURL": "x"})
    assert "did you mean 'source" in answer.json()["detail"]
    assert untouched()


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-10")
def test_a_key_twice_is_refused_wherever_it_is(api: Served, untouched: Any) -> None:
    body = json.dumps(GOOD)[:-1]
    for more in (
        ', "source": "ollama", "source_url": "tiny:latest"}', ', "config": {"a": 1, "b": 2, "a": 3}}',
        ', "tags": [{"a": 1, "a": 1}]}', ', "n\\u0061me": "Another"}',
    ):  # fmt: skip
        answer = api.http.post(ADD, content=(body + more).encode(), headers=JSON)
        assert (checked(answer), answer.json()["code"]) == (422, "duplicate_key"), more
    assert untouched()


HOSTILE = [
    "..", ".", "../../pwned", "..%2f..%2fpwned", "%2e%2e%2f", "%2e%2e",
    "..%c0%af", "..%5cpwned", "C:%5cpwned", "%5c%5chost", "D:foo",
    "nul%00", "%00", "%252e%252e", "%ef%bc%8e%ef%bc%8e%ef%bc%8f", "CON", "a.", "a%20", "~root",
    "-rf", "$(id)", "%60id%60", "x" * 5000,
    "%ff", "%ed%a0%80", "a%0d%0aSet-Cookie:x", "' OR 1=1 --", "%27%3bdrop table jobs%3b--", "%e2%80%ae", "1", "0" * 36,
]  # fmt: skip


def as_it_is(api: Served, method: str, path: str) -> tuple[int, str]:
    """Status and body for a path that no client tidies up."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.fault("A-20", "A-21", "A-22")
def test_ids_that_were_never_ours(api: Served, untouched: Any) -> None:
    wrong = []
    for name in HOSTILE:
        for method, path in (
            ("GET", f"/api/v1/jobs/{name}"), ("POST", f"/api/v1/jobs/{name}/cancel"),
            ("GET", f"/api/v1/jobs/{name}/events"), ("POST", f"/api/v1/jobs/{name}/retry"),
            ("GET", f"/api/v1/models/{name}"), ("DELETE", f"/api/v1/models/{name}"),
            ("POST", f"/api/v1/models/{name}/verify"), ("POST", f"/api/v1/models/{name}/switch"),
            ("POST", f"/api/v1/models/deactivate/{name}"),
        ):  # fmt: skip
            status, text = as_it_is(api, method, path.replace(" ", "%20"))
            if status not in (404, 405, 422) or '"code"' not in text:
                wrong.append((method, path[:80], status, text[:200]))
    for name in ("../../pwned", "..", "a\x00", "\u202e", "CON ", "a/b", "status", "x" * 200, "-rf", "a."):
        for path in ("/api/v1/models/download", "/api/v1/models/activate"):
            assert checked(api.http.post(path, json={"model_id": name})) == 422, name
        assert checked(api.http.post(ADD, json=GOOD | {"model_id": name})) == 422, name
    assert not wrong
    assert untouched()


@pytest.mark.fault("A-19")
def test_pages(api: Served, ledger: Ledger) -> None:
    for number in range(5):
        ledger.submit(Download(model_id=f"m{number}"), origin="test")
    for path, name, key in (("/api/v1/jobs", "jobs", "id"), ("/api/v1/models", "models", "modelId")):
        whole = [row[key] for row in api.http.get(path, params={"limit": 500}).json()[name]]
        paged: list[str] = []
        cursor = None
        while cursor is not None or not paged:
            page = api.http.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
            paged += [row[key] for row in page[name]]
            cursor = page["nextCursor"]
        assert paged == whole
        for limit in ("-1", "0", "501", "1e9", "x", "9" * 5000, "NaN", "1.5"):
            assert checked(api.http.get(path, params={"limit": limit})) == 422, limit
        for forged in FORGED:
            assert checked(api.http.get(path, params={"cursor": forged})) == 422, forged
        for sort in ("sort", "filter", "order"):
            assert api.http.get(path, params={sort: "id;drop table jobs"}).status_code in (200, 422)
    for query in ("status=done", "status=%27", "kind=" + "x" * 65, "modelId=" + "x" * 97):
        assert checked(api.http.get(f"/api/v1/jobs?{query}")) == 422, query
    for text in ("' OR '1'='1", "%", "_", "\\", "x' UNION SELECT * FROM jobs --", "a%00", "\x00"):
        answer = api.http.get("/api/v1/jobs", params={"kind": text[:64]})
        assert answer.status_code in (200, 422), answer.text
        assert answer.json().get("jobs", []) == [], text
        assert api.http.get("/api/v1/models", params={"text": text}).status_code in (200, 422), text


def _cursor(text: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(text).decode().rstrip("=")


FORGED = [
    "forged", "=", "%00", "é", "x" * 501, *map(_cursor, [
        b"null", b"{}", b"[]", b"[1]", b"[1, 2]", b'["a", "b"]', b"[true, true]",
        b'[NaN, "x"]', b'[Infinity, "x"]',
        b'[1.0, "\\u0000"]', b'["\\u0000"]', b'["\\ud800"]', b'[1.0, "\\ud800"]', b'[1e999, "x"]', b"[" * 100_0,
        b'[1.0, "x", 1]', b"[[1.0], [2]]", b'["a", 1]', b"[1.0, null]", b"\xff\xfe", b'{"0": 1.0}',
    ]),
]  # fmt: skip


@pytest.mark.fault("A-95", "A-96")
def test_paths_and_methods_that_are_none(api: Served, untouched: Any) -> None:
    for method, path, expected in (
        ("GET", "/nothing", {404}), ("POST", "/api/v1/jobs", {405}), ("TRACE", "/api/v1/jobs", {405}),
        ("PUT", "/api/v1/models/one", {405}), ("GET", "/api/v1/jobs/", {404}), ("GET", "//api/v1/jobs", {404}),
        ("GET", "/api/v1/JOBS", {404}), ("GET", "/api/v1/models/one;x", {404}), ("GET", "/api/v1/models/one%2f", {404}),
        ("OPTIONS", "/api/v1/models/add", {405}), ("DELETE", "/api/v1/jobs/x", {405}),
        ("CONNECT", "/api/v1/jobs", {405}),
    ):  # fmt: skip
        assert checked(api.http.request(method, path)) in expected, (method, path)
    answer = api.http.post(
        "/api/v1/jobs/x/cancel", headers={"X-HTTP-Method-Override": "GET", "X-Original-URL": "/docs"}
    )
    assert checked(answer) == 404
    assert untouched()


def test_a_defect_is_a_problem_too_and_tells_nothing(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("shared.db.jobs.find", broken)
    answer = api.http.get("/api/v1/jobs")
    assert checked(answer) == 500
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
