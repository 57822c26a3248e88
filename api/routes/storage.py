"""What the store holds, the trash, and newer and earlier revisions."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import AskingDep, Front, FrontDep
from api.storage import StorageInfo, Trash, UpdateView, storage_unknown, view_storage, view_trash, view_update
from api.views import Accepted
from shared.contracts import Restore, Rollback, Scrub, Update, UpdateCheck
from shared.db import catalog, upkeep
from shared.db.reports import StoreReport
from shared.db.tables import Installation
from shared.errors import Conflict

router = APIRouter(prefix="/models", tags=["storage"])


@router.get("/storage/info", summary="What the store holds")
def storage_info(front: FrontDep) -> StorageInfo:
    """Disk used and free, by type and by model, half-brought revisions, orphans; as a worker last saw it."""
    return view_storage(_reports(front))


@router.get("/trash", summary="The trash")
def list_trash(front: FrontDep) -> Trash:
    """What left the store and when it goes for good."""
    return view_trash(_reports(front))


@router.post("/trash/{entry}/restore", status_code=202, summary="Bring something back from the trash")
async def restore(asking: AskingDep, front: FrontDep, entry: str) -> Accepted:
    """Its files and its registry entry come back, and are proven."""
    with front.database.reading() as session:
        found = upkeep.trash_entry(session, entry)
    return await asking.accept(Restore, found["modelId"], registered=False, entry=entry)


@router.post("/{model_id}/scrub", status_code=202, summary="Scrub a model now")
async def scrub(asking: AskingDep, model_id: str) -> Accepted:
    """Prove it slowly, when nobody else wants the disk; what is damaged is quarantined and repaired."""
    return await asking.accept(Scrub, model_id, _check_installed)


@router.get("/{model_id}/update", summary="Is there a newer revision")
def get_update(front: FrontDep, model_id: str) -> UpdateView:
    """What is known since its source was last asked; POST to `/update/check` asks it now."""
    return view_update(_installed(front, model_id))


@router.post("/{model_id}/update/check", status_code=202, summary="Ask a model's source for a newer revision")
async def check_update(asking: AskingDep, model_id: str) -> Accepted:
    """The job's result tells what an update would fetch."""
    return await asking.accept(UpdateCheck, model_id, _check_installed)


@router.post("/{model_id}/update", status_code=202, summary="Update a model")
async def update(
    asking: AskingDep,
    model_id: str,
    accept_new_history: Annotated[
        bool, Query(description="Also where the source knows the installed revision no more: it may be another's now.")
    ] = False,
) -> Accepted:
    """Fetch what has changed; the installed revision serves until the new one is proven, and is kept for a rollback."""
    return await asking.accept(Update, model_id, _check_installed, accept_new_history=accept_new_history or None)


@router.post("/{model_id}/rollback", status_code=202, summary="Go back to the revision before")
async def rollback(asking: AskingDep, model_id: str) -> Accepted:
    """It is proven first; the present revision is kept in its place. A loaded model changes with its next switch."""
    return await asking.accept(Rollback, model_id, _check_previous)


def _reports(front: Front) -> list[StoreReport]:
    """Raises: Unavailable, when no worker has looked yet."""
    with front.database.reading() as session:
        found = upkeep.reports(session)
    if not found:
        raise storage_unknown()
    return found


def _installed(front: Front, model_id: str) -> Installation:
    with front.database.reading() as session:
        catalog.get_model(session, model_id)
        found = catalog.installation(session, model_id)
    if found is None:
        raise Conflict("model_not_installed", f"Model {model_id!r} is not on disk.", f"modelyard pull {model_id}")
    return found


def _check_installed(front: Front, model_id: str) -> None:
    _installed(front, model_id)


def _check_previous(front: Front, model_id: str) -> None:
    with front.database.reading() as session:
        upkeep.previous(session, model_id)
