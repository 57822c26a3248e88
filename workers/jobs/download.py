"""A model comes down: resolve, make room, fetch, prove, publish."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from shared.contracts import Download
from shared.db import catalog, locks, trust
from shared.db.tables import Installation, Model
from shared.errors import Conflict, NotFound
from shared.lock import LockedModel
from shared.points import reached
from shared.refs import Ref, SourceKind, checked
from shared.states import InstallationState, VerifyTier
from shared.trust import Grants
from workers.disk import storage
from workers.elsewhere import in_ollama, in_place
from workers.job import Services, Work, job
from workers.sources import source_of
from workers.sources.base import RemoteFile, Snapshot, within
from workers.sources.pinned import pinned
from workers.sources.transfer import Fetched, Throttle, fetch_several, journal_path
from workers.sources.wire.policy import HostPolicy
from workers.stock import after_change
from workers.store.essentials import check_essentials, files_of
from workers.store.facts import read_facts
from workers.store.manifest import Manifest, ManifestFile
from workers.store.publish import adopt, publish
from workers.store.room import require_room, waiting_for_room, watching
from workers.store.twins import Twins
from workers.store.verify import verify


@job(Download)
def download(args: Download, work: Work) -> dict[str, Any]:
    """Fetch what is missing of the model's newest allowed revision, or of the one that a lock names, and publish it."""
    services = work.services
    services.layout.check_marker()
    with services.layout.lock(args.model_id):
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
            before = catalog.installation(session, args.model_id)
        if (done := recorded_before(work, before)) is not None:
            return done
        if model.source == SourceKind.OLLAMA:
            return in_ollama.pull(work, model, before)
        if model.source == SourceKind.FILE:
            return in_place.reference_one(work, model)
        if args.lock is not None:
            return _as_locked(work, model, before, args.lock, fresh=args.force_redownload)
        work.report("resolving")
        snapshot = resolve(services, model)
        reached("download.resolved")
        there = None if args.force_redownload else _there(work, model, before, snapshot.revision)
        return there or fetch_and_publish(work, model, snapshot, fresh=args.force_redownload)


def _there(work: Work, model: Model, before: Installation | None, revision: str) -> dict[str, Any] | None:
    """The revision is published already; also where a crash came between the rename and the row."""
    if before is not None and before.revision == revision:
        whole = before.state == InstallationState.PUBLISHED
        return {"revision": revision, "size": before.size, "alreadyPresent": True} if whole else None
    manifest = kept(work, model, revision)
    return {**record(work, manifest), "alreadyPresent": True} if manifest else None


def _as_locked(work: Work, model: Model, before: Installation | None, digest: str, *, fresh: bool) -> dict[str, Any]:
    """Exactly the revision and the files that an applied lock names, and with them the settings that it has.

    Raises:
        Conflict: code `lock_superseded`.
        Corrupt: code `lock_mismatch`.
        NotFound: code `locked_revision_gone`.
    """
    services = work.services
    with services.database.reading() as session:
        entry = locks.demanded(session, model.id, digest)
    if not fresh and (there := there_as_locked(work, model, before, entry)):
        return there
    work.report("resolving")
    ref = Ref(SourceKind(model.source), model.source_url, entry.revision)
    grants = allowed(services, model.id)
    try:
        offer = source_of(ref.kind, services.settings.sources, grants).resolve(_named(ref))
    except NotFound as gone:
        raise NotFound(
            "locked_revision_gone", f"{model.source_url} has no revision {entry.revision} any more.",
            "Bring it from a machine that has it: modelyard bundle export there, modelyard bundle import here.",
        ) from gone  # fmt: skip
    reached("download.resolved")
    snapshot = pinned(offer, entry, grants.of(entry.revision))
    return fetch_and_publish(work, model, snapshot, fresh=fresh, entry=entry)


def _named(ref: Ref) -> Ref:
    """What to ask the source for: a plain URL has no revisions."""
    return checked(ref if ref.kind is SourceKind.HUGGINGFACE else ref._replace(revision=None))


