"""Proving published bytes: first what a look at the folder tells, then every chunk, then the formats."""

import hashlib
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from workers.store.essentials import Problem, check_essentials
from workers.store.layout import SEAL, Layout, storage
from workers.store.manifest import CHUNK_BYTES, Manifest, ManifestFile

Checkpoint = Callable[[], None]
"""Called at least twice a second; raises `Stop` when the job must end early."""
OnBytes = Callable[[int], None]
"""Told how many more bytes were checked."""

THREADS = 2
BUFFER_BYTES = 1024**2
CHECK_SECONDS = 0.25
MAX_LISTED = 1000
"""Findings of one sort that are kept; a folder that is that broken needs no longer list."""
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class CorruptFile:
    """`ranges` are bytes [start, end) that are not what they must be, or not there, or too many."""

    name: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Report:
    """What a verify found.

    `score` 0 to 1: bytes that are proven, of the bytes that should be; `extra` are files that the manifest does not
    know; `checked_bytes` were read and hashed (0 where only names and sizes were compared).
    """

    missing: tuple[str, ...]
    corrupted: tuple[CorruptFile, ...]
    extra: tuple[str, ...]
    problems: tuple[Problem, ...]
    score: float
    checked_bytes: int

    @property
    def ok(self) -> bool:
        """Exactly the files of the manifest are there, whole, and make a model."""
        return not (self.missing or self.corrupted or self.extra or self.problems)

    def bad_files(self) -> set[str]:
        """Names of the manifest's files that must be fetched again."""
        return {*self.missing, *(file.name for file in self.corrupted)}

    def findings(self) -> list[dict[str, Any]]:
        """Everything that is wrong, one JSON object each, with a `code` and a `name`."""
        return [
            *({"code": "file_missing", "name": name} for name in self.missing[:MAX_LISTED]),
            *({"code": "file_corrupted", **_json_of(file)} for file in self.corrupted[:MAX_LISTED]),
            *({"code": "file_unknown", "name": name} for name in self.extra[:MAX_LISTED]),
            *(problem.to_dict() for problem in self.problems[:MAX_LISTED]),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ok": self.ok,
            "score": self.score,
            "checkedBytes": self.checked_bytes,
            "missing": list(self.missing[:MAX_LISTED]),
            "corrupted": [_json_of(file) for file in self.corrupted[:MAX_LISTED]],
            "extra": list(self.extra[:MAX_LISTED]),
            "problems": [problem.to_dict() for problem in self.problems[:MAX_LISTED]],
        }


def verify(layout: Layout, manifest: Manifest, *, full: bool, checkpoint: Checkpoint, on_bytes: OnBytes) -> Report:
    """Compare a published revision with its manifest.

    Args:
        full: hash every byte; else only names, types and sizes are compared, and headers read.

    Raises:
        Unavailable: code `store_missing`; nothing is said about the files.
        Stop: from the checkpoint; the threads have ended.
        Failed: the disk refuses.
    """
    layout.check_marker()
    folder = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    with storage():
        found = dict(_walk(folder))
    found.pop(SEAL, None)
    known = {file.name: file for file in manifest.files}
    present = [file for name, file in known.items() if name in found and stat.S_ISREG(found[name].st_mode)]
    lengths = {file.name: found[file.name].st_size for file in present}
    if full:
        bad, checked = _Hashing(folder, present, lengths).run(checkpoint, on_bytes)
    else:
        bad, checked = {file.name: [] for file in present}, 0
    for file in present:
        bad[file.name] = _with_length(bad[file.name], file.size, lengths[file.name], full=full)
    layout.check_marker()  # a disk that went away meanwhile says nothing about the files
    missing = sorted(known.keys() - lengths.keys())
    corrupted = tuple(CorruptFile(name, tuple(ranges)) for name, ranges in sorted(bad.items()) if ranges)
    problems = () if missing else _problems(folder, known, {file.name for file in corrupted})
    lost = sum(known[name].size for name in missing) + sum(_lost(known[file.name], file) for file in corrupted)
    score = 1.0 if not manifest.size else (manifest.size - lost) / manifest.size
    return Report(tuple(missing), corrupted, tuple(sorted(found.keys() - lengths.keys())), problems, score, checked)


