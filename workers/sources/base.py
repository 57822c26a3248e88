"""What every source offers: the exact list of files of one revision. Bytes are brought by `transfer.py` alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from shared.errors import Failed
from shared.refs import Ref


@dataclass(frozen=True)
class RemoteFile:
    """One file as its source describes it.

    `sha256`, `md5` and `git_sha1` are lower-case hex, None where the source does not publish them.
    `locked` is the SHA-256 that a lock demands, whatever the source publishes; None where none does.
    `size` is in bytes, None where the server does not tell.
    `headers` go to the host of `url` only and are dropped on a redirect to another host.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    git_sha1: str | None = None
    locked: str | None = None
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Snapshot:
    """A revision: an immutable content id and its files, names already checked to stay inside a folder."""

    revision: str
    files: tuple[RemoteFile, ...]
    skipped: tuple[str, ...] = ()
    """Files left out on purpose (code, pickles), for people to see."""
    gated: bool = False
    """Only those get it who have accepted its publisher's terms."""

    @property
    def size(self) -> int | None:
        """Bytes in all, None while one file's size is unknown."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class Source(Protocol):
    """One place that models come from."""

    def resolve(self, ref: Ref, checksum: str | None = None) -> Snapshot:
        """Ask the source which files the reference names, pinned to an immutable revision.

        Args:
            checksum: `sha256:…` or `md5:…` that the user expects of a single file, if any.

        Raises:
            NotFound, Forbidden, Invalid, Unsafe: final.
            Unavailable: may be retried; carries `retry_after` where the server named one.
        """
        ...

    def knows(self, ref: Ref) -> bool:
        """Whether the revision that the reference names is part of the source's history."""
        ...


Checkpoint = Callable[[], None]
"""Called at least twice a second inside every loop over bytes; raises `Stop` when the job must end early."""

OnBytes = Callable[[int], None]
"""Told how many more bytes of the file are proven; never negative."""


def within(seconds: float, checkpoint: Checkpoint) -> Checkpoint:
    """The same, until so much time is over: a server that brings just enough not to be given up would keep its slot."""
    ends = time.monotonic() + seconds

    def look() -> None:
        checkpoint()
        if time.monotonic() > ends:
            raise Failed(
                "deadline_exceeded",
                f"The files did not come within {seconds:,.0f} seconds.",
                "What came is kept, a retry goes on from there. MODELYARD_SOURCES__DEADLINE is the limit.",
            )

    return look
