"""What a verify finds missing or damaged is fetched again; the rest of the model stays as it is."""

import os
from typing import Any

from shared.contracts import Repair
from shared.db import catalog
from shared.db.tables import Model
from shared.errors import Conflict
from shared.points import reached
from shared.refs import Ref, SourceKind, checked
from workers.job import Work, job
from workers.jobs.download import fetch_and_publish
from workers.jobs.verify import examine
from workers.sources import source_of
from workers.sources.base import Snapshot
from workers.store.manifest import Manifest
from workers.store.verify import Report


@job(Repair)
def repair(args: Repair, work: Work) -> dict[str, Any]:
    """Verify; where something is wrong, fetch those files of the same revision and publish the whole again."""
    with work.services.layout.lock(args.model_id):
        work.span = (0.0, 0.4)
        manifest, report = examine(work, args.model_id)
        work.span = (0.4, 1.0)
        if report.ok:
            return {"revision": manifest.revision, "repaired": [], "refetchedBytes": 0}
        with work.services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
        snapshot = _same_revision(work, model, manifest)
        bad = _stage_good_files(work, manifest, report)
        reached("repair.staged")
        done = fetch_and_publish(work, model, snapshot)
        size = sum(file.size for file in manifest.files if file.name in bad)
        return {"revision": manifest.revision, "repaired": sorted(bad), "refetchedBytes": size, "size": done["size"]}


def _same_revision(work: Work, model: Model, manifest: Manifest) -> Snapshot:
    """The installed revision as its source offers it now.

    Raises:
        Conflict: the source has no such revision any more.
    """
    pinned = manifest.revision if model.source == SourceKind.HUGGINGFACE else None
    ref = checked(Ref(SourceKind(model.source), model.source_url, pinned))
    snapshot = source_of(ref.kind, work.services.settings.sources).resolve(ref, model.checksum)
    if snapshot.revision != manifest.revision:
        raise Conflict(
            "source_changed", "The source does not offer the installed revision any more.",
            f"Fetch the new one: modelyard pull {model.id} --force.",
        )  # fmt: skip
    return snapshot


def _stage_good_files(work: Work, manifest: Manifest, report: Report) -> set[str]:
    """Link what is whole into staging, where the fetch finds it proven. Answers the names that are not."""
    layout = work.services.layout
    bad = report.bad_files()
    layout.discard_staging(manifest.model_id)
    published = layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    for file in manifest.files:
        if file.name in bad:
            continue
        partial = layout.partial(manifest.model_id, manifest.revision, file.name)
        partial.parent.mkdir(parents=True, exist_ok=True)
        os.link(layout.inside(published, file.name), partial)
    return bad
