"""Models come in a bundle, from where there is internet: all of it is proven before any of it is published."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

from shared.contracts import Unbundle
from shared.db import locks
from shared.errors import Conflict, Corrupt, ModelyardError, Unavailable, Unsafe
from shared.lock import Lock, LockedFile, LockedModel
from shared.points import reached
from shared.states import InstallationState
from workers.disk import storage
from workers.job import Services, Work, job
from workers.jobs.download import allowed, kept, record
from workers.sources.names import check_names
from workers.sources.transfer import journal_path
from workers.store.bundle import OpenBundle
from workers.store.bundle_folder import BundleFolder
from workers.store.essentials import check_essentials
from workers.store.hashing import OnBytes
from workers.store.layout import PARTIAL, Layout
from workers.store.manifest import Manifest, ManifestFile
from workers.store.publish import adopt, publish
from workers.store.reference import digests_of
from workers.store.room import require_room, waiting_for_room, watching
from workers.store.twins import Twins

Staged = dict[str, list[ManifestFile]]
"""By model: its files as they lie in staging, each proven."""


@job(Unbundle)
def unbundle(args: Unbundle, work: Work) -> dict[str, Any]:
    """Read it to its end, put what is new into staging, judge it as a download is judged, publish model by model."""
    services, folder = work.services, BundleFolder.of(work.services.settings)
    with folder.opened(args.name) as (file, size), ExitStack() as held:
        found = OpenBundle(file, size, whole=args.sha256 is not None)
        for entry in found.lock.models:
            check_names(locked.name for locked in entry.files)
            held.enter_context(services.layout.lock(entry.model_id))
        try:
            here = _here(services, found.lock)
            there = {entry.model_id: _there(work, entry, here) for entry in found.lock.models}
            wanted = [entry for entry in found.lock.models if there[entry.model_id] is None]
            staged = _stage(work, found, wanted)
            if args.sha256 not in (None, found.sha256()):
                raise _another(args, found)
            for entry in wanted:
                _judge(services, entry, known=entry.model_id in here)
            work.confirm()
        except Unavailable:
            raise
        except ModelyardError:
            for entry in found.lock.models:
                _clear(services.layout, entry)
            raise
        reached("unbundle.confirmed")
        came_from = f"bundle {args.name}, lock sha256:{found.lock_digest}"
        told = []
        with waiting_for_room(services.layout, services.settings.store.reserve_bytes):
            for entry in found.lock.models:
                manifest = there[entry.model_id] or _publish(services.layout, entry, staged[entry.model_id], came_from)
                told.append(_record(work, entry, manifest, here.get(entry.model_id), brought=entry in wanted))
    return {"bundle": args.name, "models": told, "size": sum(entry.size for entry in wanted)}


def _here(services: Services, lock: Lock) -> dict[str, locks.Standing]:
    """What is known here of the models of the bundle.

    Raises:
        Conflict: code `other_model`.
    """
    with services.database.reading() as session:
        standings = locks.standings(session, [entry.model_id for entry in lock.models])
    for entry in lock.models:
        same = (each for each in standings if each.model.id.lower() == entry.model_id.lower())
        locks.check_same(entry, next(same, None))
    return {standing.model.id: standing for standing in standings}


def _there(work: Work, entry: LockedModel, here: Mapping[str, locks.Standing]) -> Manifest | None:
    """The store has this revision already, byte for byte; damaged, it is taken from the bundle again.

    Raises:
        Conflict: code `other_content`.
    """
    layout, standing = work.services.layout, here.get(entry.model_id)
    manifest = adopt(layout, entry.model_type, entry.model_id, entry.revision)
    if manifest is not None and manifest.digests() != entry.digests:
        raise Conflict(
            "other_content",
            f"The store has revision {entry.revision} of {entry.model_id!r} with other bytes than the bundle.",
            f"Find out which are right: modelyard verify {entry.model_id} --tier source. To take the bundle's: "
            f"modelyard rm {entry.model_id}, then import again.",
        )
    installed = standing.installation if standing is not None else None
    if installed is not None and installed.revision == entry.revision:
        return manifest if installed.state == InstallationState.PUBLISHED else None
    return kept(work, locks.model_of(entry), entry.revision)


def _stage(work: Work, found: OpenBundle, wanted: list[LockedModel]) -> Staged:
    """Read the bundle to its end. What an attempt before this one has staged is proven where it lies, and stays."""
    layout, settings = work.services.layout, work.services.settings.store
    partials = {
        (entry.model_id, file.name): layout.partial(entry.model_id, entry.revision, file.name)
        for entry in wanted
        for file in entry.files
    }
    require_room(layout, sum(entry.size for entry in wanted), partials.values(), settings.reserve_bytes)
    checkpoint = watching(layout, settings.reserve_bytes, work.checkpoint)
    on_bytes = _reporting(work, found.lock)
    staged: Staged = {entry.model_id: [] for entry in wanted}
    twins = {entry.model_id: Twins(layout, (entry.model_id, entry.revision)) for entry in wanted}
    with waiting_for_room(layout, settings.reserve_bytes), storage():
        for entry, file in found.members():
            partial = partials.get((entry.model_id, file.name))
            if partial is None:
                found.prove(file, checkpoint, on_bytes)
                continue
            proven = _staged(partial, file, work, on_bytes)
            if proven is not None:
                found.skip(file, checkpoint)
            else:
                with _fresh(partial) as out:
                    proven = found.prove(file, checkpoint, on_bytes, out)
                reached("unbundle.staged")
            if settings.share_files:
                twins[entry.model_id].merge(partial, proven, checkpoint)
            staged[entry.model_id].append(proven)
    return staged


def _staged(partial: Path, file: LockedFile, work: Work, on_bytes: OnBytes) -> ManifestFile | None:
    """The file as it lies in staging, if all of it is right."""
    if journal_path(partial).exists() or partial.is_symlink() or not partial.is_file():
        return None
    if partial.stat().st_size != file.size:
        return None
    found = digests_of(file.name, partial, work.checkpoint, on_bytes)
    return found if found.sha256 == file.sha256 else None


def _fresh(partial: Path) -> BinaryIO:
    """A file of our own at that place, whatever lay there."""
    for path in (partial, journal_path(partial)):
        path.unlink(missing_ok=True)
    return os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640), "wb", buffering=0)


def _judge(services: Services, entry: LockedModel, *, known: bool) -> None:
    """The gate that every download passes, with the leave that people gave here and not where the bundle was made.

    Raises:
        Unsafe, Corrupt, Invalid: as a download.
    """
    staging = services.layout.staging(entry.model_id, entry.revision)
    trust = allowed(services, entry.model_id).of(entry.revision)
    for problem in check_essentials(staging, [file.name for file in entry.files], trust):
        error = problem.error()
        if isinstance(error, Unsafe) and not known:
            model = {"model_id": entry.model_id, "model_type": entry.model_type, "name": entry.name}
            body = json.dumps({**model, "source": entry.source, "source_url": entry.source_url})
            error.hint += f" For that it must be in the registry: POST /api/v1/models/add {body}"
        raise error


def _publish(layout: Layout, entry: LockedModel, files: list[ManifestFile], came_from: str) -> Manifest:
    source = f"{entry.source}:{entry.source_url}"
    manifest = Manifest.of(entry.model_id, entry.model_type, entry.revision, source, files, came_from=came_from)
    partials = {file.name: layout.partial(entry.model_id, entry.revision, file.name) for file in files}
    publish(layout, manifest, partials)
    reached("unbundle.published")
    return manifest


def _record(
    work: Work, entry: LockedModel, manifest: Manifest, before: locks.Standing | None, *, brought: bool
) -> dict[str, Any]:
    """Write it down. A model that is known here keeps the settings that it has here."""
    told = {"modelId": entry.model_id, "revision": entry.revision}
    installed = before.installation if before is not None else None
    if not brought and installed is not None and installed.revision == entry.revision:
        return {**told, "alreadyPresent": True}
    record(work, manifest, entry if before is None else None, newest=False)
    return {**told, "previous": installed.revision} if installed is not None else told


def _reporting(work: Work, lock: Lock) -> OnBytes:
    total, done = sum(entry.size for entry in lock.models), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        work.report("unbundling", done=done, total=total)
        reached("unbundle.poured")

    work.report("unbundling", done=0, total=total)
    return on_bytes


def _clear(layout: Layout, entry: LockedModel) -> None:
    """Take what a refused bundle has brought out of staging; what a download has begun there stays."""
    staging = layout.staging(entry.model_id, entry.revision)
    with storage():
        for file in entry.files:
            path = layout.inside(staging, file.name)
            partial = path.with_name(path.name + PARTIAL)
            if not journal_path(partial).exists():
                partial.unlink(missing_ok=True)
        for folder, _, _ in os.walk(staging, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        with suppress(OSError):
            staging.parent.rmdir()


def _another(args: Unbundle, found: OpenBundle) -> Corrupt:
    return Corrupt(
        "bundle_mismatch", f"{args.name} is a whole bundle, and not the one that its sha256 was told for.",
        "Nothing of it was taken. Ask its maker for both, the file and its sha256, again.",
        {"want": args.sha256, "got": found.sha256()},
    )  # fmt: skip
