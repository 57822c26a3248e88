"""What every runtime offers: a server for a model, which is awaited, proved, watched and stopped in one way.

Most servers are runners, child processes of ours: starting, waiting, stopping and killing them is written once, in
`runner.py`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from shared.states import Output

if TYPE_CHECKING:
    from workers.runtimes.spare import Spare


@dataclass(frozen=True)
class Launch:
    """How to start one runner."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    """Added to the allow-listed environment; the runner's key goes here or in a file, never in `argv`."""


@dataclass(frozen=True)
class Request:
    """What a runner is started with."""

    folder: Path
    model_id: str
    host: str
    port: int
    key: str = field(repr=False)
    device: str
    """`cpu`, or the UUID of a GPU that the worker is pinned to."""
    context_length: int = 4096
    allow_pickle: bool = False
    """A person allowed this revision its pickles; they are read with `weights_only=True` even so."""
    allow_remote_code: bool = False
    """A person allowed this revision to bring code of its own."""
    keep_weights: bool = False
    """Its weights are to stay in host memory, so that it can sleep; for a runtime that has that."""
    gpu_layers: int | None = None
    """So many of its layers on the GPU; None: all. For llama-server."""
    precision: str | None = None
    """Of its numbers, `bfloat16` or `float16`; None: as in its files. For torch."""
    piece_by_piece: bool = False
    """Its weights are not read into host memory all at once; for torch and a GPU."""
    pooling: str = "mean"
    """How an embedding model makes one vector of those of its tokens: `mean`, `cls` or `last`."""
    mark: str = ""
    """Id of its residency, by which a later worker knows the process."""
    spare: "Spare | None" = field(default=None, repr=False, compare=False)
    """A runner that was started before and waits for its model; it has this mark and this key."""


class Launcher(Protocol):
    """What a runtime knows of its runners: their command line, and their own tiny inference."""

    def launch(self, request: Request) -> Launch:
        """The command for a runner.

        Raises:
            Failed: a program it needs is not installed; the hint names the ways out.
            Corrupt: files that it needs are missing.
            Unsafe: it would run code that came with the model, and `request` does not allow that.
        """
        ...

    def probe(self, base_url: str, key: str) -> None:
        """Run one tiny real inference and look at its answer.

        Raises:
            Failed: code `probe_failed`, with what came back.
        """
        ...


class Memory(NamedTuple):
    """Bytes that a model takes."""

    host: int
    device: int | None = None
    """Of a GPU; None where its server does not know."""

    def offloaded(self, device_kind: str) -> int | None:
        """What lies on the host though the device is a GPU; None where there is none, or nobody knows."""
        return self.host if device_kind == "gpu" and self.device is not None else None


class Server(Protocol):
    """A model in memory, or on its way there, that answers over HTTP.

    `wait_ready`, `probe` and `stop` may be called from different threads; a stop ends a wait.
    """

    @property
    def url(self) -> str:
        """Where requests go, under the name that other machines know."""
        ...

    @property
    def pid(self) -> int | None:
        """None where no process of ours holds it."""
        ...

    @property
    def known_as(self) -> str | None:
        """What requests have to call the model; None for a runner, which knows it by its id and wants its key."""
        ...

    @property
    def context_length(self) -> int | None:
        """Tokens of context that it serves with, once it is ready; None where it does not tell."""
        ...

    @property
    def exit_code(self) -> int | None:
        """Of a child that has ended; negative for the signal that ended it."""
        ...

    def alive(self) -> bool:
        """Does it hold the model, as far as is known?"""
        ...

    def hangs(self, seconds: float) -> bool:
        """Has it served, and then given no sign of life for this long?"""
        ...

    def memory(self) -> Memory:
        """What the model takes now."""
        ...

    def log_tail(self, count: int) -> list[str]:
        """Its last lines, where it has any; no key is in them."""
        ...

    def wait_ready(self, checkpoint: Callable[[], None]) -> None:
        """Return once the model is loaded. Whatever is raised, it is stopped first.

        Args:
            checkpoint: called at every look; what it raises passes through.

        Raises:
            Failed: it ended, or took too long.
        """
        ...

    def probe(self) -> None:
        """Run one tiny real inference.

        Raises:
            Failed: code `probe_failed`, with what came back.
        """
        ...

    def sleep(self) -> bool:
        """Hold nothing but the weights in host memory, and answer nothing until `wake`. False: it cannot, or has a
        request under way; it is as it was."""
        ...

    def wake(self) -> None:
        """Have the model on its device again; `probe` is the proof.

        Raises:
            Failed: code `wake_failed`.
        """
        ...

    def stop(self, grace_seconds: float) -> None:
        """Take the model out of memory. Again, or on one that is gone: does nothing.

        Raises:
            Failed: it does not leave.
        """
        ...


class Unprepared:
    """A runtime for whose models nothing can be done before they are loaded."""

    def mapped(self, folder: Path) -> Sequence[Path]:
        """See `Runtime`."""
        return ()

    def spare(self, key: str) -> Launch | None:
        """See `Runtime`."""
        return None


class Runtime(Protocol):
    """One way to run models."""

    name: str
    output: Output
    """What its servers make of a text."""
    keeps_weights: bool
    """Its servers can sleep."""

    def version(self) -> str:
        """Of what it runs models with.

        Raises:
            ModelyardError: it is not there, or of no use; the hint names the ways out.
        """
        ...

    def accepts(self, folder: Path) -> bool:
        """Can it run what lies in this folder? Reads names and headers only."""
        ...

    def mapped(self, folder: Path) -> Sequence[Path]:
        """The files that its servers map, and so read through the page cache; in that order."""
        ...

    def start(self, request: Request, spawn: Executor, log_dir: Path | None = None) -> Server:
        """Start a server and return at once, before the model is loaded.

        Args:
            request: what to load, where to listen; port 0 takes a free one.
            spawn: one thread that lives as long as this process, kept by the caller: a child dies with that thread.
            log_dir: gets `<model id>.log`, a child's last lines, when it ends.

        Raises:
            ModelyardError: it cannot be started; nothing of it is left.
        """
        ...

    def spare(self, key: str) -> Launch | None:
        """The command of a server that waits to be told its model; None where there is none.

        Args:
            key: that the server will want of requests.
        """
        ...

    def end_stray(self, pid: int | None, mark: str, known_as: str | None) -> bool:
        """End a server of a worker that is gone; whether there was one.

        Args:
            pid, known_as: as the server had them.
            mark: as its request had it.
        """
        ...