def there_as_locked(work: Work, model: Model, before: Installation | None, entry: LockedModel) -> dict[str, Any] | None:
    """The revision is in the store, byte for byte what the lock says: it serves, with the lock's settings."""
    layout = work.services.layout
    if before is not None and before.revision == entry.revision and before.state == InstallationState.PUBLISHED:
        manifest = adopt(layout, model.type, model.id, entry.revision)
        if manifest is not None and manifest.digests() == entry.digests:
            with work.services.database.session() as session:
                locks.settle(session, entry)
            return {"revision": entry.revision, "size": before.size, "alreadyPresent": True}
        return None
    manifest = kept(work, model, entry.revision)
    if manifest is None or manifest.digests() != entry.digests:
        return None
    return {**record(work, manifest, entry), "alreadyPresent": True}


def kept(work: Work, model: Model, revision: str) -> Manifest | None:
    """A revision that lies in the store without being the installed one, once every byte of it was read.

    It may be what a crash left behind its rename; it may as well be what somebody went back from because it is damaged.
    """
    layout, done = work.services.layout, 0
    manifest = adopt(layout, model.type, model.id, revision)
    if manifest is None:
        return None
    total = manifest.size

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        work.report("verifying", done=done, total=total)

    report = verify(
        layout, manifest, tier=VerifyTier.BLAKE3, promised={}, checkpoint=work.checkpoint, on_bytes=on_bytes
    )
    return manifest if report.ok else None


def resolve(services: Services, model: Model) -> Snapshot:
    """Ask the model's source for the files of the wanted revision."""
    ref = checked(Ref(SourceKind(model.source), model.source_url, model.revision))
    return source_of(ref.kind, services.settings.sources, allowed(services, model.id)).resolve(ref, model.checksum)


def allowed(services: Services, model_id: str) -> Grants:
    """What a person allowed of the model's revisions."""
    with services.database.reading() as session:
        return trust.grants(session, model_id)


def same_revision(services: Services, model: Model, manifest: Manifest) -> Snapshot:
    """The installed revision as its source offers it now.

    Raises:
        Conflict: the source has no such revision any more.
    """
    pinned = manifest.revision if model.source == SourceKind.HUGGINGFACE else None
    ref = checked(Ref(SourceKind(model.source), model.source_url, pinned))
    source = source_of(ref.kind, services.settings.sources, allowed(services, model.id))
    try:
        snapshot = source.resolve(ref, model.checksum)
    except NotFound as gone:
        raise _moved_on(model) from gone
    if snapshot.revision != manifest.revision:
        raise _moved_on(model)
    return snapshot


def _moved_on(model: Model) -> Conflict:
    return Conflict(
        "source_changed", "The source does not offer the installed revision any more.",
        f"Fetch what it offers now: modelyard update {model.id}.",
    )  # fmt: skip


def fetch_and_publish(
    work: Work,
    model: Model,
    snapshot: Snapshot,
    *,
    fresh: bool = False,
    proven: Mapping[str, ManifestFile] | None = None,
    entry: LockedModel | None = None,
) -> dict[str, Any]:
    """Bring every file of the snapshot to staging, prove it, publish all of it by one rename, record it.

    Args:
        fresh: fetch also what the store has already.
        proven: files that lie in staging, right in every byte.
        entry: what a lock says of it, settings and all.
    """
    services, settings = work.services, work.services.settings.store
    layout, staging = services.layout, services.layout.staging(model.id, snapshot.revision)
    partials = {file.name: layout.partial(model.id, snapshot.revision, file.name) for file in snapshot.files}
    twins = Twins(layout, (model.id, snapshot.revision)) if settings.share_files and not fresh else None
    for file in snapshot.files if twins is not None else ():
        partial = partials[file.name]
        if twins is not None and not partial.exists() and not journal_path(partial).exists():
            twins.claim(partial, model.id, file.name, file.size, file.locked or file.sha256)
    require_room(layout, snapshot.size or 0, partials.values(), settings.reserve_bytes)
    with waiting_for_room(layout, settings.reserve_bytes):
        with services.governor.flow(work.job_id, model.source) as throttle:
            files, told = _fetch_all(work, snapshot, partials, twins, proven or {}, throttle)
        reached("download.fetched")
        for problem in check_essentials(staging, partials, allowed(services, model.id).of(snapshot.revision)):
            raise problem.error()
        work.report("publishing", fraction=1.0)
        work.confirm()
        reached("download.confirmed")
        source = f"{model.source}:{model.source_url}"
        manifest = Manifest.of(model.id, model.type, snapshot.revision, source, files, snapshot.skipped)
        publish(layout, manifest, partials)
    reached("download.published")
    return {**record(work, manifest, entry), **told, "skipped": list(snapshot.skipped)}


