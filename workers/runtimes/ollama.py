"""Models that Ollama holds: loaded, kept and let go of over its API.

Ollama has a process of its own, which may end a model, or itself, at any moment; who serves is seen from its lists.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from shared.errors import Failed, ModelyardError, Unavailable
from shared.settings import RunnerSettings, SourceSettings
from shared.states import Output
from workers.ollama.address import address
from workers.ollama.client import NOT_RUNNING, SILENT, Loaded, Ollama
from workers.ollama.errors import model_gone
from workers.runtimes.asking import check_vector, failed
from workers.runtimes.base import Memory, Request, Unprepared
from workers.runtimes.runner import READ_RATE

log = structlog.get_logger()

PREFIX = "ollama:"
"""Of what stands for a folder where Ollama holds the model: the rest is its name there."""
LOOK_SECONDS = 2.0
"""Between two looks at one that serves."""
GLANCE_SECONDS = 2.0
"""Longest wait for what Ollama answers at once."""
UNLOAD_SECONDS, AGAIN_SECONDS = 15.0, 5.0
"""Longest wait for a model to leave Ollama's memory, for good and to be loaded again."""
UNLOAD_LOOK_SECONDS = 0.1
KEPT = "ollama_keeps_model"
PROBE_TOKENS = 4
PROBE_SECONDS = 60.0


class Holds:
    """How many residencies each of Ollama's models has: it leaves memory with the last one. Safe for any thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, name: str) -> bool:
        """Was there one before?"""
        with self._lock:
            self._counts[name] += 1
            return self._counts[name] > 1

    def leave(self, name: str) -> bool:
        """Was it the last one?"""
        with self._lock:
            self._counts[name] -= 1
            return self._counts[name] <= 0


@dataclass
class OllamaRuntime(Unprepared):
    """Runs what Ollama has, on the devices that Ollama chooses."""

    settings: RunnerSettings
    sources: SourceSettings
    output: Output = Output.TEXT
    holds: Holds = field(default_factory=Holds)
    name: str = "ollama"
    keeps_weights: bool = False

    def version(self) -> str:
        """Of the Ollama that runs.

        Raises:
            Failed: `ollama_missing`, `ollama_too_old`, `protocol_error`.
            Unavailable: `ollama_not_running`, `ollama_silent`.
        """
        return self.glance().check()

    def accepts(self, folder: Path) -> bool:
        """Is it a name of Ollama's?"""
        return str(folder).startswith(PREFIX)

    def start(self, request: Request, spawn: Executor, log_dir: Path | None = None) -> "OllamaModel":
        """Nothing is asked of Ollama before the model is awaited."""
        return OllamaModel(self, str(request.folder).removeprefix(PREFIX), request.model_id)

    def end_stray(self, pid: int | None, mark: str, known_as: str | None) -> bool:
        """Let go of a model that a worker has left in Ollama's memory, where it would stay for ever; whether one was.

        Requests that Ollama works on end first.
        """
        if known_as is None:
            return False
        try:
            if self.glance().loaded(known_as) is None:
                return False
            self.release(known_as)
        except ModelyardError as error:  # where Ollama is down, so is what it held
            log.warning("ollama.stray_left", name=known_as, code=error.code)
            return False
        return True

    def release(self, name: str, seconds: float = UNLOAD_SECONDS) -> None:
        """Have Ollama let go of a model, and wait until it has.

        Raises:
            Failed: code `ollama_keeps_model`.
            ModelyardError: what else Ollama says, or that it is away.
        """
        ollama = self.glance()
        ollama.unload(name)
        until = time.monotonic() + seconds
        while ollama.loaded(name) is not None:
            if time.monotonic() >= until:
                raise Failed(
                    KEPT, f"Ollama still has {name} in memory: other clients use it.",
                    f"End them, then: ollama stop {name}.",
                )  # fmt: skip
            time.sleep(UNLOAD_LOOK_SECONDS)

    def glance(self) -> Ollama:
        """For questions that Ollama answers at once."""
        return Ollama(self.sources, _nothing, GLANCE_SECONDS)

    def probe(self, name: str) -> None:
        """Ask a model something tiny, over the paths that requests take. Raises: Failed: code `probe_failed`."""
        embeds = self.output is Output.VECTORS
        path, asked = (
            ("/v1/embeddings", {"input": "Hello"})
            if embeds
            else ("/v1/completions", {"prompt": "Hello", "max_tokens": PROBE_TOKENS, "temperature": 0})
        )
        answer = Ollama(self.sources, _nothing, PROBE_SECONDS).ask("POST", path, {"model": name, **asked})
        if embeds:
            check_vector(answer)
        elif not _has_text(answer):
            failed("no token came back", 200, json.dumps(answer).encode())


