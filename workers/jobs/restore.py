"""A model, or an earlier revision of one, comes back from the trash."""

from typing import Any

from shared.contracts import Restore
from shared.db import catalog, upkeep
from shared.db.tables import Model
from shared.errors import Cancelled, Conflict, Corrupt, NotFound
from shared.points import reached
from shared.states import VerifyTier
from workers.job import Services, Work, job
from workers.jobs.download import record
from workers.jobs.verify import proven
from workers.stock import after_change
from workers.store import trash
from workers.store.manifest import Manifest
from workers.store.publish import adopt, remove
from workers.store.publish import restore as put_back


@job(Restore)
def restore(args: Restore, work: Work) -> dict[str, Any]:
    """Put the files back by one rename, prove them, and enter them in the registry as they were."""
    services = work.services
    with services.layout.lock(args.model_id):
        work.report("restoring")
        manifest = _moved_back(work, args)
        with services.database.reading() as session:
            installation = catalog.installation(session, args.model_id)
        try:
            report = proven(work, manifest, VerifyTier.BLAKE3, {})
            work.confirm()
        except Cancelled:
            if installation is None or installation.revision != manifest.revision:  # no row would tell of it
                remove(services.layout, manifest.model_type, manifest.model_id, manifest.revision)
            raise
        if installation is not None and installation.revision != manifest.revision:
            _keep_beside(services, manifest, whole=report.ok)
            return {"revision": manifest.revision, "keptForRollback": True, "size": manifest.size}
        done = record(work, manifest, newest=False)
        if not report.ok:
            with services.database.session() as session:
                catalog.record_verify(
                    session, args.model_id, manifest.revision, integrity=report.score, problems=report.findings(),
                    full=True,
                )  # fmt: skip
    return {**done, "ok": report.ok, "integrity": report.score}


def _moved_back(work: Work, args: Restore) -> Manifest:
    """The files are in their place; also where an attempt before this one has put them there."""
    services = work.services
    try:
        entry = trash.find(services.layout, args.entry)
    except NotFound:
        if work.attempt == 1 or (manifest := _put_back_before(services, args)) is None:
            raise
        return manifest
    if entry.manifest is None or entry.manifest.model_id != args.model_id:
        raise Conflict("other_model", f"This is not from {args.model_id!r}.", "`modelyard trash` tells whose it is.")
    _register(services, entry.manifest, trash.read_memo(entry.path))
    reached("restore.registered")
    return put_back(services.layout, entry)


def _put_back_before(services: Services, args: Restore) -> Manifest | None:
    with services.database.reading() as session:
        model = catalog.get_model(session, args.model_id)
    for revision in services.layout.published_revisions(model.type, model.id):
        if f"-{revision[:100]}-" in args.entry:
            return adopt(services.layout, model.type, model.id, revision)
    return None


def _register(services: Services, manifest: Manifest, memo: dict[str, Any]) -> None:
    """Have the registry know the model again, as it was when it left.

    Raises:
        Conflict: by now the id stands for another model.
    """
    source, _, location = manifest.source.partition(":")
    with services.database.session() as session:
        if catalog.exists(session, manifest.model_id):
            known = catalog.get_model(session, manifest.model_id)
            if (known.source, known.source_url, known.type) != (source, location, manifest.model_type):
                raise Conflict(
                    "other_model", f"{manifest.model_id!r} stands for another model by now.",
                    "Remove that one first, or leave this one in the trash.",
                )  # fmt: skip
            return
        kept = {name: value for name, value in memo.items() if name in Model.model_fields}
        facts = {
            "name": manifest.model_id, **kept, "id": manifest.model_id, "type": manifest.model_type,
            "source": source, "source_url": location, "created_at": 0.0, "updated_at": 0.0,
        }  # fmt: skip
        catalog.add_model(session, Model(**facts))


def _keep_beside(services: Services, manifest: Manifest, *, whole: bool) -> None:
    """Another revision serves: this one is kept for a rollback, in place of the one that was.

    Raises:
        Corrupt: it is damaged; it is in the trash again.
    """
    if not whole:
        remove(services.layout, manifest.model_type, manifest.model_id, manifest.revision)
        raise Corrupt("trash_corrupt", "What lay in the trash is damaged; it stays there.", "Download it again.")
    with services.database.session() as session:
        upkeep.keep_for_rollback(session, manifest.model_id, manifest.revision)
    after_change(services, manifest.model_id)
