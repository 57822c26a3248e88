"""Connections: what is sent before a body, how much of it, how slowly, and how many at a time."""

import contextlib
import http.client
import json
import socket

import httpx
import pytest

from shared.contracts import Download
from tests.api.conftest import Serve, Served, up_to

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.mark.fault("A-13")
def test_ranges_without_number_get_the_file_once_or_nothing(api: Served) -> None:
    whole = api.http.get("/dashboard/main.js")
    assert (api.http.get("/dashboard/main.js", headers={"Range": "bytes=0-1"}).content) == whole.content[:2]
    for ranges in (
        "0-0," * 10_000 + "0-0",
        "0-,1-," * 50 + "2-",
        "-1," * 500 + "-1",
        "5-1",
        "9999999-",
        "x",
        "0-" * 20,
    ):
        answer = api.http.get("/dashboard/main.js", headers={"Range": f"bytes={ranges}"})
        assert answer.status_code in (200, 206, 400, 416), ranges[:40]
        assert not answer.headers["content-type"].startswith("multipart"), ranges[:40]
        assert len(answer.content) <= len(whole.content), ranges[:40]


def told(api: Served, raw: bytes) -> tuple[int, str]:
    """Status and code of the one answer that comes for these bytes, and that nothing comes after it."""
    with socket.create_connection(("127.0.0.1", api.port), 20) as client:
        with contextlib.suppress(OSError):  # hung up on while it was still sending
            client.sendall(raw)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        body = json.loads(answer.read())
        assert client.recv(1) == b"", "still open"
        return answer.status, body["code"]


HOST = b"Host: localhost\r\n"
GET = b"GET /health/live HTTP/1.1\r\n" + HOST
POST = b"POST /api/v1/models/add HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"


@pytest.mark.fault("A-15")
def test_what_comes_before_a_body_is_bounded(api: Served) -> None:
    for status, raw in (
        (431, GET + b"X: " + b"x" * 70_000 + b"\r\n\r\n"), (431, GET + b"X: " + b"x" * 1024 * 1024),
        (431, GET + b"X: y\r\n" * 10_000 + b"\r\n"), (431, GET + b"X: y\r\n" * 250 + b"\r\n"),
        (414, b"GET /health/live?" + b"a=b&" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
        (414, b"GET /" + b"a" * 1024 * 1024),
    ):  # fmt: skip
        with contextlib.suppress(ConnectionResetError):  # hung up before all of it was read, its answer lost by that
            assert told(api, raw) == (status, "bad_request"), raw[:60]
    many = "&".join(f"a{number}=b" for number in range(5000))
    assert api.http.get(f"/health/live?{many}").status_code == 200
    assert api.http.get("/health/live", headers={f"X-{number}": "y" for number in range(150)}).status_code == 200


@pytest.mark.fault("A-17")
def test_requests_that_two_servers_read_differently(api: Served) -> None:
    """Each would hide a second request from one of them."""
    hidden = b"GET /api/v1/jobs HTTP/1.1\r\n" + HOST + b"\r\n"
    for raw in (
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n" + hidden,
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} " + hidden,
        POST + b"Content-Length: 2, 2\r\n\r\n{}" + hidden, POST + b"Content-Length: +2\r\n\r\n{}" + hidden,
        POST + b"Content-Length : 2\r\n\r\n{}" + hidden,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
        POST + b"Transfer-Encoding: chunked\r\n\r\n2x\r\n{}\r\n0\r\n\r\n" + hidden,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden,
        GET + b"X: a\r\n b\r\n\r\n", GET + b"X: a\x00b\r\n\r\n", GET + b"X\x00: a\r\n\r\n", GET + b": a\r\n\r\n",
        GET.replace(b"\r\n", b"\n") + b"\n",
        b"get /health/live HTTP/1.1\r\n" + HOST + b"\r\n", GET.replace(b"1.1", b"9.9") + b"\r\n",
    ):  # fmt: skip
        status, code = told(api, raw)
        assert (status, code) == (400, "bad_request"), raw[:120]
    assert api.http.get("/health/live").status_code == 200


@pytest.mark.fault("A-16")
def test_who_does_not_come_to_the_point_is_hung_up_on(serve: Serve) -> None:
    api = serve(head_seconds=0.5)
    with contextlib.ExitStack() as stack:
        silent, slow, again = (
            stack.enter_context(socket.create_connection(("127.0.0.1", api.port), 20)) for _ in range(3)
        )
        slow.sendall(b"GET /health/live HT")
        again.sendall(GET + b"\r\n")
        assert again.recv(4096).startswith(b"HTTP/1.1 200")
        again.sendall(b"GET /health/live HT")
        for client in (silent, slow, again):
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    with api.follow() as frames:  # who has asked has all the time that the answer takes
        next(frames)
        assert api.http.get("/health/live").status_code == 200


@pytest.mark.fault("A-16", "A-110")
def test_many_who_ask_nothing_keep_nobody_out(serve: Serve) -> None:
    api = serve(max_connections=20, head_seconds=60)
    with contextlib.ExitStack() as stack, api.follow() as frames:
        next(frames)
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", api.port), 20)) for _ in range(60)]
        for _ in range(5):
            assert httpx.get(f"{api.url}/health/live", trust_env=False, verify=False).status_code == 200
        with contextlib.suppress(ConnectionResetError):
            assert idle[0].recv(1) == b"", "the one that waited longest has gone"
        idle[-1].sendall(GET + b"\r\n")
        assert idle[-1].recv(4096).startswith(b"HTTP/1.1 200"), "a later one has not"
        api.front.ledger.submit(Download(model_id="one"), origin="test")
        assert up_to(frames, lambda frame: frame.get("type") == "job.state"), "who listens still does"


@pytest.mark.fault("A-110")
def test_who_never_reads_is_hung_up_on(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.connections.STALLED_SECONDS", 0.3)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", api.port))
        client.settimeout(20)
        asked = (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 10
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _send_without_end(client, asked)
    assert api.http.get("/health/live").status_code == 200


def _send_without_end(client: socket.socket, asked: bytes) -> None:
    while True:
        client.sendall(asked)


MESSAGE = b"\x81\xfe\x10\x00\0\0\0\0" + b"x" * 4096
"""A masked frame of text."""
MOST_READ = 256 * 1024 * 1024
"""What is read within ten seconds of who goes on talking is more than that."""


@pytest.mark.fault("A-110")
def test_who_talks_on_a_websocket_is_cut_off(api: Served) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.port), 20) as client:
        client.sendall(b"GET /api/v1/ws HTTP/1.1\r\n" + HOST + upgrade + key)
        assert client.recv(12) == b"HTTP/1.1 101"
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < MOST_READ:
                client.sendall(MESSAGE * 16)
                sent += len(MESSAGE) * 16
    assert sent < MOST_READ
    assert api.http.get("/health/live").status_code == 200
