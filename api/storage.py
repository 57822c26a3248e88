"""What the store holds and which revisions there are, as they go over the wire."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from api.views import View, moment
from shared.db.reports import StoreReport
from shared.db.tables import Installation
from shared.errors import Unavailable


class ModelSize(View):
    """What one model takes. `own_bytes` leaves out what an earlier one in this list has counted."""

    model_id: str
    model_type: str
    size: int
    own_bytes: int
    revisions: int


class Partial(View):
    """A revision that is not whole yet; its download goes on from there."""

    model_id: str
    revision: str
    size: int


class Folder(View):
    """A revision that the registry and the disk do not agree on. Nothing deletes it by itself."""

    model_type: str
    model_id: str
    revision: str
    size: int | None = None


class TrashEntry(View):
    """Something that left the store and may come back until its grace time ends."""

    id: str
    model_id: str
    model_type: str | None = None
    revision: str
    size: int = Field(description="Bytes that are freed when it goes: what other models share is not counted.")
    restorable: bool
    trashed_at: datetime
    goes_at: datetime


class Trash(View):
    entries: list[TrashEntry]
    size: int


class StoreView(View):
    """One store as a worker last saw it."""

    store: str
    node: str
    there: bool = Field(description="False: its disk is not mounted, and this is what was known before.")
    measured_at: datetime
    disk_total: int
    disk_used: int
    disk_free: int
    models: list[ModelSize]
    partials: list[Partial]
    orphans: list[Folder] = Field(description="Folders that no model of the registry has.")
    rows_without_folder: list[Folder] = Field(description="Revisions of the registry that are not on the disk.")


class StorageInfo(View):
    """All stores together, and each by itself. Sizes are bytes; what several models share is counted once."""

    disk_total: int
    disk_used: int
    disk_free: int
    models_size: int
    shared_bytes: int = Field(description="Bytes that are saved because equal files are kept once.")
    partials_size: int
    trash_size: int
    by_type: dict[str, int]
    stores: list[StoreView]


class BundleFile(View):
    """A file in the folder of bundles; whether it is whole, an import finds out."""

    name: str
    size: int
    written_at: datetime


class BundlesView(View):
    """`folder` is a path on the machine of the io worker."""

    folder: str
    bundles: list[BundleFile]


class UpdateView(View):
    """Which revisions of a model there are."""

    model_id: str
    installed_revision: str
    previous_revision: str | None = Field(None, description="Kept for a rollback.")
    latest_revision: str | None = Field(None, description="What its source offered when it was last asked.")
    update_available: bool
    checked_at: datetime | None = None


TOTALS = ("diskTotal", "diskUsed", "diskFree", "modelsSize", "sharedBytes", "partialsSize", "trashSize")


def view_storage(reports: list[StoreReport]) -> StorageInfo:
    by_type: Counter[str] = Counter()
    for row in reports:
        by_type.update(row.report.get("byType", {}))
    totals = {name: sum(row.report.get(name, 0) for row in reports) for name in TOTALS}
    return StorageInfo.model_validate(
        {**totals, "byType": dict(by_type), "stores": [_view_store(row) for row in reports]}
    )


def view_trash(reports: list[StoreReport]) -> Trash:
    entries = [_view_entry(entry) for row in reports for entry in row.report.get("trashed", [])]
    return Trash(entries=entries, size=sum(entry.size for entry in entries))


def view_bundles(reports: list[StoreReport]) -> BundlesView:
    """Raises: Unavailable, when no worker has looked yet."""
    found = next((row.report["bundles"] for row in reports if "bundles" in row.report), None)
    if found is None:
        raise storage_unknown()
    files = [BundleFile.model_validate({**file, "writtenAt": moment(file["writtenAt"])}) for file in found["entries"]]
    return BundlesView(folder=found["folder"], bundles=files)


def storage_unknown() -> Unavailable:
    """No worker has looked yet."""
    return Unavailable(
        "storage_unknown", "No worker has looked at the store yet.",
        "An io worker does within a minute of its start.", None, 5.0,
    )  # fmt: skip


def view_update(row: Installation) -> UpdateView:
    return UpdateView(
        model_id=row.model_id, installed_revision=row.revision, previous_revision=row.previous_revision,
        latest_revision=row.latest_revision, checked_at=moment(row.update_checked_at),
        update_available=row.latest_revision not in (None, row.revision),
    )  # fmt: skip


def _view_store(row: StoreReport) -> StoreView:
    facts = {"models": row.report.get("byModel", []), **row.report}
    return StoreView.model_validate(
        {**facts, "store": row.store, "node": row.node, "there": row.there, "measuredAt": moment(row.measured_at)}
    )


def _view_entry(entry: dict[str, Any]) -> TrashEntry:
    times = {name: datetime.fromtimestamp(entry[name], UTC) for name in ("trashedAt", "goesAt")}
    return TrashEntry.model_validate({**entry, **times})
