"""A runner: a child process that holds one model and answers HTTP. Started, awaited, probed and stopped here, once for
every runtime that has such."""

import contextlib
import glob
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Self

import httpx

from shared.errors import Failed
from shared.settings import RunnerSettings
from workers.runtimes.addresses import base_url, free_port, reached_as
from workers.runtimes.base import Launcher, Memory, Request, Unprepared
from workers.runtimes.child import Child, end_stray, signal_name
from workers.runtimes.log_ring import LogRing
from workers.runtimes.spare import surroundings

READ_RATE = 50_000_000
"""Bytes per second that the slowest disk worth supporting delivers; sets how long a large model may take to load."""
MAX_PORTS = 5
FIRST_LOOK_SECONDS = 0.02
"""Between the first looks at one that starts."""
LOOK_SECONDS = 5.0
"""Between two looks at one that serves."""
MOVE_SECONDS = 60.0
"""Longest wait for weights to be copied between host and device."""
LOG_LINES = 20
HTTP_TIMEOUT = httpx.Timeout(2.0)
OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|failed to allocate|unable to allocate|bad_alloc|MemoryError", re.IGNORECASE
)


class Runner:
    """One running child of a runtime. `start` it, `wait_ready`, `probe`, and `stop` it.

    `wait_ready`, `probe` and `stop` may be called from different threads; a stop ends a wait.
    """

    def __init__(
        self, runtime: Launcher, request: Request, spawn: Executor, settings: RunnerSettings, log_dir: Path | None
    ) -> None:
        self._runtime = runtime
        self._asked = request
        self._spawn = spawn
        self._settings = settings
        self._log_file = (
            None if log_dir is None else log_dir / f"{re.sub(r'[^A-Za-z0-9._-]', '_', request.model_id)}.log"
        )
        self._launching = threading.Lock()
        self._stopped = False
        self._served_at: float | None = None
        self._ports = 0
        self._http = httpx.Client(
            trust_env=False, timeout=HTTP_TIMEOUT, headers={"Authorization": f"Bearer {request.key}"}
        )
        self._launch()

    @classmethod
    def start(
        cls,
        runtime: Launcher,
        request: Request,
        spawn: Executor,
        settings: RunnerSettings,
        log_dir: Path | None = None,
    ) -> Self:
        """Start the child and return at once, before the model is loaded.

        Args:
            runtime: knows the command.
            request: what to load, where to listen; port 0 takes a free one.
            spawn: one thread that lives as long as this process, kept by the caller: the child dies with that thread.
            settings: hosts, times.
            log_dir: gets `<model id>.log`, the child's last lines, when it ends.

        Raises:
            Failed, Unsafe, Corrupt: as the runtime's `launch`; code `runner_not_started` where there is no process.
        """
        return cls(runtime, request, spawn, settings, log_dir)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def port(self) -> int:
        return self._request.port

    @property
    def url(self) -> str:
        """Where requests go, under the name that other machines know."""
        return base_url(self._settings.advertise_host or reached_as(self._request.host), self.port)

    @property
    def known_as(self) -> None:
        """It knows its model by the id, and wants its key."""

    @property
    def context_length(self) -> int:
        """As was asked for."""
        return self._asked.context_length

    @property
    def exit_code(self) -> int | None:
        """None while the child runs; negative for the signal that ended it."""
        return self._child.exit_code

    def alive(self) -> bool:
        return self._child.exit_code is None

    def memory(self) -> Memory:
        """Resident host memory of the child and what it started; a GPU's is seen from outside."""
        return Memory(self._child.rss_bytes())

    def log_tail(self, count: int = LOG_LINES) -> list[str]:
        """The last lines that the child wrote, without its key."""
        return self._ring.tail(count)

    def wait_ready(self, checkpoint: Callable[[], None], deadline_seconds: float | None = None) -> None:
        """Return once the child serves its model. Whatever is raised, the child is stopped first.

        Args:
            checkpoint: called at every look; what it raises passes through.
            deadline_seconds: longest wait; `startup_seconds` of the folder where None.

        Raises:
            Failed: code `runner_exited` (details: exit_code, log, out_of_memory), `runner_start_timeout`
                (details: seconds, log), or `runner_port_taken`.
        """
        limit = startup_seconds(self._asked.folder, self._settings) if deadline_seconds is None else deadline_seconds
        began, longest = time.monotonic(), self._settings.readiness_interval
        try:
            while not self._ready():
                checkpoint()
                if (waited := time.monotonic() - began) >= limit:
                    raise self._late(limit)
                self._child.wait(min(longest, FIRST_LOOK_SECONDS + waited / 10))  # a quick one is not kept waiting
        except BaseException:
            self.stop(0)
            raise

    def healthy(self) -> bool:
        """Does it say that its model is loaded? A quick look; `probe` is the proof."""
        try:
            with self._http.stream("GET", f"{self._local}/health") as answer:
                serves = answer.status_code == httpx.codes.OK
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed by a stop meanwhile
            return False
        if serves:
            self._served_at = time.monotonic()
        return serves

    def hangs(self, seconds: float) -> bool:
        """Has it served, and then not once said so for this long? It is asked, where its last word is a while ago."""
        served = self._served_at
        if served is None or time.monotonic() - served < min(seconds, LOOK_SECONDS) or self.healthy():
            return False
        return time.monotonic() - served > seconds

    def probe(self) -> None:
        """Run one tiny real inference.

        Raises:
            Failed: code `probe_failed`, with what came back.
        """
        self._runtime.probe(self._local, self._asked.key)

    def sleep(self) -> bool:
        """Keep nothing but the weights in host memory, until `wake`. False: it cannot, or has a request under way."""
        return self._told("/sleep")

    def wake(self) -> None:
        """Have the model on its device again.

        Raises:
            Failed: code `wake_failed`.
        """
        if not self._told("/wake"):
            message = f"The runner of {self._asked.model_id} could not take its model back out of host memory."
            raise Failed("wake_failed", message, "It is started anew.", {"log": self.log_tail()})

    def stop(self, grace_seconds: float) -> None:
        """End the child: SIGTERM to its group, SIGKILL after the grace. Again, or on a dead one: does nothing.

        Raises:
            Failed: code `runner_stuck`; it cannot be killed.
        """
        with self._launching:  # or a child started meanwhile on another port would be missed
            self._stopped = True
        self._http.close()
        self._child.stop(grace_seconds)

    def _told(self, path: str) -> bool:
        """Has it done so?"""
        try:
            with self._http.stream("POST", self._local + path, timeout=MOVE_SECONDS) as answer:
                return answer.status_code == httpx.codes.OK
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed by a stop meanwhile
            return False

    @property
    def _local(self) -> str:
        return base_url(reached_as(self._request.host), self.port)

    def _launch(self) -> None:
        self._ports += 1
        self._request = replace(self._asked, port=self._asked.port or free_port(self._asked.host))
        launch, spare = self._runtime.launch(self._request), self._asked.spare
        about = (launch, self._asked.mark, self._request.device)
        if spare is not None and self._ports == 1 and spare.become(*about, self._log_file):
            self._ring, self._child = spare.ring, spare.child
            return
        env = surroundings(*about)
        self._ring = LogRing(self._asked.key)
        self._child = Child(launch.argv, env, self._spawn, self._ring, self._log_file)

    def _ready(self) -> bool:
        """One look. The key is only ever sent to a socket that our child owns."""
        if self._child.exit_code is not None:
            if self._stopped or not self._answered():
                raise self._exited()
            self._move()
            return False
        if self._child.listens_on(self.port):
            return self.healthy()
        if self._answered() and not self._child.listens_on(self.port) and not self._stopped:
            self._move()
        return False

    def _answered(self) -> bool:
        """Does anybody listen on the port?"""
        host = reached_as(self._request.host)
        with contextlib.suppress(OSError), socket.create_connection((host, self.port), timeout=1):
            return True
        return False

    def _move(self) -> None:
        """A stranger has the port: try another one."""
        self._child.stop(0)
        if self._asked.port or self._ports >= MAX_PORTS:
            message = f"Port {self.port}, meant for the runner of {self._asked.model_id}, belongs to another process."
            raise Failed("runner_port_taken", message, "Free that port, or let runners take any.", {"port": self.port})
        with self._launching:
            if not self._stopped:
                self._launch()

    def _exited(self) -> Failed:
        code = self._child.exit_code or 0
        lines = self.log_tail()
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"exited with code {code}"
        memory = any(OUT_OF_MEMORY.search(line) for line in lines)
        return Failed(
            "runner_exited",
            f"The runner of {self._asked.model_id} {how} while it was starting.",
            "It ran out of memory: unload another model or lower the context length."
            if memory
            else "Its last lines say why; verify the model's files, and that this runtime knows its architecture.",
            {"exit_code": code, "log": lines, "out_of_memory": memory},
        )

    def _late(self, limit: float) -> Failed:
        return Failed(
            "runner_start_timeout",
            f"The runner of {self._asked.model_id} was not ready within {limit:.0f} seconds.",
            "Raise MAX_STARTUP_TIME if its disk is slow; its last lines say how far it came.",
            {"seconds": limit, "log": self.log_tail()},
        )


class Launched(Unprepared, Launcher):
    """What all runtimes have in common whose servers are runners."""

    _settings: RunnerSettings

    def start(self, request: Request, spawn: Executor, log_dir: Path | None = None) -> Runner:
        """Raises: Failed, Unsafe, Corrupt: see `Runner.start`."""
        return Runner.start(self, request, spawn, self._settings, log_dir)

    def end_stray(self, pid: int | None, mark: str, known_as: str | None) -> bool:
        """Kill a child that its worker has left behind; whether there was one."""
        return pid is not None and known_as is None and end_stray(pid, mark)


def startup_seconds(folder: Path, settings: RunnerSettings) -> float:
    """How long a model of this size may take to load: the setting, and the time a slow disk needs for its bytes."""
    parts = glob.escape(folder.name).replace("-00001-of-", "-?????-of-")  # where it is one file in parts
    files = folder.rglob("*") if folder.is_dir() else folder.parent.glob(parts)
    size = sum(file.stat().st_size for file in files if file.is_file())
    return settings.max_startup_seconds + size / READ_RATE
