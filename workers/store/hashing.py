"""Reading published files again and hashing them: chunks on a few threads, files whole where a source named digests."""

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from shared.errors import Failed
from workers.store.layout import Layout
from workers.store.manifest import CHUNK_BYTES, ManifestFile
from workers.store.pace import FULL_SPEED, Pace, forget_cached

Checkpoint = Callable[[], None]
"""Called at least twice a second; raises `Stop` when the job must end early."""
OnBytes = Callable[[int], None]
"""Told how many more bytes were checked."""
Ranges = list[tuple[int, int]]
Promised = Mapping[str, Mapping[str, str]]
"""By name of the file: what its source says, algorithm (`sha256`, `md5`, `git_sha1`) → lower-case hex."""

BUFFER_BYTES = 1024**2
CHECK_SECONDS = 0.25
_JOIN_SECONDS = 5.0


class _Chunk(NamedTuple):
    """Bytes [start, end) of a file, and their BLAKE3."""

    start: int
    end: int
    digest: str


class _Task(NamedTuple):
    """What one thread hashes in one go: one chunk, or all of a file where `promised` digests are compared."""

    file: ManifestFile
    chunks: tuple[_Chunk, ...]
    promised: Mapping[str, str]

    @property
    def verdicts(self) -> int:
        return len(self.chunks) + bool(self.promised)


class _Seen(NamedTuple):
    """What a thread tells: bytes read, or a verdict on bytes [start, end)."""

    name: str
    start: int
    end: int
    read: int = 0
    right: bool | None = None


@dataclass
class Hashing:
    """Hashes files against the manifest; the calling thread counts, and stops the others.

    Args:
        lengths: bytes that each file has on disk.
        promised: digests to compare beside the manifest's; an empty mapping compares chunks only.
    """

    folder: Path
    files: list[ManifestFile]
    lengths: Mapping[str, int]
    promised: Promised = field(default_factory=dict)
    pace: Pace = FULL_SPEED
    _tasks: "queue.SimpleQueue[_Task]" = field(default_factory=queue.SimpleQueue)
    _results: "queue.SimpleQueue[_Seen]" = field(default_factory=queue.SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, checkpoint: Checkpoint, on_bytes: OnBytes) -> tuple[dict[str, Ranges], int]:
        """Bad ranges by name, for every file, in the order in which they were found; and the bytes read."""
        bad: dict[str, Ranges] = {file.name: [] for file in self.files}
        checked = waiting = 0
        for task in self._all():
            self._tasks.put(task)
            waiting += task.verdicts
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.pace.threads)]
        try:
            for thread in threads:
                thread.start()
            while waiting:
                checkpoint()
                try:
                    seen = self._results.get(timeout=CHECK_SECONDS)
                except queue.Empty:
                    if not any(thread.is_alive() for thread in threads) and self._results.empty():
                        raise RuntimeError("the hashing threads died") from None
                    continue
                checked += seen.read
                on_bytes(seen.read)
                waiting -= seen.right is not None
                if seen.right is False:
                    bad[seen.name].append((seen.start, seen.end))
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(_JOIN_SECONDS)  # a read that hangs on a dead disk must not hold the job
        return bad, checked

    def _all(self) -> Iterator[_Task]:
        for file in self.files:
            held = min(file.size, self.lengths[file.name])
            chunks = tuple(
                _Chunk(start, min(start + CHUNK_BYTES, file.size), digest)
                for start, digest in zip(range(0, held, CHUNK_BYTES), file.chunks, strict=False)
            )
            promised = self.promised.get(file.name, {}) if held == file.size else {}
            if promised:
                yield _Task(file, chunks, promised)
            else:
                yield from (_Task(file, (chunk,), {}) for chunk in chunks)

    def _work(self) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        with self.pace.applied() as pause:
            while not self._stop.is_set():
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    return
                self._prove(task, buffer, pause)

    def _prove(self, task: _Task, buffer: memoryview, pause: Callable[[int], float]) -> None:
        whole = {algorithm: _hasher(algorithm, task.file.size) for algorithm in task.promised}
        right = True
        for chunk in task.chunks:
            try:
                found = self._digest(task.file.name, chunk, buffer, list(whole.values()), pause)
            except OSError:
                found = None  # an unreadable sector is a damaged one
            if self._stop.is_set():
                return
            right = right and found == chunk.digest
            self._results.put(_Seen(task.file.name, chunk.start, chunk.end, right=found == chunk.digest))
        if whole:
            # Where chunks differ, their ranges say more than that the whole does.
            kept = not right or all(whole[name].hexdigest() == want for name, want in task.promised.items())
            self._results.put(_Seen(task.file.name, 0, task.file.size, right=kept))

    def _digest(
        self, name: str, chunk: _Chunk, buffer: memoryview, whole: list[Any], pause: Callable[[int], float]
    ) -> str | None:
        digest, position = blake3(), chunk.start
        handle = os.open(Layout.inside(self.folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if self.pace.idle:
                forget_cached(handle, chunk.start, chunk.end)  # the disk is asked, not the memory
            while position < chunk.end and not self._stop.is_set():
                count = os.preadv(handle, [buffer[: chunk.end - position]], position)
                if not count:
                    break
                for hasher in (digest, *whole):
                    hasher.update(buffer[:count])
                position += count
                self._results.put(_Seen(name, chunk.start, chunk.end, count))
                self._stop.wait(pause(count))
            if self.pace.idle:
                forget_cached(handle, chunk.start, chunk.end)
        finally:
            os.close(handle)
        return digest.hexdigest()


class Digests:
    """SHA-256 of a whole file and BLAKE3 of its chunks, fed in its order."""

    def __init__(self) -> None:
        self._whole, self._chunk = hashlib.sha256(), blake3()
        self._filled = 0
        self._chunks: list[str] = []
        self.size = 0
        """Bytes fed so far."""

    def feed(self, view: memoryview) -> None:
        """The next bytes."""
        self._whole.update(view)
        self.size += len(view)
        while view:
            part = view[: CHUNK_BYTES - self._filled]
            self._chunk.update(part)
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == CHUNK_BYTES:
                self._end_chunk()

    def of(self, name: str) -> ManifestFile:
        """The file as a manifest has it; feed nothing more."""
        if self._filled:
            self._end_chunk()
        return ManifestFile(name, self.size, self._whole.hexdigest(), tuple(self._chunks), None, source_checksum=False)

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.hexdigest())
        self._chunk, self._filled = blake3(), 0


def _hasher(algorithm: str, size: int) -> Any:
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if algorithm == "git_sha1":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    raise Failed("unknown_digest", f"The source names a digest {algorithm!r}, which cannot be checked.", "")
