"""A model's source is asked whether it has a newer revision, and what an update would have to fetch."""

import hashlib
from typing import Any

from shared.contracts import UpdateCheck
from shared.db import catalog, upkeep
from shared.errors import Conflict, Corrupt
from workers.job import Services, Work, job
from workers.jobs.download import resolve
from workers.sources.base import RemoteFile
from workers.store.layout import Layout
from workers.store.manifest import Manifest, read

SMALL_BYTES = 64 * 1024**2
"""Files that the Hub names by git's digest alone are smaller."""


@job(UpdateCheck)
def update_check(args: UpdateCheck, work: Work) -> dict[str, Any]:
    """Compare what the source offers with what is installed."""
    services = work.services
    with services.database.reading() as session:
        model = catalog.get_model(session, args.model_id)
        installation = catalog.installation(session, args.model_id)
    if installation is None:
        raise Conflict("model_not_installed", f"Model {model.id!r} is not on disk.", f"modelyard pull {model.id}")
    work.report("asking the source")
    snapshot = resolve(services, model)
    with services.database.session() as session:
        upkeep.asked_for_update(session, model.id, snapshot.revision)
    told: dict[str, Any] = {"revision": installation.revision, "latest": snapshot.revision, "updateAvailable": False}
    if snapshot.revision == installation.revision:
        return told
    changed = _changed(services, model.id, installation.revision, list(snapshot.files))
    services.events.publish("model.update", modelId=model.id, latest=snapshot.revision)
    return told | {
        "updateAvailable": True, "changedFiles": [file.name for file in changed][:100],
        "bytesToFetch": sum(file.size or 0 for file in changed),
    }  # fmt: skip


def _changed(services: Services, model_id: str, revision: str, offered: list[RemoteFile]) -> list[RemoteFile]:
    """Offered files that the installed revision does not have."""
    try:
        manifest = read(services.layout.manifest(model_id, revision))
    except Corrupt:
        return offered
    return [file for file in offered if not _has(services.layout, manifest, file)]


def _has(layout: Layout, manifest: Manifest, file: RemoteFile) -> bool:
    if file.sha256 is not None:
        return any(mine.sha256 == file.sha256 for mine in manifest.files)
    mine = next((mine for mine in manifest.files if mine.name == file.name and mine.size == file.size), None)
    if mine is None or file.git_sha1 is None or mine.size > SMALL_BYTES:
        return False
    path = layout.inside(layout.published(manifest.model_type, manifest.model_id, manifest.revision), mine.name)
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == file.git_sha1
