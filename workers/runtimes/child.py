"""One leashed child process: its environment, its group, its last words, its end. Knows nothing of models or HTTP."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO

import psutil

from shared.errors import Failed
from shared.leash import leashed
from workers.runtimes.log_ring import LogRing

INHERITED = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "OMP_NUM_THREADS"})
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
KILL_SECONDS = 10.0
MARK = "MODELYARD_RUNNER"
"""In a child's environment, with the id of its residency: by this alone a later worker knows it for ours."""


def end_stray(pid: int, mark: str) -> bool:
    """Kill a child of a worker that is gone, with its group; whether there was one.

    It should have died with its worker; a container runtime that passes orphans on can defeat that. A process that has
    its number by now, or a server of somebody else, does not carry the mark and is left alone.
    """
    try:
        ours = psutil.Process(pid).environ().get(MARK) == mark
        if ours and os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
    except (psutil.Error, OSError):  # it is gone, or is somebody else's
        return False
    return ours


def environment(ours: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """What a child may see of our environment: an allow-list, so that no secret of ours is ever in its memory."""
    kept = {name: value for name, value in ours.items() if name in INHERITED or name.startswith("LC_")}
    return kept | OFFLINE | dict(added)


def signal_name(number: int) -> str:
    """For people."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _spawn(argv: Sequence[str], env: Mapping[str, str], cwd: str, stdin: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        leashed(list(argv), os.getpid()),
        env=dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Child:
    """A process that leads its own group, started in an empty folder, and dies with us.

    Args:
        argv: the command; never holds a secret.
        env: the whole environment of the child.
        spawn: a single thread that lives as long as this process; the leash follows the thread that forks.
        ring: receives what the child writes to stdout and stderr.
        log_file: gets the ring's content once the child is gone, or None.
        waits: it is to be told one line on its stdin; else that is empty.

    Raises:
        Failed: code `runner_not_started`; the machine gives us no process.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], spawn: Executor, ring: LogRing, log_file: Path | None = None,
        *, waits: bool = False,
    ) -> None:  # fmt: skip
        self._cwd = tempfile.mkdtemp(prefix="runner-")
        self._ring = ring
        self.log_file = log_file
        self._sweeping = threading.Lock()
        self._swept = False
        stdin = subprocess.PIPE if waits else subprocess.DEVNULL
        try:
            self._process = spawn.submit(_spawn, argv, env, self._cwd, stdin).result()
        except OSError as error:
            shutil.rmtree(self._cwd, ignore_errors=True)
            message = f"A runner could not be started: {error.strerror}."
            raise Failed(
                "runner_not_started", message, "Look at this machine's limits on processes and memory."
            ) from error
        self._drain = threading.Thread(target=self._read, name=f"log of {self.pid}", daemon=True)
        self._drain.start()

    def tell(self, line: str) -> bool:
        """Say to one that waits what it waits for; False where it is gone."""
        pipe = self._process.stdin
        if pipe is None or self.exit_code is not None:
            return False
        try:
            with pipe:
                pipe.write(line.encode() + b"\n")
        except OSError:
            return False
        return True

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        code = self._process.poll()
        if code is not None:
            self._sweep()
        return code

    def wait(self, seconds: float) -> bool:
        """Is it gone within `seconds`? Its last words are in the ring then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.exit_code is not None

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM to the group, SIGKILL after the grace, reap. Does nothing to one that is gone.

        Raises:
            Failed: code `runner_stuck`; the kernel does not let go of it (a hung driver), its memory is not free.
        """
        if self.exit_code is not None:
            return
        if grace_seconds > 0:
            self._signal(signal.SIGTERM)
            if self.wait(grace_seconds):
                return
        self._signal(signal.SIGKILL)
        if not self.wait(KILL_SECONDS):
            message = f"Process {self.pid} does not die, even when killed."
            raise Failed("runner_stuck", message, "Its driver hangs; the device needs a reset.", {"pid": self.pid})

    def listens_on(self, port: int) -> bool:
        """Does this process, or one it started, own the listening socket on `port`?"""
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                connections = process.net_connections("tcp")
                if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
                    return True
        return False

    def rss_bytes(self) -> int:
        """Resident memory of the process and all it started; 0 once it is gone."""
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def _family(self) -> list[psutil.Process]:
        if self.exit_code is not None:  # from here on the pid may belong to a stranger
            return []
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        return []

    def _signal(self, number: signal.Signals) -> None:
        with self._sweeping:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def _sweep(self) -> None:
        """Once, right after it was reaped: end what it left behind in its group, before the id can be used again."""
        with self._sweeping:
            if self._swept:
                return
            self._swept = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._drain.join(1.0)
        shutil.rmtree(self._cwd, ignore_errors=True)

    def _read(self) -> None:
        pipe: IO[bytes] | None = self._process.stdout
        if pipe is None:
            return
        with pipe:
            while data := os.read(pipe.fileno(), 64 * 1024):
                self._ring.feed(data)
        if self.log_file is not None:
            with contextlib.suppress(OSError):  # the log is for people; a full disk must not end the drain
                self.log_file.parent.mkdir(parents=True, exist_ok=True)
                self.log_file.write_text("\n".join(self._ring.tail()) + "\n", encoding="utf-8")
