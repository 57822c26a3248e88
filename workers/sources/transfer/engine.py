"""`fetch` brings one file's bytes, proven, and never brings again what is proven on disk."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Corrupt
from shared.settings import SourceSettings
from workers.disk import storage
from workers.sources.base import Checkpoint, OnBytes, RemoteFile
from workers.sources.pinned import lock_mismatch
from workers.sources.transfer.board import CHUNK_BYTES
from workers.sources.transfer.carrier import Patience, Restart, Terms, Why, size_mismatch
from workers.sources.transfer.crew import TICK_SECONDS, Crew
from workers.sources.transfer.journal import Origin, Partial, Proof, journal_path
from workers.sources.transfer.proof import standing_digests
from workers.sources.transfer.throttle import Throttle
from workers.sources.wire.lines import Lines
from workers.sources.wire.policy import HostPolicy
from workers.sources.wire.route import Route

ALGORITHMS = ("sha256", "md5", "git_sha1")
PATIENCE = Patience()


@dataclass(frozen=True)
class Fetched:
    """A file that is complete on disk and matches every digest its source names.

    `size` and `refetched` are bytes; digests are lower-case hex; `chunks` are BLAKE3 of every 16 MiB, in order.
    `md5` is None unless the source named one. `refetched` counts bytes that had to be brought a second time.
    `unverified`: no length and no digest was known, so a cut-off file would look the same.
    """

    size: int
    sha256: str
    md5: str | None
    chunks: tuple[str, ...]
    etag: str | None
    refetched: int
    unverified: bool = False


def fetch(
    file: RemoteFile,
    partial: Path,
    policy: HostPolicy,
    settings: SourceSettings,
    checkpoint: Checkpoint,
    on_bytes: OnBytes,
    *,
    patience: Patience = PATIENCE,
    lines: Lines | None = None,
    throttle: Throttle | None = None,
) -> Fetched:
    """Bring a file to `partial`, going on from whatever an earlier attempt proved there.

    A `file` with `git_sha1` needs its `size`. The journal beside it (`journal_path`) stays until the caller publishes
    or drops the file. `checkpoint` and `on_bytes` are called on this thread only; no thread outlives the call, and no
    connection but those that are left in `lines`.

    Args:
        lines: connections that the files of one job share, None where there is one file.
        throttle: keeps the files of one job to a rate together; None: as fast as it goes.

    Raises:
        Stop: from `checkpoint`; what was brought is kept.
        Corrupt: `size_mismatch`, `checksum_mismatch`, `lock_mismatch` (both files are deleted), `staging_invalid`.
        Forbidden: `source_not_allowed`, `auth_required`, `license_required`, `tls_error`.
        NotFound: `source_not_found`.
        Exhausted: `insufficient_space`.
        Failed: `protocol_error`, `too_many_redirects`, `source_refused`, `storage_error`.
        Unavailable: anything that may pass; what was brought is kept.
    """
    with storage():
        standing = _standing(file, partial, checkpoint)
    if standing is not None:
        on_bytes(standing.size)
        return standing
    run = _Run(file, policy, settings, checkpoint, on_bytes, patience, throttle or Throttle(), lines)
    with Partial(partial) as store:
        while True:
            crew = run.bring(store)
            try:
                return _compared(file, crew, run.dropped)
            except Corrupt:
                if not run.went_on:
                    store.drop()
                    raise
            run.start_again(store, crew)


def adopt(file: RemoteFile, partial: Path, chunks: Sequence[str], etag: str | None = None) -> None:
    """Tell the next `fetch` what a private copy at `partial` should hold, so that it brings only what differs.

    Args:
        chunks: BLAKE3 (hex) of every 16 MiB, as an earlier `Fetched` or a manifest has them.
        etag: what the server called the file then, None where unknown.

    Raises:
        Corrupt, Exhausted, Failed, Unavailable: as `fetch`, from the disk.
    """
    with storage():
        size = partial.stat().st_size
    proofs = [
        Proof(start, min(CHUNK_BYTES, size - start), digest)
        for start, digest in zip(range(0, size, CHUNK_BYTES), chunks, strict=False)
    ]
    with Partial(partial) as store:
        store.forget()
        store.begin(Origin(_identity(file), size, etag))
        store.sync()
        store.claim(*proofs)


def _standing(file: RemoteFile, partial: Path, checkpoint: Checkpoint) -> Fetched | None:
    """A whole file that somebody linked or copied here, if it is what the source names.

    It may be another name of a published file, so it is only read; where it is not right, the name is removed.
    """
    if partial.is_symlink() or not partial.is_file():
        return None
    if journal_path(partial).exists():
        if partial.stat().st_nlink == 1:
            return None
        journal_path(partial).unlink()  # another name of a published file has taken the place that it tells of
    wanted = {name: value for name in ALGORITHMS if (value := getattr(file, name)) is not None}
    if file.locked is not None:
        wanted["sha256"] = file.locked
    if wanted and file.size is not None and partial.stat().st_size == file.size:
        found = standing_digests(file, partial, checkpoint)
        if all(getattr(found, name) == value for name, value in wanted.items()):
            return Fetched(file.size, found.sha256, found.md5, tuple(found.chunks), None, 0)
    partial.unlink()
    return None


class _Run:
    """Attempts at one file, the first of them a resume where that is possible."""

    def __init__(
        self,
        file: RemoteFile,
        policy: HostPolicy,
        settings: SourceSettings,
        checkpoint: Checkpoint,
        on_bytes: OnBytes,
        patience: Patience,
        throttle: Throttle,
        lines: Lines | None,
    ) -> None:
        self._file = file
        self._settings = settings
        self._checkpoint = checkpoint
        self._on_bytes = on_bytes
        self._patience = patience
        self._throttle = throttle
        self._lines = lines
        self._route = Route(file.url, file.headers, policy, settings)
        self._identity = _identity(file)
        self._ranged = True
        self._changes = 0
        self._breaks = 0
        self._farthest = 0
        self._reported = 0
        self.dropped = 0
        """Proven bytes that had to be brought again."""
        self.went_on = False
        """Whether the crew that finished had bytes of an earlier attempt, which may be of another content."""

    def bring(self, store: Partial) -> Crew:
        """The crew that finished."""
        origin, claims = self._resume_point(store)
        while True:
            terms = Terms(self._file, self._identity, origin, self._ranged)
            crew = Crew(
                self._file, store, self._route, terms, self._settings, self._patience, self._throttle, self._lines
            )
            try:
                crew.run(claims, self._checkpoint, self._report)
            except Restart as restart:
                self._judge(restart, crew.board.received)
                # claims count also where the restart came before they were read again
                self.dropped += max(crew.scribe.proven, sum(claim.length for claim in claims))
            except Corrupt:
                store.drop()
                raise
            else:
                self.dropped += crew.wrong
                self.went_on = bool(claims)
                return crew
            store.reset()
            origin, claims = None, []

    def start_again(self, store: Partial, crew: Crew) -> None:
        """What this crew finished is wrong: let the next one have none of it."""
        self.dropped += crew.board.size or 0
        store.reset()

    def _resume_point(self, store: Partial) -> tuple[Origin | None, list[Proof]]:
        origin, claims = store.load()
        file = self._file
        digested = any(value is not None for value in (file.sha256, file.md5, file.git_sha1, file.locked))
        if (
            origin is not None
            and origin.identity == self._identity
            and origin.size is not None
            and file.size in (None, origin.size)
            and (digested or origin.etag is not None or origin.modified is not None)
        ):
            return origin, claims
        store.reset()
        return None, []

    def _judge(self, restart: Restart, received: int) -> None:
        """Whether to start again; raises the restart's error where that would not help."""
        if restart.why is Why.CHANGED:
            self._changes += 1
            if self._changes > 1:
                raise restart.error from restart
            return
        if restart.why is Why.RANGES and not self._ranged:
            raise restart.error from restart
        self._ranged = False
        if restart.why is Why.BROKEN:
            self._breaks = 0 if received > self._farthest else self._breaks + 1
            self._farthest = max(self._farthest, received)
            if self._breaks >= self._patience.tries:
                raise restart.error from restart
            self._wait(self._patience.backoff * 2**self._breaks)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._checkpoint()
            time.sleep(min(left, TICK_SECONDS))

    def _report(self, proven: int) -> None:
        if proven > self._reported:
            self._on_bytes(proven - self._reported)
            self._reported = proven


