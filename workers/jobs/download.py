"""A model comes down: resolve, make room, fetch, prove, publish."""

from pathlib import Path
from typing import Any

from shared.contracts import Download
from shared.db import catalog
from shared.db.tables import Installation, Model
from shared.errors import Exhausted
from shared.points import reached
from shared.refs import Ref, SourceKind, checked
from shared.states import InstallationState
from workers.job import Services, Work, job
from workers.sources import source_of
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.policy import HostPolicy
from workers.sources.transfer import Fetched, fetch
from workers.store.essentials import check_essentials
from workers.store.manifest import Manifest, ManifestFile
from workers.store.publish import adopt, publish


@job(Download)
def download(args: Download, work: Work) -> dict[str, Any]:
    """Fetch what is missing of the model's newest allowed revision, and publish it."""
    services = work.services
    with services.database.reading() as session:
        model = catalog.get_model(session, args.model_id)
        before = catalog.installation(session, args.model_id)
    services.layout.check_marker()
    with services.layout.lock(model.id):
        work.report("resolving")
        snapshot = resolve(services, model)
        reached("download.resolved")
        there = None if args.force_redownload else _there(services, model, before, snapshot.revision)
        return there or fetch_and_publish(work, model, snapshot)


def _there(services: Services, model: Model, before: Installation | None, revision: str) -> dict[str, Any] | None:
    """The revision is published already; also where a crash came between the rename and the row."""
    if before is not None and before.revision == revision:
        whole = before.state == InstallationState.PUBLISHED
        return {"revision": revision, "size": before.size, "alreadyPresent": True} if whole else None
    manifest = adopt(services.layout, model.type, model.id, revision)
    return {**record(services, manifest), "alreadyPresent": True} if manifest else None


def resolve(services: Services, model: Model) -> Snapshot:
    """Ask the model's source for the files of the wanted revision."""
    ref = checked(Ref(SourceKind(model.source), model.source_url, model.revision))
    return source_of(ref.kind, services.settings.sources).resolve(ref, model.checksum)


def fetch_and_publish(work: Work, model: Model, snapshot: Snapshot) -> dict[str, Any]:
    """Bring every file of the snapshot to staging, prove it, publish all of it by one rename, record it."""
    services = work.services
    staging = services.layout.staging(model.id, snapshot.revision)
    partials = {file.name: services.layout.partial(model.id, snapshot.revision, file.name) for file in snapshot.files}
    _make_room(services, snapshot, partials)
    files, refetched = _fetch_all(work, snapshot, partials)
    reached("download.fetched")
    problems = check_essentials(staging, partials)
    for problem in problems:
        raise problem.error()
    work.report("publishing", fraction=1.0)
    work.confirm()
    reached("download.confirmed")
    source = f"{model.source}:{model.source_url}"
    manifest = Manifest.of(model.id, model.type, snapshot.revision, source, files, snapshot.skipped)
    publish(services.layout, manifest, partials)
    reached("download.published")
    return {**record(services, manifest), "refetchedBytes": refetched, "skipped": list(snapshot.skipped)}


def _fetch_all(work: Work, snapshot: Snapshot, partials: dict[str, Path]) -> tuple[list[ManifestFile], int]:
    settings = work.services.settings.sources
    policy = HostPolicy(settings)
    total, done, refetched = snapshot.size, 0, 0
    sizes = {file.name: file.size for file in snapshot.files}
    proven = dict.fromkeys(sizes, 0)
    files: list[ManifestFile] = []

    def parts(current: str) -> tuple[dict[str, Any], ...]:
        shown = [name for name in sizes if proven[name] or name == current][-20:]
        return tuple({"name": name, "bytesDone": proven[name], "bytesTotal": sizes[name]} for name in shown)

    for file in snapshot.files:

        def on_bytes(count: int, name: str = file.name) -> None:
            nonlocal done
            done += count
            proven[name] += count
            work.report("downloading", done=done, total=total, parts=parts(name))

        work.checkpoint()
        on_bytes(0)
        fetched = fetch(file, partials[file.name], policy, settings, work.checkpoint, on_bytes)
        refetched += fetched.refetched
        files.append(_manifest_file(file, fetched))
    return files, refetched


def _manifest_file(file: RemoteFile, fetched: Fetched) -> ManifestFile:
    promised = file.sha256 is not None or file.md5 is not None or file.git_sha1 is not None
    return ManifestFile(file.name, fetched.size, fetched.sha256, fetched.chunks, fetched.etag, promised)


def _make_room(services: Services, snapshot: Snapshot, partials: dict[str, Path]) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    have = sum(path.stat().st_blocks * 512 for path in partials.values() if path.exists())
    need = max((snapshot.size or 0) - have, 0) + services.settings.store.reserve_bytes
    free = services.layout.free_bytes()
    if free < need:
        raise Exhausted(
            "insufficient_space",
            f"The download needs {need:,} bytes with the reserve, and the store's disk has {free:,} free.",
            "Free some space, point MODELYARD_STORE__ROOT at a larger disk, or lower MODELYARD_STORE__RESERVE_BYTES.",
            {"needBytes": need, "freeBytes": free},
        )


def record(services: Services, manifest: Manifest) -> dict[str, Any]:
    """Write down what the store has published."""
    size = sum(file.size for file in manifest.files)
    row = Installation(
        model_id=manifest.model_id, model_type=manifest.model_type, revision=manifest.revision,
        state=InstallationState.PUBLISHED, size=size, files=len(manifest.files), integrity=1.0,
        published_at=0.0, verified_at=0.0,
        path=str(services.layout.published(manifest.model_type, manifest.model_id, manifest.revision)),
    )  # fmt: skip
    with services.database.session() as session:
        catalog.publish(session, row)
    reached("download.recorded")
    services.events.publish("model.state", modelId=manifest.model_id, status="available", revision=manifest.revision)
    return {"revision": manifest.revision, "size": size, "files": len(manifest.files)}