def sha256_of(path: Path, checkpoint: Checkpoint, on_bytes: OnBytes) -> str:
    """SHA-256 of a file, lower-case hex.

    Raises:
        Stop: from the checkpoint.
        Failed: the disk refuses.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with storage(), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checkpoint()
            digest.update(buffer[:count])
            on_bytes(count)
    return digest.hexdigest()


class _Chunk(NamedTuple):
    """A task for a thread: bytes [start, end) of a file, and their BLAKE3."""

    name: str
    start: int
    end: int
    digest: str


@dataclass
class _Hashing:
    """Two threads hash chunks; the calling thread counts, and stops them."""

    folder: Path
    files: list[ManifestFile]
    lengths: dict[str, int]
    _tasks: "queue.SimpleQueue[_Chunk]" = field(default_factory=queue.SimpleQueue)
    _results: "queue.SimpleQueue[tuple[_Chunk, int, bool | None]]" = field(default_factory=queue.SimpleQueue)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, checkpoint: Checkpoint, on_bytes: OnBytes) -> tuple[dict[str, list[tuple[int, int]]], int]:
        """Bad ranges by name, for every file; and the bytes read."""
        bad: dict[str, list[tuple[int, int]]] = {file.name: [] for file in self.files}
        checked = 0
        for chunk in self._chunks():
            self._tasks.put(chunk)
        waiting = self._tasks.qsize()
        threads = [threading.Thread(target=self._hash, daemon=True) for _ in range(THREADS)]
        try:
            for thread in threads:
                thread.start()
            while waiting:
                checkpoint()
                try:
                    chunk, count, right = self._results.get(timeout=CHECK_SECONDS)
                except queue.Empty:
                    if not any(thread.is_alive() for thread in threads) and self._results.empty():
                        raise RuntimeError("the hashing threads died") from None
                    continue
                checked += count
                on_bytes(count)
                waiting -= right is not None
                if right is False:
                    bad[chunk.name].append((chunk.start, chunk.end))
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join(_JOIN_SECONDS)  # a read that hangs on a dead disk must not hold the job
        return bad, checked

    def _chunks(self) -> Iterator[_Chunk]:
        for file in self.files:
            held = min(file.size, self.lengths[file.name])
            for start, digest in zip(range(0, held, CHUNK_BYTES), file.chunks, strict=False):
                yield _Chunk(file.name, start, min(start + CHUNK_BYTES, file.size), digest)

    def _hash(self) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        while not self._stop.is_set():
            try:
                chunk = self._tasks.get_nowait()
            except queue.Empty:
                return
            try:
                right = self._is_right(chunk, buffer)
            except OSError:
                right = False  # an unreadable sector is a damaged one
            self._results.put((chunk, 0, right))

    def _is_right(self, chunk: _Chunk, buffer: memoryview) -> bool:
        digest, position = blake3(), chunk.start
        handle = os.open(Layout.inside(self.folder, chunk.name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            while position < chunk.end and not self._stop.is_set():
                count = os.preadv(handle, [buffer[: chunk.end - position]], position)
                if not count:
                    break
                digest.update(buffer[:count])
                position += count
                self._results.put((chunk, count, None))
        finally:
            os.close(handle)
        return digest.hexdigest() == chunk.digest


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below the folder that is no real folder, by its name in the model. Links are not followed."""
    if folder.is_symlink():
        return
    for parent, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(parent) / name).is_symlink())):
            path = Path(parent) / name
            yield path.relative_to(folder).as_posix(), path.lstat()


def _with_length(ranges: list[tuple[int, int]], size: int, held: int, *, full: bool) -> list[tuple[int, int]]:
    """Merge neighbours, and add what is not there or too much."""
    if held != size:  # unhashed, such a file is not known to be right anywhere
        ranges = [*ranges, (min(held, size) if full else 0, max(held, size))]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _lost(file: ManifestFile, found: CorruptFile) -> int:
    return sum(min(end, file.size) - min(start, file.size) for start, end in found.ranges)


def _problems(folder: Path, known: dict[str, ManifestFile], corrupted: set[str]) -> tuple[Problem, ...]:
    """Formats, but for files that are known to be damaged: what is wrong with those is said already."""
    return tuple(problem for problem in check_essentials(folder, list(known)) if problem.name not in corrupted)


def _json_of(file: CorruptFile) -> dict[str, Any]:
    return {"name": file.name, "ranges": [list(bounds) for bounds in file.ranges[:MAX_LISTED]]}
