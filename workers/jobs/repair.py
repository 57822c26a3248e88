"""What a verify finds missing or damaged is fetched again, chunk by chunk; the rest of the model stays as it is.

The damaged files may be in use, mapped into a runner's memory: nothing is written to them. Private copies are mended
in staging, and the mended folder takes the place of the damaged one by one exchange.
"""

import os
from dataclasses import replace
from typing import Any

from shared.contracts import Repair
from shared.db import catalog
from shared.errors import Conflict
from shared.points import reached
from shared.states import Holder
from workers import elsewhere
from workers.job import Work, job
from workers.jobs.download import fetch_and_publish, same_revision
from workers.jobs.verify import examine
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.transfer import adopt, journal_path
from workers.store.manifest import Manifest, ManifestFile
from workers.store.private import private_copy
from workers.store.room import require_room, waiting_for_room
from workers.store.verify import Report


@job(Repair)
def repair(args: Repair, work: Work) -> dict[str, Any]:
    """Verify; where something is wrong, fetch those chunks of the same revision and publish the whole again."""
    with work.services.layout.lock(args.model_id):
        with work.services.database.reading() as session:
            there = catalog.installation(session, args.model_id)
        if there is not None and there.holder != Holder.STORE:
            return elsewhere.repair(work, there)
        work.span = (0.0, 0.4)
        manifest, report = examine(work, args.model_id)
        work.span = (0.4, 1.0)
        if report.ok:
            return {"revision": manifest.revision, "repaired": [], "refetchedBytes": 0}
        with work.services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
        snapshot = _wanted(same_revision(work.services, model, manifest), manifest, report)
        whole = _stage(work, snapshot, manifest, report)
        reached("repair.staged")
        done = fetch_and_publish(work, model, snapshot, proven=whole)
    missing = sum(file.size for file in manifest.files if file.name in report.missing)
    found = report.to_dict()
    return {
        "revision": manifest.revision, "repaired": sorted(report.bad_files()), "size": done["size"],
        "ranges": found["corrupted"], "missing": found["missing"], "removed": found["extra"],
        "refetchedBytes": done["refetchedBytes"] + missing - done["sharedBytes"],
    }  # fmt: skip


def _wanted(snapshot: Snapshot, manifest: Manifest, report: Report) -> Snapshot:
    """The manifest's files as the source offers them, each with the digest that it must have.

    Raises:
        Conflict: the source lacks one that is needed.
    """
    offered, bad = {file.name: file for file in snapshot.files}, report.bad_files()
    if lost := sorted(bad - offered.keys()):
        raise Conflict(
            "source_changed", f"The source does not offer {lost[0]} any more.",
            f"Fetch the newest revision: modelyard update {manifest.model_id}.",
        )  # fmt: skip
    files = [
        replace(offered.get(file.name, RemoteFile(file.name, "")), size=file.size, sha256=file.sha256)
        for file in manifest.files
    ]
    return Snapshot(manifest.revision, tuple(files), manifest.skipped)


def _stage(work: Work, snapshot: Snapshot, manifest: Manifest, report: Report) -> dict[str, ManifestFile]:
    """Link what is whole into staging, and copy what is damaged to where it may be mended. Answers the whole ones."""
    layout, reserve = work.services.layout, work.services.settings.store.reserve_bytes
    damaged = {file.name for file in report.corrupted}
    sizes = sum(file.size for file in manifest.files if file.name in damaged)
    partials = {file.name: layout.partial(manifest.model_id, manifest.revision, file.name) for file in manifest.files}
    require_room(layout, sizes, (partials[name] for name in damaged), reserve)
    published = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    whole: dict[str, ManifestFile] = {}
    with waiting_for_room(layout, reserve):
        for remote, file in zip(snapshot.files, manifest.files, strict=True):
            partial, path = partials[file.name], layout.inside(published, file.name)
            if file.name in damaged:
                if not journal_path(partial).exists():  # else an earlier attempt has begun to mend it
                    private_copy(path, partial, file.size, work.checkpoint)
                    adopt(remote, partial, file.chunks)
            elif file.name not in report.missing:
                partial.unlink(missing_ok=True)
                journal_path(partial).unlink(missing_ok=True)
                os.link(path, partial)
                whole[file.name] = file
    return whole
