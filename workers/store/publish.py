"""Staging → published by one rename, published → trash by one rename; safe to cut off anywhere and to run again.

The manifest travels inside the folder (under the name `SEAL`) while the folder moves, so that at every moment the
files and their manifest are in one place:

    staged                  every byte is there, most under partial names
    staged, with seal       → real names, synced, read-only → moved to the published place: one rename, or one
                              exchange with the folder that is there already
    published, with seal    → the old folder, if any, to the trash → the seal to `manifests/…`; done

Whoever comes next (`publish` again, `adopt`, `remove`) finishes what it finds. Where the system cannot exchange two
folders, a replacement takes two renames: a crash between them leaves the old folder in the trash and the new one
sealed in staging, nothing published, until `publish` or `adopt` is called again. Callers hold the model's lock.
"""

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import Conflict, Corrupt, Forbidden
from shared.points import reached
from workers.disk import storage
from workers.store import swap
from workers.store.layout import MEMO, PARTIAL, SEAL, Layout, sync_folder
from workers.store.manifest import Manifest, ManifestFile, read, write
from workers.store.trash import Trashed, bytes_alone, files_below, write_memo


def publish(layout: Layout, manifest: Manifest, partials: Mapping[str, Path]) -> None:
    """Put a complete revision in its published place, instead of what may be there.

    Args:
        partials: where the bytes of each file of the manifest are, as `Layout.partial` says.

    Raises:
        Corrupt: code `staging_incomplete`; a file is missing, or not as long as the manifest says.
        Unavailable: code `store_missing`.
        Exhausted, Failed: the disk refuses; call again.
    """
    layout.check_marker()
    model_type, model_id, revision = manifest.model_type, manifest.model_id, manifest.revision
    staging = layout.staging(model_id, revision)
    with storage():
        fresh = any(path.exists() for path in partials.values()) or (staging / SEAL).exists()
        finished = _finish(layout, model_type, model_id, revision)
        if not fresh and (finished or not staging.exists()):
            # a run before this one got through: what may lie in staging is the folder that was replaced
            _discard(layout, model_id, revision)
            if not _is_current(layout, manifest):
                raise _incomplete(*[file.name for file in manifest.files[:1]])
            return
        for file in manifest.files:
            _check_staged(layout.inside(staging, file.name), partials.get(file.name), file)
        write(staging / SEAL, manifest)
        reached("publish.sealed")
        _complete(layout, manifest, staging)


def adopt(layout: Layout, model_type: str, model_id: str, revision: str) -> Manifest | None:
    """The manifest of a published revision, finishing a publication that was cut off; None if it is not there.

    Every file of the manifest is there with its size; nothing is hashed.

    Raises:
        Unavailable: code `store_missing`.
        Exhausted, Failed: the disk refuses.
    """
    layout.check_marker()
    published, staging = layout.published(model_type, model_id, revision), layout.staging(model_id, revision)
    with storage():
        sealed = _read_of(staging / SEAL, model_type, model_id, revision)
        if sealed is not None:
            try:
                _complete(layout, sealed, staging)
            except Corrupt:  # somebody took files out of staging
                (staging / SEAL).unlink()
        if _finish(layout, model_type, model_id, revision):
            _discard(layout, model_id, revision)
        manifest = _read_of(layout.manifest(model_id, revision), model_type, model_id, revision)
        if manifest is None or published.is_symlink() or not published.is_dir():
            return None
        whole = all(_is_file(layout.inside(published, file.name), file.size) for file in manifest.files)
    return manifest if whole else None


def is_published(layout: Layout, model_type: str, model_id: str, revision: str) -> bool:
    """Is the revision in its published place, every file with its size? What `adopt` says, without the manifest."""
    return adopt(layout, model_type, model_id, revision) is not None


