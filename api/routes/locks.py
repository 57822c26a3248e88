"""`models.lock`: written, compared, applied; and bundles, which carry locked models to where there is no internet."""

from typing import Annotated

from fastapi import APIRouter, Query

from api import locks
from api.bodies import BundleBody, ImportBody, LockBody
from api.deps import AskingDep, FrontDep
from api.drift import Drift, Plan
from api.storage import BundlesView, view_bundles
from api.views import Accepted, PriorityName
from shared.contract import BundleName
from shared.contracts import Bundle, Unbundle
from shared.db import upkeep
from shared.states import Priority

router = APIRouter(prefix="/models", tags=["locks"])

Prune = Annotated[bool, Query(description="Also: what is on disk and not in the lock goes to the trash.")]


@router.get("/lock", summary="The lock of what is installed")
def get_lock(
    front: FrontDep,
    model: Annotated[list[str], Query(max_length=1000, description="These alone; all where none is named.")] = [],  # noqa: B006 - FastAPI copies it
) -> locks.LockView:
    """Source, pinned revision, settings and every file with its sha256; and what could not be locked, and why."""
    return locks.write(front, model)


@router.post("/lock/plan", summary="What applying a lock would do")
def plan_lock(front: FrontDep, lock: LockBody, prune: Prune = False) -> Plan:
    """The body is the content of `models.lock`. Nothing is changed."""
    return locks.planned(front, lock, prune=prune)


@router.post("/lock/drift", summary="In what this place differs from a lock")
def get_drift(front: FrontDep, lock: LockBody) -> Drift:
    """The body is the content of `models.lock`. Files count as they were last proven; a verify proves them anew."""
    return locks.drifted(front, lock)


@router.post("/lock/apply", status_code=202, summary="Bring this place in line with a lock")
def apply_lock(
    front: FrontDep,
    lock: LockBody,
    prune: Prune = False,
    plan: Annotated[
        str | None, Query(max_length=64, description="Id of the plan that you have seen: no other one is carried out.")
    ] = None,
    priority: PriorityName | None = None,
) -> locks.Applied:
    """Settings are changed at once, downloads and removals are jobs. Every file is held to the lock's sha256."""
    chosen = Priority[priority] if priority else None
    return locks.apply(front, lock, prune=prune, plan_id=plan, priority=chosen)


@router.get("/bundles", summary="Bundles")
def list_bundles(front: FrontDep) -> BundlesView:
    """The folder that bundles are written to and read from, and what a worker last saw in it."""
    with front.database.reading() as session:
        return view_bundles(upkeep.reports(session))


@router.post("/bundles", status_code=202, summary="Put models into a bundle")
async def export_bundle(asking: AskingDep, front: FrontDep, body: BundleBody) -> Accepted:
    """One file with their lock and all their files, each proven on the way. The result tells its place and sha256."""
    locks.write(front, body.models)
    return await asking.accept(Bundle, None, name=body.name, models=body.models)


@router.post("/bundles/{name}/import", status_code=202, summary="Take models out of a bundle")
async def import_bundle(asking: AskingDep, name: BundleName, body: ImportBody | None = None) -> Accepted:
    """The file must lie in the folder of bundles. All of it is proven before any model is there to be used."""
    body = body or ImportBody()
    return await asking.accept(Unbundle, None, name=name, sha256=body.sha256, node=body.node)