class OllamaModel:
    """A model in Ollama's memory. See `Server` for what each method does."""

    pid = None
    exit_code = None

    def __init__(self, runtime: OllamaRuntime, name: str, model_id: str) -> None:
        """
        Args:
            name: that Ollama knows it by.
        """
        self.known_as = name
        self._model_id = model_id
        self._runtime = runtime
        self._anew = runtime.holds.enter(name)
        self._ending = threading.Lock()
        self._stopped = False
        self._over = False
        self._seen: Loaded | None = None
        self._bytes = ""
        """Digest of the model that was loaded; another one may come under its name."""
        self._served_at: float | None = None
        self._looked_at = 0.0

    @property
    def url(self) -> str:
        return address(self._runtime.sources.ollama_host).url

    @property
    def context_length(self) -> int | None:
        """Ollama chooses it, not who has a model loaded."""
        return None if self._seen is None else self._seen.context_length

    def alive(self) -> bool:
        """Ollama lists it in memory, and still has the bytes that were loaded; as of a moment ago."""
        if not self._over and self._seen is not None and time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._look(self._seen.digest)
        return not self._over

    def hangs(self, seconds: float) -> bool:
        return self._served_at is not None and time.monotonic() - self._served_at > seconds

    def memory(self) -> Memory:
        """As Ollama tells it, once the model is ready."""
        seen = self._seen
        return Memory(0) if seen is None else Memory(seen.size - seen.on_gpu, seen.on_gpu)

    def log_tail(self, count: int) -> list[str]:
        """Ollama's log is its own."""
        return []

    def wait_ready(self, checkpoint: Callable[[], None]) -> None:
        """See `Server.wait_ready`.

        Raises:
            Conflict: code `model_gone`.
            Failed: `runner_start_timeout`, `ollama_not_kept`; see `Ollama.load`.
            Unavailable: Ollama is away.
        """
        try:
            self._load(checkpoint)
        except BaseException:
            with suppress(ModelyardError):
                self.stop(0)
            raise

    def probe(self) -> None:
        """Raises: Failed: code `probe_failed`."""
        self._runtime.probe(self.known_as)
        self._served_at = time.monotonic()

    def sleep(self) -> bool:
        return False

    def wake(self) -> None:
        """It never sleeps."""

    def stop(self, grace_seconds: float) -> None:
        """Have Ollama let go of it, unless it has another residency here; without a grace nobody waits for that.

        Raises:
            Failed: code `ollama_keeps_model`.
        """
        with self._ending:
            first, self._stopped, self._over = not self._stopped, True, True
        if not first or not self._runtime.holds.leave(self.known_as):
            return
        try:
            self._runtime.release(self.known_as, UNLOAD_SECONDS if grace_seconds else 0)
        except ModelyardError as error:
            if grace_seconds and error.code == KEPT:
                raise
            log.warning("ollama.not_released", name=self.known_as, code=error.code)

    def _load(self, checkpoint: Callable[[], None]) -> None:
        name = self.known_as
        ollama = Ollama(self._runtime.sources, checkpoint)
        ollama.check()
        here = ollama.find(name)
        if here is None:
            raise model_gone(name, self._model_id)
        if self._anew:  # it is in memory, and is to be loaded again; one that requests hold all the time is kept
            with suppress(Failed):
                self._runtime.release(name, AGAIN_SECONDS)
        limit = self._runtime.settings.max_startup_seconds + here.size / READ_RATE
        try:
            ollama.load(name, limit, embeds=self._runtime.output is Output.VECTORS)
        except Unavailable as error:
            if error.code == SILENT:
                raise _late(name, limit) from None
            raise
        found = ollama.loaded(name)
        if found is None:
            raise Failed(
                "ollama_not_kept", f"Ollama has loaded {name}, and does not have it in memory.",
                "See its log; a model that runs in Ollama's cloud is in nobody's memory here.",
            )  # fmt: skip
        self._looked_at = time.monotonic()
        self._bytes, self._seen = here.digest, found

    def _look(self, loaded: str) -> None:
        self._looked_at = time.monotonic()
        ollama = self._runtime.glance()
        try:
            here, found = ollama.find(self.known_as), ollama.loaded(self.known_as)
        except Unavailable as error:
            self._over = self._over or error.code == NOT_RUNNING  # else it is silent, which `hangs` tells
            return
        except ModelyardError:
            self._over = True
            return
        self._served_at = time.monotonic()
        kept = here is not None and here.digest == self._bytes and found is not None and found.digest == loaded
        self._over = self._over or not kept


def _late(name: str, limit: float) -> Failed:
    return Failed(
        "runner_start_timeout", f"Ollama had not loaded {name} within {limit:.0f} seconds.",
        "Raise MAX_STARTUP_TIME if its disk is slow; Ollama's log says how far it came.", {"seconds": limit},
    )  # fmt: skip


def _has_text(answer: dict[str, Any]) -> bool:
    choices, usage = answer.get("choices"), answer.get("usage")
    first = choices[0] if isinstance(choices, list) and choices else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return isinstance(first, dict) and isinstance(first.get("text"), str) and isinstance(count, int) and count >= 1


def _nothing() -> None:
    """A checkpoint at which nobody asks for anything."""
