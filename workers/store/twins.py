"""The same bytes once: a file that the store has already under another name gets a second name, not a second copy.

Only within the store, only published files, which are read-only and replaced but never written to; so a deletion of
one name keeps the other, and a repair of one makes a new file and leaves the other.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shared.errors import Corrupt
from workers.disk import storage
from workers.store.hashing import Checkpoint
from workers.store.layout import Layout
from workers.store.manifest import Manifest, ManifestFile, read

COMPARE_BYTES = 1024**2
_NO_SECOND_NAME = frozenset({errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOENT, errno.EACCES})
"""No more names for this file, none at all on this file system, or it has just gone."""


def published_manifests(layout: Layout) -> Iterator[Manifest]:
    """Of every published revision; those that cannot be read are left out."""
    with storage():
        paths = sorted(layout.manifests_root.glob("*/*.json"))
    for path in paths:
        try:
            yield read(path)
        except Corrupt:
            continue


class Twins:
    """Published files by their content, but for those of one revision (which is about to be replaced)."""

    def __init__(self, layout: Layout, apart_from: tuple[str, str]) -> None:
        """Args: apart_from: model id and revision."""
        self._layout = layout
        self._by_digest: dict[str, list[tuple[Path, int]]] = {}
        self._by_name: dict[tuple[str, str, int], list[Path]] = {}
        for manifest in published_manifests(layout):
            if (manifest.model_id, manifest.revision) != apart_from:
                self._enter(manifest)

    def _enter(self, manifest: Manifest) -> None:
        folder = self._layout.published(manifest.model_type, manifest.model_id, manifest.revision)
        for file in manifest.files:
            if file.size:
                path = self._layout.inside(folder, file.name)
                self._by_digest.setdefault(file.sha256, []).append((path, file.size))
                self._by_name.setdefault((manifest.model_id, file.name, file.size), []).append(path)

    def claim(self, partial: Path, model_id: str, name: str, size: int | None, sha256: str | None) -> bool:
        """Give a file that says it has this content the name `partial`, unless something lies there already.

        Where no digest is known in advance, a file of the same name and size of another revision of the model is
        taken. Whoever asked must prove it: what a manifest says is a claim until then.
        """
        if sha256 is not None:
            candidates = [path for path, length in self._by_digest.get(sha256, []) if size in (None, length)]
        else:
            candidates = self._by_name.get((model_id, name, size), []) if size else []
        return any(_link(path, partial) for path in candidates)

    def merge(self, partial: Path, file: ManifestFile, checkpoint: Checkpoint) -> bool:
        """Replace a private file that is proven by another name of an equal one, compared byte by byte."""
        for path, length in self._by_digest.get(file.sha256, []):
            spare = partial.with_name(partial.name + ".twin")
            if length != file.size or not _link(path, spare):
                continue
            try:
                if _equal(spare, partial, checkpoint):
                    spare.rename(partial)
                    return True
            finally:
                spare.unlink(missing_ok=True)
        return False


def _link(path: Path, name: Path) -> bool:
    """A second name for a published file. False: it is none that may be shared, or `name` is taken."""
    with storage():
        try:
            state = path.lstat()
            if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o222:
                return False
            os.link(path, name, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_SECOND_NAME:
                return False
            raise
    return True


def _equal(one: Path, other: Path, checkpoint: Checkpoint) -> bool:
    """Byte by byte; False at once for two names of one file: there is nothing to win."""
    with storage(), one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
        if os.path.samestat(os.fstat(first.fileno()), os.fstat(second.fileno())):
            return False
        while True:
            checkpoint()
            left, right = first.read(COMPARE_BYTES), second.read(COMPARE_BYTES)
            if left != right:
                return False
            if not left:
                return True
