"""What every runtime offers: how to start a runner for a model folder, and how to ask it to prove itself.

A runner is a child process with an HTTP server. Starting, waiting, stopping and killing are written once, in
`runner.py`; a runtime only knows its own command line and its own tiny inference.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shared.states import Output


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
    pooling: str = "mean"
    """How an embedding model makes one vector of those of its tokens: `mean`, `cls` or `last`."""
    mark: str = ""
    """Id of its residency, by which a later worker knows the process."""


class Runtime(Protocol):
    """One way to run models."""

    name: str
    output: Output
    """What its runners make of a text."""

    def version(self) -> str:
        """Of what it runs models with.

        Raises:
            Failed: it is not installed here; the hint names the ways out.
        """
        ...

    def accepts(self, folder: Path) -> bool:
        """Can it run what lies in this folder? Reads names and headers only."""
        ...

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
