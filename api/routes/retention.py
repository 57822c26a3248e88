"""What may leave the disk, by which policy, and having it leave."""

import structlog
from fastapi import APIRouter

from api.cursor import Cursor, decode_cursor
from api.deps import AskingDep, Front, FrontDep
from api.retention import CleanupBody, CleanupView, Place, RetentionBody, RetentionView, view_decision, view_policy
from api.routes.models import MOST, PAGE
from api.views import Accepted
from shared.contracts import Cleanup
from shared.db import retention
from shared.retention import decide

log = structlog.get_logger()
router = APIRouter(tags=["retention"])


@router.get("/retention", summary="The retention policy")
def get_policy(front: FrontDep) -> RetentionView:
    """Which models may leave the disk; docs/retention.md has it in words."""
    return _view(front)


@router.put("/retention", summary="Set the retention policy")
def put_policy(front: FrontDep, body: RetentionBody) -> RetentionView:
    """What is left out counts as the settings say; `{}` is the settings."""
    changes = body.changes()
    with front.database.session() as session:
        retention.change(session, changes)
    log.info("retention.changed", **changes)
    return _view(front)


@router.get("/cleanup", summary="What may leave the disk")
def recommendations(front: FrontDep, cursor: Cursor = None, limit: PAGE = MOST) -> CleanupView:
    """What a cleanup would do now, and what holds those that it would leave; nothing is touched.

    All pages are of the moment of the first one.
    """
    after = Place(*decode_cursor(cursor, float, int, float, str)) if cursor else None
    with front.database.reading() as session:
        retention.check_there(session)
        policy = retention.policy(session, front.settings.retention)
        world = retention.look(session)
    at = world.now if after is None else after.at
    return view_decision(decide(policy, at, world.disk, world.models, world.shares), at, after, limit)


@router.post("/cleanup", status_code=202, summary="Clean up")
async def clean_up(front: FrontDep, asking: AskingDep, body: CleanupBody | None = None) -> Accepted:
    """What is recommended goes to the trash, from where it can come back; the job tells what went and what was left.

    With `dryRun` the job only tells what the same cleanup would do.
    """
    body = body or CleanupBody()
    with front.database.reading() as session:
        retention.check_there(session)
    return await asking.accept(Cleanup, None, dry_run=body.dry_run, models=body.models, node=body.node)


def _view(front: Front) -> RetentionView:
    with front.database.reading() as session:
        policy, changed = retention.policy(session, front.settings.retention), retention.changes(session)
    return view_policy(policy, changed, front.settings.retention.check_days)
