"""A published model is read again, slowly and when nobody else wants the disk, to find out whether it is still whole.

No lock is taken, so nobody waits for a scrub: a suspicion is looked into under the lock, and only then convicts.
"""

from collections.abc import Iterator
from typing import Any

from shared.contracts import Scrub
from shared.db import catalog, upkeep
from shared.db.tables import Installation
from shared.errors import Corrupt
from shared.points import reached
from shared.states import Holder, VerifyTier
from workers.job import Services, Work, job
from workers.jobs.verify import convict, proven
from workers.store.manifest import Manifest, ManifestFile, read
from workers.store.pace import Pace
from workers.store.verify import prove


@job(Scrub)
def scrub(args: Scrub, work: Work) -> dict[str, Any]:
    """Prove file after file, from where an earlier attempt had come to; what is damaged is quarantined and repaired."""
    services = work.services
    with services.database.reading() as session:
        installation = catalog.installation(session, args.model_id)
    if installation is None or installation.holder != Holder.STORE:
        return {"ok": True, "checkedBytes": 0}
    checked = _prove_slowly(work, installation)
    if checked is not None and _record(services, installation):
        return {"ok": True, "revision": installation.revision, "checkedBytes": checked}
    found = convict(work, installation, VerifyTier.BLAKE3, "scrub")
    return found or {"ok": True, "checkedBytes": 0}  # it was replaced or removed while it was read


def _record(services: Services, installation: Installation) -> bool:
    """Write down that all of it is right. False: a verify has had another word meanwhile, or it is quarantined."""
    with services.database.session() as session:
        return upkeep.scrubbed(session, installation)


def _prove_slowly(work: Work, installation: Installation) -> int | None:
    """Bytes that were read and are right; None where something is not as it should be."""
    services, model_id = work.services, installation.model_id
    try:
        manifest = read(services.layout.manifest(model_id, installation.revision))
    except Corrupt:
        services.layout.check_marker()
        return None
    if not proven(work, manifest, VerifyTier.STAT, {}).ok:
        return None
    pace = Pace(threads=1, rate=services.settings.store.scrub_rate, idle=True)
    done, checked = 0, 0

    def on_bytes(count: int) -> None:
        nonlocal done, checked
        done, checked = done + count, checked + count
        work.report("scrubbing", done=done, total=manifest.size)

    for file, is_done in _from(manifest, installation.scrubbed_to):
        if is_done:
            done += file.size
            continue
        if not prove(services.layout, manifest, file, work.checkpoint, on_bytes, pace):
            return None
        with services.database.session() as session:
            upkeep.scrubbed_to(session, model_id, installation.revision, file.name)
        reached("scrub.proven")
    return checked


def _from(manifest: Manifest, name: str | None) -> Iterator[tuple[ManifestFile, bool]]:
    """Every file, and whether it lies before the end of what an earlier attempt has proven."""
    done = name in {file.name for file in manifest.files}
    for file in manifest.files:
        yield file, done
        done = done and file.name != name
