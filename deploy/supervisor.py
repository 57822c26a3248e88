"""supervisord as a child: its configuration, its life, its answers, its end.

It runs in a session of its own that all its programs share. The session is what is swept in the end: whatever is
left in it belonged to this instance.
"""

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from deploy.data_folder import DataFolder, write_private
from deploy.programs import PROJECT, Program
from shared.errors import Invalid
from shared.leash import leashed

RPC_SECONDS = 5
ENDLESS = 10**9
POLL_SECONDS = 0.05
SWEEP_SECONDS = 2
"""A killed process that is still there after this hangs in the kernel; nobody can do more about it."""
_COMMENT = re.compile(r"\s[;#]|[\r\n]")


@dataclass(frozen=True)
class Process:
    """A program as supervisord sees it now."""

    name: str
    pid: int
    """0 while it does not run."""
    state: str
    """`RUNNING`, `STARTING`, `BACKOFF` (it keeps ending), `STOPPING`, `STOPPED`, `EXITED`, `FATAL` or `UNKNOWN`."""


class Supervisor:
    """One supervisord and everything under it. Start it from a thread that lives as long as the process does."""

    def __init__(self, folder: DataFolder, programs: Sequence[Program]) -> None:
        self._folder = folder
        self._programs = programs
        self._child: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self.log = folder.logs / "supervisord.log"

    def start(self, environment: Mapping[str, str]) -> None:
        """Start supervisord, which starts the programs.

        Args:
            environment: the children's whole environment; the only way that secrets take.

        Raises:
            Invalid: `data_dir_unusable`, a path that its configuration cannot hold.
        """
        # Addresses of Unix sockets end at 108 bytes, data folders do not; mkdtemp makes it 0700.
        self._sockets = Path(tempfile.mkdtemp(prefix="modelyard-"))
        file = self._folder.run / "supervisord.conf"
        write_private(file, configuration(self._programs, self._folder, self._sockets / "rpc"))
        argv = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(file)]
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._child = subprocess.Popen(
                leashed(argv, os.getpid()),
                cwd=PROJECT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )

    @property
    def pid(self) -> int:
        """0 before the start and after the end."""
        return self._child.pid if self._child else 0

    def alive(self) -> bool:
        """Whether supervisord runs. Does not reap it: its pid, the session's id, stays taken until the sweep."""
        if self._child is None:
            return False
        return os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def processes(self) -> list[Process]:
        """The programs; empty while supervisord does not answer."""
        if self._sockets is None:
            return []
        transport = _UnixTransport(self._sockets / "rpc")
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as server:
                told = cast("list[dict[str, Any]]", server.supervisor.getAllProcessInfo())
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return []
        return [Process(each["name"], each["pid"], each["statename"]) for each in told]

    def stop(self, seconds: float) -> None:
        """End everything: politely until the seconds are over, then by SIGKILL. Nothing of the session is left."""
        if self._child is not None:
            deadline = time.monotonic() + seconds
            if self.alive():
                self._child.terminate()
            while self.alive() and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            if self.alive():
                self._child.kill()
            self._sweep(self._child.pid)
            self._child.wait()
            self._child = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def _sweep(self, session: int) -> None:
        """Kill until the session is empty; supervisord itself is a zombie by now, or about to be one."""
        deadline = time.monotonic() + SWEEP_SECONDS
        while (members := _members(session)) and time.monotonic() < deadline:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)


def configuration(programs: Sequence[Program], folder: DataFolder, rpc: Path) -> str:
    """supervisord's configuration.

    Two groups, so that all programs stop side by side, and those that the others need after them.

    Raises:
        Invalid: `data_dir_unusable`, a path that the format cannot hold.
    """
    sections: list[tuple[str, dict[str, object]]] = [
        (
            "supervisord",
            {
                "logfile": folder.logs / "supervisord.log",
                "logfile_maxbytes": "10MB",
                "logfile_backups": 3,
                "pidfile": folder.run / "supervisord.pid",
                "childlogdir": folder.logs,
                "nodaemon": "true",
                "silent": "true",
            },
        ),
        ("unix_http_server", {"file": rpc, "chmod": "0700"}),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
    ]
    for priority, (group, last) in enumerate((("base", True), ("services", False)), 1):
        names = [each.name for each in programs if each.stops_last is last]
        if names:
            sections.append((f"group:{group}", {"programs": ",".join(names), "priority": priority}))
    sections += [(f"program:{each.name}", _program(each, folder)) for each in programs]
    return "\n".join(_section(name, values) for name, values in sections)


def _program(program: Program, folder: DataFolder) -> dict[str, object]:
    return {
        "command": shlex.join(leashed(list(program.argv), 0)),
        "directory": PROJECT,
        "autorestart": "true",
        "startsecs": program.start_seconds,
        "startretries": ENDLESS,
        "stopsignal": "TERM",
        "stopwaitsecs": program.stop_seconds,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        # Escaped here and once more as every value: supervisord expands this one twice.
        "stdout_logfile": str(folder.logs / f"{program.name}.log").replace("%", "%%"),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": 3,
    }


def _section(name: str, values: Mapping[str, object]) -> str:
    lines = [f"[{name}]", *(f"{key}={_value(str(value))}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _value(text: str) -> str:
    if _COMMENT.search(text):
        raise Invalid(
            "data_dir_unusable",
            "A path holds a line break, or a space before '#' or ';': the supervisor would read a comment there.",
            "Choose another folder with --data-dir or MODELYARD_DATA_DIR.",
        )
    return text.replace("%", "%%")


def _members(session: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=RPC_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(RPC_SECONDS)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: tuple[str, dict[str, str]] | str) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # what close() closes
        return connection
