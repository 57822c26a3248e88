"""The revision that served before an update serves again."""

from typing import Any

from shared.contracts import Rollback
from shared.db import catalog, upkeep
from shared.errors import Corrupt
from shared.points import reached
from shared.states import VerifyTier
from workers.job import Work, job
from workers.jobs.download import record, recorded_before
from workers.jobs.verify import proven
from workers.store.publish import adopt


@job(Rollback)
def rollback(args: Rollback, work: Work) -> dict[str, Any]:
    """Prove every byte of it, then flip the row; the present revision is kept in its place."""
    services = work.services
    with services.layout.lock(args.model_id):
        with services.database.reading() as session:
            present = catalog.installation(session, args.model_id)
        if present is not None and (done := recorded_before(work, present)) is not None:
            return {"previous": present.previous_revision, **done}
        with services.database.reading() as session:
            installation = upkeep.previous(session, args.model_id)
        revision = str(installation.previous_revision)
        manifest = adopt(services.layout, installation.model_type, args.model_id, revision)
        report = proven(work, manifest, VerifyTier.BLAKE3, {}) if manifest is not None else None
        if manifest is None or report is None or not report.ok:
            raise Corrupt(
                "previous_corrupt", "The earlier revision is not whole any more, so the present one stays.",
                f"Ask for it by name instead: modelyard pull with its revision, {revision}.",
                {"findings": report.findings()[:20]} if report is not None else None,
            )  # fmt: skip
        work.confirm()
        reached("rollback.proven")
        done = record(work, manifest)
    return {"previous": installation.revision, **done}
