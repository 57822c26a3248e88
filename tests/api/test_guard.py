"""Who may call: Host, Origin, key; honest users are let in as they are."""

import http.client
from typing import Any

import pytest
from pydantic import SecretStr

from shared.errors import Invalid
from shared.settings import Settings
from tests.api.conftest import Serve, Served

KEY = "k" * 40
pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


def status(api: Served, path: str = "/health/live", method: str = "GET", **headers: str) -> int:
    """With exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"127.0.0.1:{api.port}", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.fault("A-96", "A-104", "A-105")
def test_hosts(serve: Serve) -> None:
    import platform

    api = serve(allowed_hosts=["models.lan"])
    for host in (
        "localhost", "127.0.0.1", f"127.0.0.1:{api.port}", "[::1]:8000", "[::1]", platform.node(), "LOCALHOST:1",
        "models.lan", "10.1.2.3:8000",
    ):  # fmt: skip
        assert status(api, Host=host) == 200, host
    for host in (
        "evil.com", "localhost.evil.com", "127.0.0.1.nip.io", "models.lan.evil.com", "", "a/?x=", "x/docs?",
        "localhost@evil.com", "evil.com:80", "[::1", "127.0.0.1:80:80", f"0.0.0.0:{api.port}", "[::]",
    ):  # fmt: skip
        for path in ("/health/live", "/api/v1/jobs", "/api/v1/events", "/docs", "/"):
            assert status(api, path, Host=host) in (400, 421), (host, path)


@pytest.mark.fault("A-101", "A-102", "A-103", "A-106")
def test_origins(api: Served) -> None:
    own = f"127.0.0.1:{api.port}"
    assert status(api, Origin=f"http://{own}") == 200
    assert status(api, Sec_Fetch_Site="same-origin") == 200
    for origin in (
        "null", "http://evil.com", f"http://localhost.evil.com:{api.port}", "http://127.0.0.1:1", "chrome-extension://x",
        "http://127.0.0.1.nip.io", f"http://127.0.0.1:{api.port}.evil.com", "", "http://[", own,
    ):  # fmt: skip
        for path in ("/health/live", "/api/v1/jobs", "/api/v1/events", "/api/v1/jobs/x/events"):
            assert status(api, path, Origin=origin) == 403, (origin, path)
    for site in ("cross-site", "same-site"):
        assert status(api, Sec_Fetch_Site=site) == 403
    answer = api.http.get("/api/v1/jobs", headers={"Origin": f"http://{own}"})
    assert not any(name.lower().startswith("access-control") for name in answer.headers)


@pytest.mark.fault("A-93")
def test_no_other_bind_without_a_key(serve: Serve, settings: Settings) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "models.lan"):
        with pytest.raises(Invalid) as refused:
            serve(host=host)
        assert "MODELYARD_API_KEY" in refused.value.hint
    with pytest.raises(Invalid):
        serve(trusted_proxies=["127.0.0.1"])  # it is reached through that one
    settings.api_key = SecretStr("letmein")
    with pytest.raises(Invalid) as refused:
        serve(host="0.0.0.0")
    assert refused.value.code == "weak_key"
    settings.api_key = SecretStr(KEY)
    assert serve(host="0.0.0.0").http.get("/health/live").status_code == 200


def test_who_says_so_is_served_without_a_key(serve: Serve) -> None:
    assert serve(host="0.0.0.0", insecure_no_auth=True).http.get("/api/v1/jobs").status_code == 200


@pytest.mark.fault("A-15", "A-17")
def test_headers_without_measure(api: Served) -> None:
    import socket

    cases: list[bytes] = [
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1024 * 1024 + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /api/v1/models/add HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    ]
    for raw in cases:
        with socket.create_connection(("127.0.0.1", api.port), 10) as client:
            answer = exchange(client, raw)
        assert answer == b"" or answer.split()[1] in (b"200", b"400", b"413", b"421", b"431"), (raw[:80], answer[:100])
    assert api.http.get("/health/live").status_code == 200


def exchange(client: Any, raw: bytes) -> bytes:
    try:
        client.sendall(raw)
        answer: bytes = client.recv(1000)
    except OSError:  # hung up on while it was still sending
        return b""
    return answer