def _compared(file: RemoteFile, crew: Crew, refetched: int) -> Fetched:
    """What was brought, if it is what the source says.

    Raises:
        Corrupt: code `size_mismatch`, or `checksum_mismatch` with details `{algorithm, want, got}`; `lock_mismatch`.
    """
    size = crew.board.size or 0
    if file.size not in (None, size):
        raise size_mismatch(file, size)
    digested = False
    for algorithm in ALGORITHMS:
        want, got = getattr(file, algorithm), getattr(crew.digests, algorithm)
        if want is not None and want != got:
            raise Corrupt(
                "checksum_mismatch",
                f"{file.name} does not have the {algorithm} that its source names.",
                "The bytes were deleted. Retry; if it happens again, the source or a proxy on the way is broken.",
                {"algorithm": algorithm, "want": want, "got": got},
            )
        digested = digested or want is not None
    if file.locked not in (None, crew.digests.sha256):
        raise lock_mismatch(file.name, "sha256", file.locked, crew.digests.sha256)
    origin = crew.terms.origin
    return Fetched(
        size=size,
        sha256=crew.digests.sha256,
        md5=crew.digests.md5,
        chunks=tuple(crew.digests.chunks),
        etag=origin.etag if origin is not None else None,
        refetched=refetched,
        unverified=crew.unverified and not digested and file.locked is None,
    )


def _identity(file: RemoteFile) -> str:
    """Stands for what was asked for: bytes of another address or digest are never continued."""
    parts = [file.url, file.sha256, file.md5, file.git_sha1]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
