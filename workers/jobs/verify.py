"""Every published byte is hashed again and compared with the manifest."""

from typing import Any

from shared.contracts import Verify
from shared.db import catalog
from shared.db.tables import Installation
from shared.errors import Conflict
from shared.points import reached
from workers.job import Work, job
from workers.store.manifest import Manifest, read
from workers.store.publish import adopt
from workers.store.verify import Report
from workers.store.verify import verify as verify_files


@job(Verify)
def verify(args: Verify, work: Work) -> dict[str, Any]:
    """Hash everything; what is not whole is quarantined until it is repaired."""
    with work.services.layout.lock(args.model_id):
        _, report = examine(work, args.model_id)
    return report.to_dict()


def examine(work: Work, model_id: str) -> tuple[Manifest, Report]:
    """Verify in full under the caller's lock, and record the outcome."""
    services = work.services
    services.layout.check_marker()
    with services.database.reading() as session:
        installation = _published(catalog.installation(session, model_id), model_id)
    # A publication that was cut off after its rename is finished first: its files and its manifest belong together.
    adopt(services.layout, installation.model_type, model_id, installation.revision)
    manifest = read(services.layout.manifest(model_id, installation.revision))
    total, done = sum(file.size for file in manifest.files), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        work.report("verifying", done=done, total=total)
        reached("verify.hashed")

    work.report("verifying", done=0, total=total)
    report = verify_files(services.layout, manifest, full=True, checkpoint=work.checkpoint, on_bytes=on_bytes)
    reached("verify.finished")
    with services.database.session() as session:
        catalog.record_verify(
            session, model_id, installation.revision, integrity=report.score, problems=report.findings()
        )
    reached("verify.recorded")
    status = "available" if report.ok else "corrupted"
    services.events.publish("model.state", modelId=model_id, status=status, revision=installation.revision)
    return manifest, report


def _published(installation: Installation | None, model_id: str) -> Installation:
    if installation is None:
        raise Conflict("model_not_installed", f"Model {model_id!r} is not on disk.", f"modelyard pull {model_id}")
    return installation