def remove(
    layout: Layout,
    model_type: str,
    model_id: str,
    revision: str,
    memo: dict[str, Any] | None = None,
    trash: Path | None = None,
) -> int:
    """Move a published revision, manifest and all, to the trash. Answers the bytes that emptying it will free.

    Files that another revision shares by a hard link count for nothing. What is gone already frees 0.

    Args:
        memo: what else to keep for a restore, as JSON.
        trash: where to, as `Layout.trash` said.

    Raises:
        Forbidden: code `path_not_owned`; the folder does not carry our manifest.
        Unavailable: code `store_missing`.
        Failed: the disk refuses.
    """
    layout.check_marker()
    published, kept = layout.published(model_type, model_id, revision), layout.manifest(model_id, revision)
    with storage():
        _finish(layout, model_type, model_id, revision)
        if not published.is_symlink() and not published.exists():
            kept.unlink(missing_ok=True)
            freed = 0
        else:
            _check_owned(published, kept, model_type, model_id, revision)
            freed = bytes_alone(published)
            kept.rename(published / SEAL)
            reached("remove.sealed")
            if memo is not None:
                write_memo(published, memo)
            published.rename(trash or layout.trash(model_id, revision))
            sync_folder(published.parent)
        for empty in (published.parent, kept.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()
    return freed


def check_ours(layout: Layout, model_type: str, model_id: str, revision: str) -> None:
    """Raises: Forbidden, code `path_not_owned`: what lies in the place of this revision is not ours to remove."""
    published, kept = layout.published(model_type, model_id, revision), layout.manifest(model_id, revision)
    with storage():
        _finish(layout, model_type, model_id, revision)
        if published.is_symlink() or published.exists():
            _check_owned(published, kept, model_type, model_id, revision)


def restore(layout: Layout, entry: Trashed) -> Manifest:
    """Put a revision from the trash back into its place, by one rename. What a crash cut off, `adopt` finishes.

    Raises:
        Conflict: code `revision_present`, there is one in its place.
        Unavailable: code `store_missing`.
        Failed: the disk refuses.
    """
    layout.check_marker()
    manifest = read(entry.path / SEAL)
    published = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    if published.is_symlink() or published.exists():
        raise Conflict(
            "revision_present", "This revision of the model is in the store.", "Remove that first, or leave it so."
        )
    with storage():
        for folder in (published.parent.parent, published.parent):
            folder.mkdir(mode=0o750, exist_ok=True)
            sync_folder(folder.parent)
        entry.path.rename(published)
        sync_folder(published.parent)
        reached("restore.moved")
        _finish(layout, manifest.model_type, manifest.model_id, manifest.revision)
    return manifest


def _is_current(layout: Layout, manifest: Manifest) -> bool:
    """Are these very bytes published?"""
    current = adopt(layout, manifest.model_type, manifest.model_id, manifest.revision)
    return current is not None and current.digests() == manifest.digests()


def _check_staged(path: Path, partial: Path | None, file: ManifestFile) -> None:
    """Look before the seal is set: from then on the revision must be completable without its source."""
    place = partial if partial is not None and partial.exists() else path
    if not _is_file(place, file.size):
        raise _incomplete(file.name)


def _complete(layout: Layout, manifest: Manifest, staging: Path) -> None:
    """From a sealed staging folder to a finished publication."""
    wanted = {layout.inside(staging, file.name): file for file in manifest.files}
    for path, file in wanted.items():
        partial = path.with_name(path.name + PARTIAL)
        if partial.exists():
            partial.rename(path)
        _settle(path, file)
    for stray in set(files_below(staging)) - {*wanted, staging / SEAL}:
        stray.unlink()
    for folder, _, _ in os.walk(staging, topdown=False):
        Path(folder).chmod(0o750)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()  # left over from names that are no longer wanted
            continue
        sync_folder(Path(folder))
    reached("publish.settled")
    _move_in(layout, manifest, staging)
    reached("publish.moved")
    _finish(layout, manifest.model_type, manifest.model_id, manifest.revision)


def _settle(path: Path, file: ManifestFile) -> None:
    """Check, protect and sync one file under its real name."""
    if not _is_file(path, file.size):
        raise _incomplete(file.name)
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fchmod(handle, 0o440)
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_in(layout: Layout, manifest: Manifest, staging: Path) -> None:
    """The one step that changes what readers see."""
    published = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    for folder in (published.parent.parent, published.parent):
        folder.mkdir(mode=0o750, exist_ok=True)
        sync_folder(folder.parent)
    if published.is_symlink():
        published.unlink()
    if published.exists():
        if swap.exchange(staging, published):
            reached("publish.exchanged")
            sync_folder(published.parent)
            _discard(layout, manifest.model_id, manifest.revision)
            return
        published.rename(layout.trash(manifest.model_id, manifest.revision))
    staging.rename(published)
    sync_folder(published.parent)
    sync_folder(staging.parent)


def _finish(layout: Layout, model_type: str, model_id: str, revision: str) -> bool:
    """Take the seal out of a published folder: the last step of a publication. Was there one?"""
    published = layout.published(model_type, model_id, revision)
    seal = published / SEAL
    if published.is_symlink() or _read_of(seal, model_type, model_id, revision) is None:
        return False
    kept = layout.manifest(model_id, revision)
    kept.parent.mkdir(mode=0o750, exist_ok=True)
    (published / MEMO).unlink(missing_ok=True)
    seal.rename(kept)
    sync_folder(kept.parent)
    sync_folder(published)
    return True


def _discard(layout: Layout, model_id: str, revision: str) -> None:
    """A folder that was replaced, or is no longer needed, goes to the trash in one step."""
    staging = layout.staging(model_id, revision)
    if staging.exists():
        staging.rename(layout.trash(model_id, revision))
    with contextlib.suppress(OSError):
        staging.parent.rmdir()


def _check_owned(published: Path, kept: Path, model_type: str, model_id: str, revision: str) -> None:
    if not published.is_symlink() and published.is_dir() and kept.is_file() and not kept.is_symlink():
        try:
            if read(kept).is_of(model_type, model_id, revision):
                return
        except Corrupt:
            return  # damaged, but only this store writes there: otherwise nobody could ever remove it
    raise Forbidden(
        "path_not_owned",
        "The folder of this model does not carry this store's manifest, so it is left alone.",
        "Look at the folder, and delete it by hand if nobody needs it.",
    )


def _read_of(path: Path, model_type: str, model_id: str, revision: str) -> Manifest | None:
    """The manifest at that path, if it can be read and is of that revision."""
    try:
        manifest = read(path)
    except Corrupt:
        return None
    return manifest if manifest.is_of(model_type, model_id, revision) else None


def _is_file(path: Path, size: int) -> bool:
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(state.st_mode) and state.st_size == size


def _incomplete(name: str = "") -> Corrupt:
    return Corrupt(
        "staging_incomplete",
        f"The file {name!r} is missing in staging or has the wrong length.",
        "Download the model again; what is proven is kept.",
        {"name": name},
    )
