"""The manifest of a revision: every file with its size and digests, as they were proven before publication."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from shared.errors import Corrupt, Invalid
from workers.disk import storage
from workers.store.layout import Layout, sync_folder

CHUNK_BYTES = 16 * 1024**2
"""Bytes under one BLAKE3; the same as in `sources`, which a test compares."""
VERSION = 1
MAX_BYTES = 256 * 1024**2
"""No manifest is longer: 64 characters per 16 MiB make 4 MiB for a model of a terabyte."""

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ManifestFile:
    """One file of a revision.

    `size` in bytes; `sha256` lower-case hex; `chunks` are BLAKE3 (hex) of every 16 MiB, in order, none for an
    empty file; `source_checksum`: the source had published a digest, and it matched; `unverified`: nothing told where
    the file ends.
    """

    name: str
    size: int
    sha256: str
    chunks: tuple[str, ...]
    etag: str | None
    source_checksum: bool
    unverified: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a published revision consists of. `created_at` is RFC 3339 in UTC; `skipped` was left out on purpose.

    `came_from` names the bundle that brought it; None: its source.
    """

    model_id: str
    model_type: str
    revision: str
    source: str
    files: tuple[ManifestFile, ...]
    created_at: str
    skipped: tuple[str, ...] = ()
    came_from: str | None = None

    @classmethod
    def of(
        cls,
        model_id: str,
        model_type: str,
        revision: str,
        source: str,
        files: Sequence[ManifestFile],
        skipped: Sequence[str] = (),
        came_from: str | None = None,
    ) -> Self:
        """A manifest made now."""
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(model_id, model_type, revision, source, tuple(files), moment, tuple(skipped), came_from)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def unverified(self) -> bool:
        """Whether a part of it would look the same."""
        return any(file.unverified for file in self.files)

    def digests(self) -> frozenset[tuple[str, int, str]]:
        """Name, size and sha256 of every file: equal for equal bytes, whatever the source's tags say."""
        return frozenset((file.name, file.size, file.sha256) for file in self.files)

    def is_of(self, model_type: str, model_id: str, revision: str) -> bool:
        """Does it describe this revision of this model?"""
        return (self.model_type, self.model_id, self.revision) == (model_type, model_id, revision)


def write(path: Path, manifest: Manifest) -> None:
    """Write it whole or not at all, and durably: draft, fsync, rename, fsync of the folder. Mode 0640.

    Raises:
        Exhausted, Failed: the disk refuses.
    """
    fields = asdict(manifest)
    for file in fields["files"]:
        if not file["unverified"]:  # versions before know nothing of it, and have to read what they can
            del file["unverified"]
    body = json.dumps({"v": VERSION, **fields}, ensure_ascii=False, separators=(",", ":"))
    draft = path.with_name(f".{path.name}.tmp")
    with storage():
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            with draft.open("w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o640)
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def read(path: Path) -> Manifest:
    """Read and check it.

    Raises:
        Corrupt: code `manifest_unreadable`; it is missing, damaged, or names files outside a folder.
        Exhausted, Failed, Unavailable: the disk refuses, which says nothing about the manifest.
    """
    try:
        return _parsed(json.loads(_body(path)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(
            "manifest_unreadable",
            "The manifest of this revision is missing or damaged, so its files cannot be proven.",
            "Fetch the model again: modelyard pull ID --force.",
        ) from error


def _body(path: Path) -> bytes:
    with storage():
        try:
            with path.open("rb") as file:
                body = file.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ValueError("there is none") from error
    if len(body) > MAX_BYTES:
        raise ValueError("too long")
    return body


def _parsed(body: dict[str, Any]) -> Manifest:
    """Raises ValueError, TypeError, KeyError or AttributeError for anything but a manifest."""
    if body.pop("v") != VERSION:
        raise ValueError("unknown version")
    files = tuple(_file(dict(fields)) for fields in body.pop("files"))
    manifest = Manifest(files=files, skipped=tuple(map(_text, body.pop("skipped"))), **body)
    _text(manifest.came_from or "")
    for value in (manifest.model_id, manifest.model_type, manifest.revision, manifest.source, manifest.created_at):
        _text(value)
    if len({file.name for file in files}) != len(files):
        raise ValueError("a name twice")
    return manifest


def _file(fields: dict[str, Any]) -> ManifestFile:
    chunks = tuple(map(_text, fields.pop("chunks")))
    file = ManifestFile(chunks=chunks, **fields)
    if type(file.size) is not int or file.size < 0 or not _are_bools(file.source_checksum, file.unverified):
        raise ValueError("not a size")
    if len(chunks) != -(-file.size // CHUNK_BYTES) or not all(map(_HEX.fullmatch, (*chunks, file.sha256))):
        raise ValueError("digests do not fit")
    if file.etag is not None:
        _text(file.etag)
    try:
        Layout.inside(Path("/"), file.name)
    except Invalid as error:
        raise ValueError("not a name") from error
    return file


def _are_bools(*values: object) -> bool:
    return all(type(value) is bool for value in values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
