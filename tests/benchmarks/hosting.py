"""Where the files come from: a hub whose large files lie with nginx, as the Hub's lie with a CDN.

Each connection may be held to a rate. nginx's own `limit_rate` lets a second's worth of bytes through at the start of
every request, so it holds back nobody who asks for ranges; the system's pacing of sockets does.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.addresses import free_port
from tests.benchmarks.stage import Stage, wait_for

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin"
SO_MAX_PACING_RATE = 47

CONFIG = """
daemon off; worker_processes auto; pid {folder}/pid; error_log {folder}/error.log; {user}
events {{ worker_connections 512; }}
http {{
    log_format bytes '$body_bytes_sent $uri';
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {tls}
    server {{
        listen 127.0.0.1:{front}{secure};
        location / {{
            proxy_pass {hub}; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_redirect ~^/cdn/(.*)$ {cdn}/cdn/$1;
        }}
    }}
    server {{
        listen 127.0.0.1:{back}{secure};
        access_log {folder}/bytes.log bytes;
        location ~ ^/cdn/([^/]+/[^/]+)/[^/]+/(.+)$ {{ alias {root}/$1/$2; }}
    }}
}}
"""


@dataclass(frozen=True)
class Host:
    """What a client has to know, and what its files cost the server."""

    endpoint: str
    cdn: str
    """Where the bytes are: `<cdn>/cdn/<owner>/<name>/<any>/<file>`."""
    pid: int
    folder: Path
    certificate: Path | None = None

    def url(self, repo: str, name: str) -> str:
        return f"{self.cdn}/cdn/{repo}/main/{name}"

    @property
    def environment(self) -> dict[str, str]:
        """For ours: the operator's endpoint, and where it redirects to."""
        found = {"HF_ENDPOINT": self.endpoint, "MODELYARD_SOURCES__ALLOWED_HOSTS": self.cdn.partition("//")[2]}
        return found | ({"MODELYARD_SOURCES__CA_BUNDLE": str(self.certificate)} if self.certificate else {})

    def sent(self) -> int:
        """Bytes of files in answers that have ended, whether whole or cut off by the client."""
        return sum(int(line.split(" ", 1)[0]) for line in (self.folder / "bytes.log").read_text().splitlines())


def nginx() -> str | None:
    """The program, where it is installed."""
    return shutil.which("nginx", path=PROGRAMS)


def needed(*programs: str) -> None:
    """Raises: RuntimeError, naming what is missing and how to get it."""
    missing = [name for name in programs if shutil.which(name, path=PROGRAMS) is None]
    if missing:
        message = f"{', '.join(missing)} not found: run `make bench`, which installs what it needs"
        raise RuntimeError(message)


def host(stage: Stage, root: Path, *, tls: bool = False, rate: int | None = None) -> Host:
    """A hub on loopback for the repositories below a root, its large files served by nginx.

    Args:
        rate: bytes per second that each connection to nginx carries, however many requests come over it.
    """
    needed("nginx")
    folder = Path(tempfile.mkdtemp(prefix="nginx-", dir=stage.folder))
    (folder / "bytes.log").touch()
    behind, front, back = free_port(), free_port(), free_port()
    stage.run("hub", "deploy.demo.hub", "--root", str(root), "--port", str(behind))
    certificate = _certificate(folder) if tls else None
    scheme = "https" if tls else "http"
    cdn = f"{scheme}://127.0.0.1:{back}"
    config = CONFIG.format(
        folder=folder, root=root, front=front, back=back, cdn=cdn, hub=f"http://127.0.0.1:{behind}",
        user="user root;" if os.geteuid() == 0 else "", secure=" ssl" if tls else "",
        tls=f"ssl_certificate {certificate}; ssl_certificate_key {folder}/key.pem;" if certificate else "",
    )  # fmt: skip
    (folder / "nginx.conf").write_text(config)
    given = {back: _listener(back, rate)} if rate is not None else {}
    pid = stage.start(
        folder.name,
        nginx() or "nginx",
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        pass_fds=[each.fileno() for each in given.values()],
        **({"NGINX": "".join(f"{each.fileno()};" for each in given.values())} if given else {}),
    )
    for each in given.values():
        each.close()
    for port in (behind, front, back):
        wait_for(lambda port=port: _answers(port), "the start of a server")
    return Host(f"{scheme}://127.0.0.1:{front}", cdn, pid, folder, certificate)


def _listener(port: int, rate: int) -> socket.socket:
    """What nginx is to accept connections from, each of which sends so many bytes per second and no more."""
    listener = socket.create_server(("127.0.0.1", port), backlog=511)
    listener.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)  # what is accepted inherits it
    listener.setblocking(False)
    return listener


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1; its key lies beside it."""
    made = folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", made],
        check=True, capture_output=True,
    )  # fmt: skip
    return made
