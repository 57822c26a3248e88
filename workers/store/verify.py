"""Proving published bytes: what a look at the folder tells, then chunks or the source's digests, then the formats."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.states import VerifyTier
from shared.trust import Trust
from workers.buffers import buffer
from workers.disk import storage
from workers.store.essentials import Problem, check_essentials
from workers.store.hashing import BUFFER_BYTES, Checkpoint, Hashing, OnBytes, Promised, Ranges
from workers.store.layout import MEMO, SEAL, Layout
from workers.store.manifest import Manifest, ManifestFile
from workers.store.pace import FULL_SPEED, Pace

MAX_LISTED = 1000
"""Findings of one sort that are kept; a folder that is that broken needs no longer list."""
CLOCK_SECONDS = 1.0
"""A manifest's time is cut to full seconds."""


@dataclass(frozen=True)
class CorruptFile:
    """`ranges` are bytes [start, end) that are not what they must be, or not there, or too many."""

    name: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Report:
    """What a verify found.

    `score` 0 to 1: bytes that are proven, of the bytes that should be; `extra` are files that the manifest does not
    know; `checked_files` and `checked_bytes` were read and hashed (0 where only names, sizes and times were compared);
    `touched` were written to since they were published, and `unpromised` have no digest at their source.
    """

    missing: tuple[str, ...]
    corrupted: tuple[CorruptFile, ...]
    extra: tuple[str, ...]
    problems: tuple[Problem, ...]
    score: float
    checked_bytes: int
    checked_files: int = 0
    tier: VerifyTier = VerifyTier.BLAKE3
    touched: tuple[str, ...] = ()
    unpromised: tuple[str, ...] = ()

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
            "tier": self.tier,
            "score": self.score,
            "checkedFiles": self.checked_files,
            "checkedBytes": self.checked_bytes,
            "missing": list(self.missing[:MAX_LISTED]),
            "corrupted": [_json_of(file) for file in self.corrupted[:MAX_LISTED]],
            "extra": list(self.extra[:MAX_LISTED]),
            "touched": list(self.touched[:MAX_LISTED]),
            "unpromised": list(self.unpromised[:MAX_LISTED]),
            "problems": [problem.to_dict() for problem in self.problems[:MAX_LISTED]],
        }


def verify(
    layout: Layout,
    manifest: Manifest,
    *,
    tier: VerifyTier,
    checkpoint: Checkpoint,
    on_bytes: OnBytes,
    promised: Promised | None = None,
    pace: Pace = FULL_SPEED,
) -> Report:
    """Compare a published revision with its manifest.

    Args:
        tier: STAT compares names, types, sizes and times, reads headers, and hashes only what was written to;
            BLAKE3 hashes every chunk; SOURCE compares every file with `promised`, and its chunks where that differs or
            names no SHA-256.
        promised: digests that the source publishes.

    Raises:
        Unavailable: code `store_missing`; nothing is said about the files.
        Stop: from the checkpoint; the threads have ended.
        Failed: the disk refuses.
    """
    layout.check_marker()
    folder = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    with storage():
        found = dict(_walk(folder))
    for own in (SEAL, MEMO):
        found.pop(own, None)
    known = {file.name: file for file in manifest.files}
    present = [file for name, file in known.items() if name in found and stat.S_ISREG(found[name].st_mode)]
    lengths = {file.name: found[file.name].st_size for file in present}
    touched = {file.name for file in present if _is_touched(found[file.name], manifest)}
    wanted = present if tier != VerifyTier.STAT else _unsure(present, touched, lengths)
    promised = {} if promised is None or tier != VerifyTier.SOURCE else promised
    hashed, checked = Hashing(folder, wanted, lengths, promised, pace).run(checkpoint, on_bytes)
    bad = {
        file.name: _with_length(hashed.get(file.name, []), file.size, lengths[file.name], full=file.name in hashed)
        for file in present
    }
    layout.check_marker()  # a disk that went away meanwhile says nothing about the files
    missing = sorted(known.keys() - lengths.keys())
    corrupted = tuple(CorruptFile(name, tuple(ranges)) for name, ranges in sorted(bad.items()) if ranges)
    lost = sum(known[name].size for name in missing) + sum(_lost(known[file.name], file) for file in corrupted)
    return Report(
        missing=tuple(missing), corrupted=corrupted, extra=tuple(sorted(found.keys() - lengths.keys())),
        problems=() if missing else _problems(folder, known, {file.name for file in corrupted}),
        score=1.0 if not manifest.size else (manifest.size - lost) / manifest.size,
        checked_bytes=checked, checked_files=len(hashed), tier=tier, touched=tuple(sorted(touched)),
        unpromised=_unpromised(known, promised) if tier == VerifyTier.SOURCE else (),
    )  # fmt: skip


