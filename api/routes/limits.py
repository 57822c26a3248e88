"""How much downloads may take, changed while they run."""

import structlog
from fastapi import APIRouter

from api.deps import Front, FrontDep
from api.limits import LimitBody, LimitName, LimitsView, view_limit
from shared.db import limits

log = structlog.get_logger()
router = APIRouter(prefix="/limits", tags=["limits"])


@router.get("", summary="Limits on downloads")
def list_limits(front: FrontDep) -> LimitsView:
    """All of them, and which count now. A download keeps every one that concerns it."""
    return _view(front)


@router.put("/{name}", summary="Set a limit")
def put_limit(front: FrontDep, name: LimitName, body: LimitBody) -> LimitsView:
    """A new one, or another in the place of the one of that name; running downloads keep it within a second."""
    with front.database.session() as session:
        limits.put(session, body.limit(name))
    front.ledger.let_in()
    log.info("limit.set", limit=name, **body.model_dump(mode="json", exclude_none=True))
    return _view(front)


@router.delete("/{name}", summary="Clear a limit")
def clear_limit(front: FrontDep, name: str) -> LimitsView:
    """Downloads go on as the others allow."""
    with front.database.session() as session:
        limits.clear(session, name)
    front.ledger.let_in()
    log.info("limit.cleared", limit=name)
    return _view(front)


def _view(front: Front) -> LimitsView:
    with front.database.reading() as session:
        found, now = limits.every(session), limits.in_force(session)
    return LimitsView(limits=[view_limit(limit, in_force=limit in now) for limit in found])
