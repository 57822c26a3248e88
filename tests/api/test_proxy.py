"""Behind nginx that ends TLS, set up as deploy/README.md says: honest users are let in, and nobody else."""

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from websockets.sync.client import connect

from shared.jobs import Ledger
from shared.settings import Settings
from tests.api.conftest import Serve, Served
from tests.conftest import free_port, until

README = Path(__file__).resolve().parents[2] / "deploy" / "README.md"
KEY = "k" * 40
NAME = "models.example.org"
ELSEWHERE = "127.0.0.2"
KNOWN = {"Authorization": f"Bearer {KEY}", "Host": NAME}
pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.fixture
def api(serve: Serve, settings: Settings, ledger: Ledger) -> Served:
    settings.api_key = SecretStr(KEY)
    return serve(trusted_proxies=["127.0.0.1"], allowed_hosts=[NAME])


@pytest.fixture
def front(api: Served, tmp_path: Path) -> Iterator[int]:
    """The proxy's port."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        pytest.skip("NO NGINX, THE PROXY IS NOT TESTED: apt-get install nginx-light (make test does)")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=proxy"
    subprocess.run(
        [*command.split(), "-keyout", "models.key", "-out", "models.crt"], cwd=tmp_path, check=True, capture_output=True
    )
    port = free_port()
    (block,) = re.findall(r"```nginx\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for told, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("/etc/ssl/", f"{tmp_path}/"),
        ("http://127.0.0.1:8000", f"http://127.0.0.1:{api.port}"),
    ):  # fmt: skip
        assert told in block
        block = block.replace(told, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/errors; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{block} }}\n"
    )
    proxy = subprocess.Popen([nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "errors"])
    until((tmp_path / "pid").exists, what="nginx")
    yield port
    proxy.terminate()
    proxy.wait(20)


def browser(port: int) -> httpx.Client:
    """From another address of this machine."""
    transport = httpx.HTTPTransport(verify=False, local_address=ELSEWHERE)
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", transport=transport, timeout=20)


@pytest.mark.fault("A-95", "A-101", "A-104", "A-105")
def test_a_proxy_that_ends_tls(api: Served, front: int) -> None:
    with browser(front) as client:
        page = {**KNOWN, "Origin": f"https://{NAME}", "Sec-Fetch-Site": "same-origin"}
        for path in ("/", "/dashboard/main.js", "/api/v1/models", "/v1/models", "/metrics"):
            assert client.get(path, headers=page).status_code == 200, path
        assert client.get("/api/v1/models", headers={"Host": NAME}).status_code == 401
        assert client.get("/api/v1/models", headers={**KNOWN, "Host": "evil.example"}).status_code == 421
        assert client.get("/api/v1/models", headers={**KNOWN, "Origin": "https://evil.example"}).status_code == 403
        pretending = {**page, "X-Forwarded-For": "203.0.113.9"}
        assert client.put("/api/v1/limits/office", json={"jobs": 1}, headers=pretending).status_code == 200
        assert _address(api) == ELSEWHERE, "who is in front of the proxy, whatever he says he is"
        with client.stream("GET", "/api/v1/events", headers=page) as stream:
            assert next(line for line in stream.iter_lines() if line.startswith("event")) == "event: snapshot"
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    bearer = {"Authorization": f"Bearer {KEY}"}
    with connect(
        f"wss://{NAME}/api/v1/ws", sock=socket.create_connection(("127.0.0.1", front)), ssl=trusting,
        additional_headers=bearer, proxy=None,
        origin=f"https://{NAME}",
    ) as events:  # fmt: skip
        assert json.loads(events.recv(20))["type"] == "snapshot"


def _address(api: Served) -> Any:
    (row,) = api.http.get("/api/v1/audit?limit=1", headers={"Authorization": f"Bearer {KEY}"}).json()["entries"]
    return row["address"]
