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
from workers.buffers import buffer
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


class _Seen(NamedTuple):
    """What a thread tells: bytes read, bytes [start, end) that are wrong, or that it has come to the end of a task."""

    name: str
    read: int = 0
    wrong: tuple[int, int] | None = None
    last: bool = False


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
            waiting += 1
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
                waiting -= seen.last
                if seen.wrong is not None:
                    bad[seen.name].append(seen.wrong)
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
        view = buffer(BUFFER_BYTES)
        with self.pace.applied() as pause:
            while not self._stop.is_set():
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    return
                for wrong in self._wrong(task, _Reader(self, task.file.name, view, pause)):
                    self._results.put(_Seen(task.file.name, wrong=wrong))
                if not self._stop.is_set():
                    self._results.put(_Seen(task.file.name, last=True))

    def _wrong(self, task: _Task, reader: "_Reader") -> Iterator[tuple[int, int]]:
        """Ranges that are not what they must be.

        A file whose source names its SHA-256 is hashed for that alone; only where it differs, again for its chunks.
        """
        whole = {algorithm: _hasher(algorithm, task.file.size) for algorithm in task.promised}
        strong = "sha256" in whole
        if strong and reader.feed(0, task.file.size, list(whole.values())) and _kept(whole, task.promised):
            return
        right = True
        for chunk in task.chunks:
            digest = blake3()
            read = reader.feed(chunk.start, chunk.end, [digest] if strong else [digest, *whole.values()])
            if self._stop.is_set():
                return
            if not read or digest.hexdigest() != chunk.digest:
                right = False
                yield chunk.start, chunk.end
        # Where chunks differ, their ranges say more than that the whole does.
        if right and not _kept(whole, task.promised):
            yield 0, task.file.size

    def read(self, name: str, count: int) -> None:
        """A thread has read so many bytes of a file for the first time."""
        self._results.put(_Seen(name, read=count))

    @property
    def stop(self) -> threading.Event:
        return self._stop


class _Reader:
    """One thread reads one file. What it reads a second time is not counted again."""

    def __init__(self, hashing: Hashing, name: str, buffer: memoryview, pause: Callable[[int], float]) -> None:
        self._hashing = hashing
        self._name = name
        self._buffer = buffer
        self._pause = pause
        self._counted = 0

    def feed(self, start: int, end: int, hashers: list[Any]) -> bool:
        """Hash bytes [start, end); whether all of them could be read."""
        try:
            return self._fed(start, end, hashers)
        except OSError:  # an unreadable sector is a damaged one
            return False

    def _fed(self, position: int, end: int, hashers: list[Any]) -> bool:
        start, hashing = position, self._hashing
        handle = os.open(Layout.inside(hashing.folder, self._name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if hashing.pace.idle:
                forget_cached(handle, start, end)  # the disk is asked, not the memory
            while position < end and not hashing.stop.is_set():
                count = os.preadv(handle, [self._buffer[: end - position]], position)
                if not count:
                    break
                for hasher in hashers:
                    hasher.update(self._buffer[:count])
                position += count
                if position > self._counted:
                    hashing.read(self._name, position - max(self._counted, position - count))
                    self._counted = position
                hashing.stop.wait(self._pause(count))
            if hashing.pace.idle:
                forget_cached(handle, start, end)
        finally:
            os.close(handle)
        return position == end


def _kept(whole: Mapping[str, Any], promised: Mapping[str, str]) -> bool:
    return all(whole[name].hexdigest() == want for name, want in promised.items())


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
