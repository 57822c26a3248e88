"""A model that is used where it lies: how it looked when it was scanned, whether it still looks so, and its proof.

Nobody published digests of it, so the first verify takes them, and every later one compares. They are kept in our own
folder of manifests; nothing is written beside the model.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import Conflict, Unavailable
from workers.buffers import buffer
from workers.disk import storage
from workers.headers.plain import Openable, open_plain
from workers.store import manifest as manifests
from workers.store.essentials import Problem, check_files
from workers.store.hashing import BUFFER_BYTES, Checkpoint, Digests, OnBytes
from workers.store.layout import Layout
from workers.store.manifest import CHUNK_BYTES, Manifest, ManifestFile
from workers.store.verify import CorruptFile, Report

HIDDEN = 10
"""Names that are shown of many."""

Looks = Mapping[str, tuple[int, int]]
"""Size in bytes and time of the last change (ns since 1970) of each file of a model, by name."""


class Here(NamedTuple):
    """A file of a model as it is now."""

    size: int
    mtime_ns: int
    open: Openable


def revision_of(looks: Looks) -> str:
    """40 hex digits that stand for how the files look: a file that was written to makes another revision."""
    told = sorted((name, *look) for name, look in looks.items())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:40]


def as_seen(path: str, seen: Mapping[str, Any]) -> dict[str, Path]:
    """The files, by name, where they really are; after a look whether they are as they were when they were scanned.

    Args:
        path: the model's folder, or its file.
        seen: `files` holds the looks.

    Raises:
        Conflict: code `model_changed`; details name the files.
        Unavailable: code `model_away`; nothing is there.
    """
    place = Path(path)
    if not place.exists():
        raise Unavailable(
            "model_away",
            f"There is nothing at {path} on this machine now.",
            "Mount the disk that it lies on; if the model was moved or deleted: modelyard scan.",
        )
    folder = place if place.is_dir() else place.parent
    different = sorted(name for name, look in seen["files"].items() if _look(folder / name) != tuple(look))
    if different:
        shown = ", ".join(different[:HIDDEN])
        raise Conflict(
            "model_changed",
            f"Files of this model were changed or moved since they were scanned: {shown}.",
            "If that was meant: modelyard scan.",
            {"files": different[:HIDDEN]},
        )
    return {name: (folder / name).resolve() for name in seen["files"]}


def look(expected: Manifest, seen: Mapping[str, Any], files: Mapping[str, Here]) -> Report:
    """What sizes and times tell; nothing is read.

    Args:
        expected: the model as the scan knows it.
        seen: `files` holds the looks.
        files: the model as it is.
    """
    missing = [file.name for file in expected.files if file.name not in files]
    return _report(expected, missing, [], _changed(seen, files), 0)


def verify_in_place(
    layout: Layout, expected: Manifest, seen: Mapping[str, Any], files: Mapping[str, Here], checkpoint: Checkpoint,
    on_bytes: OnBytes,
) -> tuple[Report, bool]:  # fmt: skip
    """Hash every file and compare it with what the first verify found, or keep what this one finds.

    Returns:
        What was found, and whether these digests are the first.

    Raises:
        Stop: from the checkpoint.
        Corrupt: code `manifest_unreadable`.
        Exhausted, Failed: the disk refuses.
    """
    kept = layout.manifest(expected.model_id, expected.revision)
    known = {file.name: file for file in manifests.read(kept).files} if kept.exists() else {}
    missing = [file.name for file in expected.files if file.name not in files]
    taken: list[ManifestFile] = []
    corrupted: list[CorruptFile] = []
    for file in expected.files:
        if file.name in missing:
            continue
        now = digests_of(file.name, files[file.name].open, checkpoint, on_bytes)
        taken.append(now)
        if now.size != file.size:
            corrupted.append(CorruptFile(file.name, ((min(now.size, file.size), max(now.size, file.size)),)))
        elif known and (ranges := _different(now, known[file.name])):
            corrupted.append(CorruptFile(file.name, ranges))
    problems = [] if known else _changed(seen, files)  # with digests the bytes themselves decide
    if not missing and not corrupted:
        problems += check_files({file.name: files[file.name].open for file in taken})
    report = _report(expected, missing, corrupted, problems, sum(file.size for file in taken))
    if not known and report.ok:
        source = expected.source
        manifests.write(kept, Manifest.of(expected.model_id, expected.model_type, expected.revision, source, taken))
    return report, not known


def _changed(seen: Mapping[str, Any], files: Mapping[str, Here]) -> list[Problem]:
    """Files that somebody wrote to since the scan."""
    looks = seen["files"]
    return [
        Problem("changed_since_scan", name, f"{name} was written to since the scan; if that was meant, scan again.")
        for name, here in files.items()
        if name in looks and tuple(looks[name]) != (here.size, here.mtime_ns)
    ]


def expected_of(model_id: str, model_type: str, revision: str, path: str, seen: Mapping[str, Any]) -> Manifest:
    """A model in place as the scan knows it; the digests are empty."""
    files = [ManifestFile(name, size, "", (), None, source_checksum=False) for name, (size, _) in seen["files"].items()]
    return Manifest.of(model_id, model_type, revision, f"file:{path}", files)


def forget(layout: Layout, model_id: str, revision: str) -> None:
    """Drop the digests of a revision that is not there any more.

    Raises:
        Failed: the disk refuses.
    """
    kept = layout.manifest(model_id, revision)
    with storage():
        kept.unlink(missing_ok=True)
        with suppress(OSError):
            kept.parent.rmdir()


def _report(
    expected: Manifest, missing: list[str], corrupted: list[CorruptFile], problems: list[Problem], checked: int
) -> Report:
    sizes = {file.name: file.size for file in expected.files}
    lost = sum(sizes[name] for name in missing)
    for file in corrupted:
        lost += sum(min(end, sizes[file.name]) - min(start, sizes[file.name]) for start, end in file.ranges)
    score = 1.0 if not expected.size else (expected.size - lost) / expected.size
    return Report(tuple(missing), tuple(corrupted), (), tuple(problems), score, checked)


def digests_of(name: str, file: Openable, checkpoint: Checkpoint, on_bytes: OnBytes) -> ManifestFile:
    """Read a file once: its size, its SHA-256, and BLAKE3 of every chunk."""
    view, digests = buffer(BUFFER_BYTES), Digests()
    with storage(), open_plain(file) as (opened, _):
        while count := opened.readinto(view):  # type: ignore[attr-defined] # an unbuffered file has it
            checkpoint()
            digests.feed(view[:count])
            on_bytes(count)
    return digests.of(name)


def _different(now: ManifestFile, then: ManifestFile) -> tuple[tuple[int, int], ...]:
    """Bytes [start, end) of the chunks that are not what they were; neighbours are one."""
    ranges: list[tuple[int, int]] = []
    for number, (one, other) in enumerate(zip(now.chunks, then.chunks, strict=True)):
        start, end = number * CHUNK_BYTES, min((number + 1) * CHUNK_BYTES, now.size)
        if one == other:
            continue
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, end))
    return tuple(ranges)


def _look(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns
