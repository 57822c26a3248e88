"""Models leave for a machine without internet: their lock and every file of theirs in one file."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shared.contracts import Bundle
from shared.db import catalog, locks
from shared.errors import Corrupt
from shared.lock import Lock, LockedFile, LockedModel
from shared.points import reached
from workers.job import Services, Work, job
from workers.stock import after_change
from workers.store.bundle import OpenBundle, size_of, write
from workers.store.bundle_folder import BundleFolder, exists


@job(Bundle)
def bundle(args: Bundle, work: Work) -> dict[str, Any]:
    """Write all of it under another name, prove each file on the way, then give it its own."""
    services = work.services
    folder, reserve = BundleFolder.of(services.settings), services.settings.store.reserve_bytes
    with ExitStack() as held:
        for model_id in sorted(set(args.models)):
            held.enter_context(services.layout.lock(model_id))
        lock = _lock_of(services, args.models)
        if folder.has(args.name):
            return _told(folder, args.name, lock, _proven_there(work, folder, args.name, lock))
        on_bytes = _reporting(work, "bundling", lock)
        with folder.draft(args.name, size_of(lock), reserve) as draft:
            sha256 = write(draft, lock, lambda entry, file: _place(services, entry, file), work.checkpoint, on_bytes)
            reached("bundle.written")
            work.confirm()
    reached("bundle.named")
    after_change(services)
    return _told(folder, args.name, lock, sha256)


def _lock_of(services: Services, model_ids: Iterable[str]) -> Lock:
    """What goes into the bundle.

    Raises:
        NotFound, Conflict: one of them is not whole in the store.
    """
    with services.database.reading() as session:
        for model_id in model_ids:
            catalog.get_model(session, model_id)
            catalog.installed(session, model_id)
        return Lock.of([locks.entry_of(standing) for standing in locks.standings(session, set(model_ids))])


def _place(services: Services, entry: LockedModel, file: LockedFile) -> Path:
    folder = services.layout.published(entry.model_type, entry.model_id, entry.revision)
    return services.layout.inside(folder, file.name)


def _proven_there(work: Work, folder: BundleFolder, name: str, lock: Lock) -> str:
    """The bundle is there already, perhaps by an attempt whose worker died after it: its SHA-256, if it is whole.

    Raises:
        Conflict: code `bundle_exists`; it is another one, or damaged.
    """
    try:
        with folder.opened(name) as (file, size):
            found = OpenBundle(file, size, whole=True)
            if found.lock != lock:
                raise exists(name)
            on_bytes = _reporting(work, "verifying", lock)
            for _, locked in found.members():
                found.prove(locked, work.checkpoint, on_bytes)
            return str(found.sha256())
    except Corrupt as damaged:
        raise exists(name) from damaged


def _reporting(work: Work, phase: str, lock: Lock) -> Any:
    total, done = sum(entry.size for entry in lock.models), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        work.report(phase, done=done, total=total)
        reached("bundle.poured")

    work.report(phase, done=0, total=total)
    return on_bytes


def _told(folder: BundleFolder, name: str, lock: Lock, sha256: str) -> dict[str, Any]:
    return {
        "bundle": name, "path": str(folder.path / name), "sha256": sha256, "size": size_of(lock),
        "models": [{"modelId": entry.model_id, "revision": entry.revision} for entry in lock.models],
    }  # fmt: skip
