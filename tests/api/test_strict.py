"""Bodies as raw bytes: what strict JSON is, each refusal by its code."""

import http.client
import json
import socket
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.strict import strict_json
from shared.errors import Invalid
from tests.api.conftest import BEFORE_THE_DATABASE, Serve, Served
from tests.api.test_problems import ADD, GOOD, JSON, checked

REFUSED: dict[str, list[tuple[str, bytes]]] = {
    "invalid_json": [
        ("A-1", b"{"), ("A-1", b"{'a': 1}"), ("A-8", b"[" * 100_000), ("A-11", "{}".encode("utf-16")),
        ("A-11", "{}".encode("utf-32")), ("A-11", b"\xef\xbb\xbf{}"), ("A-11", b'{"a": "\xed\xa0\x80"}'),
        ("A-11", b'{"a": "\xc0\xaf"}'), ("A-11", "{“a”: 1}".encode()), ("A-7", b'{"a": 0x10}'), ("A-7", b'{"a": 01}'),
        ("A-7", b'{"a": 1_000}'), ("A-5", b'{"a": "\x00"}'), ("A-1", b'{"a": 1} {"b": 2}'), ("A-1", b'{"a": 1,}'),
        ("A-1", b'/* */{"a": 1}'),
    ],
    "invalid_value": [
        ("A-4", rb'{"a": "\ud800"}'), ("A-4", rb'{"\udfff": 1}'), ("A-4", rb'{"a": ["\udc00\ud800"]}'),
        ("A-5", rb'{"a": "\u0000"}'), ("A-5", rb'{"\u0000": 1}'),
        ("A-6", b'{"a": NaN}'), ("A-6", b'{"a": [-Infinity]}'), ("A-6", b'{"a": 1e999}'), ("A-6", b"Infinity"),
        ("A-7", b'{"a": 9223372036854775808}'), ("A-7", b'{"a": -9223372036854775809}'), ("A-7", b"9" * 5000),
        ("A-8", b"[" * 900 + b"]" * 900), ("A-8", b'{"a":' * 33 + b"1" + b"}" * 33),
    ],
    "duplicate_key": [
        ("A-10", b'{"a": 1, "a": 1}'), ("A-10", b'{"b": [{"a": 1, "a": 2}]}'), ("A-10", rb'{"a": 1, "\u0061": 2}'),
        ("A-10", b'{"": 1, "": 2}'),
    ],
}  # fmt: skip
"""Code, and bodies that get it, each with the case that it is of."""
TAKEN = [
    b"{}", b"[]", b"null", b' {"a": 9223372036854775807} ', b'{"a": -9223372036854775808, "b": 1e308}',
    rb'{"a": "\ud83d\ude00"}', '{"a": "😀 \u202e é"}'.encode(), b'{"a":' * 32 + b"1" + b"}" * 32, b'{"a": 1, "A": 2}',
]  # fmt: skip


@pytest.mark.fault("A-1", "A-4", "A-5", "A-6", "A-7", "A-8", "A-10", "A-11")
def test_every_body_is_told_what_is_wrong_with_it() -> None:
    for code, bodies in REFUSED.items():
        for case, body in bodies:
            with pytest.raises(Invalid) as refused:
                strict_json(body)
            assert (refused.value.code, bool(refused.value.hint)) == (code, True), (case, body[:60])


def test_honest_bodies_are_what_they_say() -> None:
    for body in TAKEN:
        assert strict_json(body) == json.loads(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0dD8eE+-.9 tfnaNI\x00😀', max_size=60).map(str.encode))
def test_any_bytes_are_refused_by_name_or_read_as_everybody_reads_them(body: bytes) -> None:
    try:
        value = strict_json(body)
    except Invalid:
        return
    assert value == json.loads(body.decode())
    assert strict_json(json.dumps(value).encode()) == value


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-1", "A-4", "A-5", "A-6", "A-7", "A-8", "A-10", "A-11")
def test_every_route_refuses_them_the_same(api: Served) -> None:
    """One place judges: a route that FastAPI would let through has no say."""
    for path in (ADD, "/v1/chat/completions", "/api/pull", "/api/v1/models/one/config", "/api/v1/jobs/x/cancel"):
        for code, bodies in REFUSED.items():
            for case, body in bodies:
                answer = api.http.request(
                    "PUT" if path.endswith("config") else "POST", path, content=body, headers=JSON
                )
                assert checked(answer) == (400 if code == "invalid_json" else 422), (path, case, body[:60])
                assert answer.json()["code"] == code


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-2", "A-7", "A-8")
def test_a_long_body_is_looked_through_beside_the_others(serve: Serve) -> None:
    """As many values as fit into the largest body: others are answered before it is."""
    api = serve()
    body = json.dumps({**GOOD, "config": {"a": [0] * 300_000 + [2**70]}}).encode()
    answers: list[tuple[str, int]] = []

    def send() -> None:
        answers.append(("long", api.http.post(ADD, content=body, headers=JSON).status_code))

    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        answers.append(("short", api.http.get("/health/live").status_code))
    sender.join()
    assert answers[0] == ("short", 200)
    assert ("long", 422) in answers


@BEFORE_THE_DATABASE
@pytest.mark.fault("A-16")
def test_a_body_that_does_not_end_is_waited_for_no_longer_than_the_setting(serve: Serve) -> None:
    api = serve(body_seconds=0.3)
    head = f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), 10) as client:
        client.sendall(head.encode() + b'{"a"')
        answer = http.client.HTTPResponse(client)
        answer.begin()
        problem: dict[str, Any] = json.loads(answer.read())
        assert (answer.status, problem["code"]) == (408, "body_too_slow")
        assert "MODELYARD_API__BODY_SECONDS" in problem["hint"]
        assert client.recv(1) == b"", "hung up"
    assert api.http.get("/health/live").status_code == 200