def _fetch_all(
    work: Work,
    snapshot: Snapshot,
    partials: dict[str, Path],
    twins: Twins | None,
    ready: Mapping[str, ManifestFile],
    throttle: Throttle,
) -> tuple[list[ManifestFile], dict[str, int]]:
    """Every file as the manifest will have it; and how many bytes came a second time, or are shared."""
    services, settings = work.services, work.services.settings.sources
    look = watching(services.layout, services.settings.store.reserve_bytes, work.checkpoint)
    checkpoint = within(settings.deadline, look)
    total, done, refetched, shared = snapshot.size, 0, 0, 0
    sizes = {file.name: file.size for file in snapshot.files}
    brought = dict.fromkeys(sizes, 0)

    def parts(current: str) -> tuple[dict[str, Any], ...]:
        shown = [name for name in sizes if brought[name] or name == current][-20:]
        return tuple({"name": name, "bytesDone": brought[name], "bytesTotal": sizes[name]} for name in shown)

    def on_bytes(file: RemoteFile, count: int) -> None:
        nonlocal done
        done += count
        brought[file.name] += count
        work.report("downloading", done=done, total=total, parts=parts(file.name))

    checkpoint()
    for file in snapshot.files:
        if file.name in ready:
            on_bytes(file, ready[file.name].size)
    found, wanted = dict(ready), [(file, partials[file.name]) for file in snapshot.files if file.name not in ready]
    with closing(fetch_several(wanted, HostPolicy(settings), settings, checkpoint, on_bytes, throttle)) as coming:
        for file, fetched in coming:
            refetched += fetched.refetched
            found[file.name], partial = _manifest_file(file, fetched), partials[file.name]
            if partial.stat().st_nlink > 1:
                shared += fetched.size
            elif twins is not None:
                twins.merge(partial, found[file.name], checkpoint)
    return [found[file.name] for file in snapshot.files], {"refetchedBytes": refetched, "sharedBytes": shared}


def _manifest_file(file: RemoteFile, fetched: Fetched) -> ManifestFile:
    promised = file.sha256 is not None or file.md5 is not None or file.git_sha1 is not None
    return ManifestFile(
        file.name, fetched.size, fetched.sha256, fetched.chunks, fetched.etag, promised, fetched.unverified
    )


def recorded_before(work: Work, installation: Installation | None) -> dict[str, Any] | None:
    """What an attempt before this one wrote down and could not report; what was left to do after that is done now."""
    if installation is None or installation.recorded_by != work.job_id:
        return None
    after_change(work.services, installation.model_id)
    return {"revision": installation.revision, "size": installation.size, "files": installation.files}


def record(work: Work, manifest: Manifest, entry: LockedModel | None = None, *, newest: bool = True) -> dict[str, Any]:
    """Write down what the store has published.

    Args:
        entry: of a lock; the model is entered with its settings, or gets them.
        newest: it is what its source offers now.
    """
    services, size = work.services, sum(file.size for file in manifest.files)
    folder = services.layout.published(manifest.model_type, manifest.model_id, manifest.revision)
    with storage():
        facts = read_facts(files_of(folder)).to_dict()
    row = Installation(
        model_id=manifest.model_id, model_type=manifest.model_type, revision=manifest.revision,
        state=InstallationState.PUBLISHED, size=size, files=len(manifest.files), integrity=1.0,
        published_at=0.0, verified_at=0.0, came_from=manifest.came_from, unverified=manifest.unverified,
        recorded_by=work.job_id, store=services.store, path=str(folder), facts=facts,
    )  # fmt: skip
    with services.database.session() as session:
        if entry is not None:
            locks.settle(session, entry)
        catalog.publish(session, row, newest=newest and entry is None)
        locks.put_files(session, manifest.model_id, manifest.revision, manifest.digests())
    reached("download.recorded")
    services.events.publish("model.state", modelId=manifest.model_id, status="available", revision=manifest.revision)
    after_change(services, manifest.model_id)
    return {"revision": manifest.revision, "size": size, "files": len(manifest.files)}
