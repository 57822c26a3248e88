"""Published bytes are compared with the manifest: by a look, chunk by chunk, or with what the source says."""

from typing import Any

from shared.contracts import Repair, Verify
from shared.db import catalog, upkeep
from shared.db.tables import Installation
from shared.errors import Conflict, Corrupt
from shared.points import reached
from shared.states import Holder, Priority, VerifyTier
from workers import elsewhere
from workers.job import Services, Work, job
from workers.jobs.download import same_revision
from workers.store.hashing import Promised
from workers.store.manifest import Manifest, read
from workers.store.publish import adopt
from workers.store.verify import Report
from workers.store.verify import verify as verify_files

ALGORITHMS = ("sha256", "md5", "git_sha1")
REPAIR_AGAIN_SECONDS = 86_400.0
"""A repair that failed is not asked for again by itself for so long."""


@job(Verify)
def verify(args: Verify, work: Work) -> dict[str, Any]:
    """Look as closely as was asked for; what is not whole is quarantined until it is repaired."""
    with work.services.layout.lock(args.model_id):
        with work.services.database.reading() as session:
            found = catalog.installation(session, args.model_id)
        if found is not None and found.holder != Holder.STORE:
            return elsewhere.verify(work, found, args.tier)
        _, report = examine(work, args.model_id, args.tier)
    return report.to_dict()


def examine(work: Work, model_id: str, tier: VerifyTier = VerifyTier.BLAKE3) -> tuple[Manifest, Report]:
    """Verify under the caller's lock, and record the outcome."""
    services = work.services
    services.layout.check_marker()
    with services.database.reading() as session:
        installation = _published(catalog.installation(session, model_id), model_id)
    # A publication that was cut off after its rename is finished first: its files and its manifest belong together.
    adopt(services.layout, installation.model_type, model_id, installation.revision)
    manifest = read(services.layout.manifest(model_id, installation.revision))
    promised = _promised(work, manifest) if tier == VerifyTier.SOURCE else {}
    report = proven(work, manifest, tier, promised)
    reached("verify.finished")
    with services.database.session() as session:
        catalog.record_verify(
            session, model_id, installation.revision, integrity=report.score, problems=report.findings(),
            full=tier != VerifyTier.STAT,
        )  # fmt: skip
    reached("verify.recorded")
    if not report.ok or tier != VerifyTier.STAT:
        status = "available" if report.ok else "corrupted"
        services.events.publish("model.state", modelId=model_id, status=status, revision=installation.revision)
    return manifest, report


def proven(work: Work, manifest: Manifest, tier: VerifyTier, promised: Promised) -> Report:
    """What a verify of a published revision finds, told as it goes; nothing is recorded."""
    total, done = manifest.size, 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        work.report("verifying", done=done, total=total)
        reached("verify.hashed")

    if tier == VerifyTier.STAT:  # of which no byte is read, but of what was written to since
        work.report("looking")
    else:
        work.report("verifying", done=0, total=total)
    return verify_files(
        work.services.layout, manifest, tier=tier, promised=promised, checkpoint=work.checkpoint, on_bytes=on_bytes
    )


def suspected(work: Work, installation: Installation, tier: VerifyTier) -> bool:
    """Does something differ from what was published? No lock is taken, so nobody waits, and this is no verdict yet.

    Raises:
        Unavailable: code `store_missing`.
    """
    layout = work.services.layout
    try:
        manifest = read(layout.manifest(installation.model_id, installation.revision))
    except Corrupt:  # perhaps it is just being replaced
        layout.check_marker()
        return True
    return not proven(work, manifest, tier, {}).ok


def convict(work: Work, installation: Installation, tier: VerifyTier, origin: str) -> dict[str, Any] | None:
    """Verify what is suspected under the lock; what is damaged is quarantined, and its repair goes before all others.

    Returns:
        The report; None where that revision is not the installed one any more.
    """
    services, model_id = work.services, installation.model_id
    with services.layout.lock(model_id):
        with services.database.reading() as session:
            found = catalog.installation(session, model_id)
        if found is None or found.revision != installation.revision:
            return None
        manifest, report = examine(work, model_id, tier)
    reached("scrub.convicted")
    mending = {} if report.ok else mend(services, model_id, origin)
    return report.to_dict() | {"revision": manifest.revision} | mending


def mend(services: Services, model_id: str, origin: str) -> dict[str, Any]:
    """Have a quarantined model repaired, where that is wanted and has not just failed; what to tell of it."""
    if not services.settings.store.auto_repair:
        return {}
    with services.database.reading() as session:
        if upkeep.repair_failed(session, model_id, REPAIR_AGAIN_SECONDS):
            return {}
    repair = services.ledger.submit(Repair(model_id=model_id), origin=origin, priority=Priority.CRITICAL)
    return {"repairJobId": repair.job.id}


def look_before_load(work: Work, installation: Installation) -> None:
    """Refuse to load what even a look shows to be other than what was published.

    A suspicion needs no lock, so a load waits for nobody; a verdict is reached under it.

    Raises:
        Conflict: code `model_corrupt`; it is quarantined. For others than our store see `elsewhere.look_before_load`.
        Unavailable: code `store_missing`.
    """
    if installation.holder != Holder.STORE:
        elsewhere.look_before_load(work, installation)
        return
    if not suspected(work, installation, VerifyTier.STAT):
        return
    services, model_id = work.services, installation.model_id
    with services.layout.lock(model_id):
        _, report = examine(work, model_id, VerifyTier.STAT)
    if not report.ok:
        raise Conflict(
            "model_corrupt", f"Files of {model_id!r} are not what was published.",
            f"Repair it first: modelyard repair {model_id}.", {"findings": report.findings()[:20]},
        )  # fmt: skip


def _promised(work: Work, manifest: Manifest) -> Promised:
    """What the model's source publishes about the installed revision now."""
    with work.services.database.reading() as session:
        model = catalog.get_model(session, manifest.model_id)
    work.report("asking the source")
    snapshot = same_revision(work.services, model, manifest)
    return {
        file.name: {name: digest for name in ALGORITHMS if (digest := getattr(file, name)) is not None}
        for file in snapshot.files
    }


def _published(installation: Installation | None, model_id: str) -> Installation:
    if installation is None:
        raise Conflict("model_not_installed", f"Model {model_id!r} is not on disk.", f"modelyard pull {model_id}")
    if installation.holder != Holder.STORE:
        raise Conflict(
            "not_in_store", f"The files of {model_id!r} lie where somebody else keeps them.",
            "Only what was downloaded into the store has digests to verify it by.",
        )  # fmt: skip
    return installation
