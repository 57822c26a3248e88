"""Staging → published by one rename, published → trash by one rename; safe to cut off anywhere and to run again.

The manifest travels inside the folder (under the name `SEAL`) while the folder moves, so that at every moment the
files and their manifest are in one place:

    staged, partial names   → renamed to their real names, synced, read-only
    staged, with seal       → moved to the published place: one rename, or one exchange with the folder already there
    published, with seal    → the seal is moved to `manifests/…`; done

Whoever comes next (`publish` again, `adopt`, `remove`) finishes what it finds. Where the system cannot exchange two
folders, a replacement takes two renames: a crash between them leaves the old folder in the trash and the new one
sealed in staging, nothing published; `publish` again completes it. Callers hold the model's lock.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.errors import Corrupt, Forbidden
from workers.store import swap
from workers.store.layout import SEAL, Layout, storage, sync_folder
from workers.store.manifest import Manifest, read, write


def publish(layout: Layout, manifest: Manifest, partials: Mapping[str, Path]) -> None:
    """Put a complete revision in its published place, instead of what may be there.

    Args:
        partials: where the bytes of each file of the manifest are, inside the revision's staging folder.

    Raises:
        Corrupt: code `staging_incomplete`; a file is missing, or not as long as the manifest says.
        Exhausted, Failed: the disk refuses; call again.
    """
    published = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    staging = layout.staging(manifest.model_id, manifest.revision)
    with storage():
        fresh = any(path.exists() for path in partials.values()) or (staging / SEAL).exists()
        finished = _finish(layout, manifest.model_type, manifest.model_id, manifest.revision)
        if not fresh and (finished or not staging.exists()):
            # a run before this one got through: what may lie in staging is the folder that was replaced
            current = adopt(layout, manifest.model_type, manifest.model_id, manifest.revision)
            if current is not None and current.files == manifest.files:
                _discard(layout, manifest, staging)
                return
        _seal(layout, manifest, staging, partials)
        _move_in(layout, manifest, staging, published)
        _finish(layout, manifest.model_type, manifest.model_id, manifest.revision)


def adopt(layout: Layout, model_type: str, model_id: str, revision: str) -> Manifest | None:
    """The manifest of a published revision, finishing a publication that was cut off; None if it is not there.

    Every file of the manifest is there with its size; nothing is hashed.

    Raises:
        Failed: the disk refuses.
    """
    published = layout.published(model_type, model_id, revision)
    with storage():
        _finish(layout, model_type, model_id, revision)
        try:
            manifest = read(layout.manifest(model_id, revision))
        except Corrupt:
            return None
        if not manifest.is_of(model_type, model_id, revision):
            return None
        try:
            states = [(file, layout.inside(published, file.name).lstat()) for file in manifest.files]
        except (FileNotFoundError, NotADirectoryError):
            return None
    whole = all(stat.S_ISREG(state.st_mode) and state.st_size == file.size for file, state in states)
    return manifest if whole and published.is_dir() else None


def is_published(layout: Layout, model_type: str, model_id: str, revision: str) -> bool:
    """Is the revision in its published place, every file with its size? What `adopt` says, without the manifest."""
    return adopt(layout, model_type, model_id, revision) is not None


def remove(layout: Layout, model_type: str, model_id: str, revision: str) -> int:
    """Move a published revision, manifest and all, to the trash. Answers the bytes that emptying it will free.

    Files that another revision shares by a hard link count for nothing. What is gone already frees 0.

    Raises:
        Forbidden: code `path_not_owned`; the folder does not carry our manifest.
        Failed: the disk refuses.
    """
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
            published.rename(layout.trash(model_id, revision))
            sync_folder(published.parent)
        for empty in (published.parent, kept.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()
    return freed


def empty_trash(layout: Layout, older_than_seconds: float, now: float) -> int:
    """Delete what has been in the trash for longer than that. Answers the bytes freed.

    Args:
        now: epoch seconds.

    Raises:
        Unavailable: code `store_missing`.
        Failed: the disk refuses.
    """
    layout.check_marker()
    freed = 0
    for since, entry in layout.trashed():
        if now - since <= older_than_seconds:
            continue
        with storage():
            size = bytes_alone(entry)
            shutil.rmtree(entry)
        freed += size
    return freed


def bytes_alone(folder: Path) -> int:
    """Bytes of the files below a folder that have no other name elsewhere. Links are not followed."""
    return sum(state.st_size for path in _files(folder) if (state := path.lstat()).st_nlink == 1)


def _seal(layout: Layout, manifest: Manifest, staging: Path, partials: Mapping[str, Path]) -> None:
    """Make the staging folder exactly what will be published, durable, read-only, with its manifest inside."""
    wanted = {layout.inside(staging, file.name): file for file in manifest.files}
    for path, file in wanted.items():
        partial = partials.get(file.name)
        if partial is not None and partial.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.rename(path)
        _settle(path, file.size)
    for path in list(_files(staging)):
        if path not in wanted:
            path.unlink()
    for folder, _, _ in os.walk(staging, topdown=False):
        if Path(folder) != staging:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    write(staging / SEAL, manifest)
    for folder, _, _ in os.walk(staging, topdown=False):
        Path(folder).chmod(0o750)
        sync_folder(Path(folder))


def _settle(path: Path, size: int) -> None:
    """Check, sync and protect one file of the staging folder."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _incomplete(path.name) from None
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_size != size:
            raise _incomplete(path.name)
        os.fchmod(handle, 0o440)
        os.fsync(handle)
    finally:
        os.close(handle)


def _move_in(layout: Layout, manifest: Manifest, staging: Path, published: Path) -> None:
    """The one step that changes what readers see."""
    for folder in (published.parent.parent, published.parent):
        folder.mkdir(mode=0o750, exist_ok=True)
        sync_folder(folder.parent)
    if published.exists() and not published.is_symlink():
        if swap.exchange(staging, published):
            sync_folder(published.parent)
            _discard(layout, manifest, staging)
            return
        published.rename(layout.trash(manifest.model_id, manifest.revision))
    staging.rename(published)
    sync_folder(published.parent)
    sync_folder(staging.parent)


def _finish(layout: Layout, model_type: str, model_id: str, revision: str) -> bool:
    """Take the seal out of a published folder: the last step of a publication. Was there one?"""
    seal = layout.published(model_type, model_id, revision) / SEAL
    if not seal.exists():
        return False
    kept = layout.manifest(model_id, revision)
    kept.parent.mkdir(mode=0o750, exist_ok=True)
    seal.rename(kept)
    sync_folder(kept.parent)
    sync_folder(seal.parent)
    return True


def _discard(layout: Layout, manifest: Manifest, staging: Path) -> None:
    """A folder that was replaced, or is no longer needed, goes to the trash in one step."""
    if staging.exists():
        staging.rename(layout.trash(manifest.model_id, manifest.revision))
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


def _incomplete(name: str) -> Corrupt:
    return Corrupt(
        "staging_incomplete",
        f"The file {name!r} is missing in staging or has the wrong length.",
        "Download the model again; what is proven is kept.",
        {"name": name},
    )


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, links included and not followed."""
    for parent, folders, files in os.walk(folder):
        for name in files:
            yield Path(parent) / name
        for name in folders:
            if (Path(parent) / name).is_symlink():
                yield Path(parent) / name