def prove(
    layout: Layout, manifest: Manifest, file: ManifestFile, checkpoint: Checkpoint, on_bytes: OnBytes, pace: Pace
) -> bool:
    """Whether one file of a published revision is there, and every chunk of it right.

    Raises:
        Unavailable, Stop, Failed: as `verify`.
    """
    layout.check_marker()
    folder = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    try:
        state = Layout.inside(folder, file.name).lstat()
    except FileNotFoundError:
        layout.check_marker()
        return False
    if not stat.S_ISREG(state.st_mode) or state.st_size != file.size:
        return False
    bad, _ = Hashing(folder, [file], {file.name: file.size}, pace=pace).run(checkpoint, on_bytes)
    layout.check_marker()
    return not bad[file.name]


def sha256_of(path: Path, checkpoint: Checkpoint, on_bytes: OnBytes) -> str:
    """SHA-256 of a file, lower-case hex.

    Raises:
        Stop: from the checkpoint.
        Failed: the disk refuses.
    """
    digest = hashlib.sha256()
    view = buffer(BUFFER_BYTES)
    with storage(), path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            checkpoint()
            digest.update(view[:count])
            on_bytes(count)
    return digest.hexdigest()


def _is_touched(state: os.stat_result, manifest: Manifest) -> bool:
    """Was the file written to after its manifest was?"""
    return state.st_mtime > datetime.fromisoformat(manifest.created_at).timestamp() + CLOCK_SECONDS


def _unsure(present: list[ManifestFile], touched: set[str], lengths: Mapping[str, int]) -> list[ManifestFile]:
    """What a look leaves open: written to, and as long as before."""
    return [file for file in present if file.name in touched and lengths[file.name] == file.size]


def _unpromised(known: Mapping[str, ManifestFile], promised: Promised) -> tuple[str, ...]:
    return tuple(sorted(name for name in known if not promised.get(name)))


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below the folder that is no real folder, by its name in the model. Links are not followed."""
    if folder.is_symlink():
        return
    for parent, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(parent) / name).is_symlink())):
            path = Path(parent) / name
            yield path.relative_to(folder).as_posix(), path.lstat()


def _with_length(ranges: Ranges, size: int, held: int, *, full: bool) -> Ranges:
    """Merge neighbours, and add what is not there or too much."""
    if held != size:  # unhashed, such a file is not known to be right anywhere
        ranges = [*ranges, (min(held, size) if full else 0, max(held, size))]
    merged: Ranges = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _lost(file: ManifestFile, found: CorruptFile) -> int:
    return sum(min(end, file.size) - min(start, file.size) for start, end in found.ranges)


def _problems(folder: Path, known: dict[str, ManifestFile], corrupted: set[str]) -> tuple[Problem, ...]:
    """Formats, but for files that are known to be damaged: what is wrong with those is said already.

    What was published with somebody's leave is no damage; whether the leave still stands is asked at each load.
    """
    problems = check_essentials(folder, list(known), Trust("", "", pickle=True, remote_code=True))
    return tuple(problem for problem in problems if problem.name not in corrupted)


def _json_of(file: CorruptFile) -> dict[str, Any]:
    return {"name": file.name, "ranges": [list(bounds) for bounds in file.ranges[:MAX_LISTED]]}
