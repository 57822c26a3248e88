"""How models are, and having them looked at."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import AskingDep, FrontDep
from api.health import HealthView, health_now
from api.routes.models import on_disk
from api.views import Accepted
from shared.contracts import HealthCheck
from shared.errors import Invalid
from shared.states import HealthLevel

router = APIRouter(prefix="/models", tags=["health"])


@router.get("/{model_id}/health", summary="How a model is")
def shown(front: FrontDep, model_id: str) -> HealthView:
    """As its last checks have left it, with their age: its scores, what was wrong, and what to do."""
    return health_now(front.database, model_id)


@router.post("/{model_id}/health", status_code=202, summary="Look how a model is")
async def look(
    asking: AskingDep,
    model_id: str,
    level: Annotated[
        HealthLevel,
        Query(description="cheap: its files and its runner; deep: every byte; live: it is asked something tiny."),
    ] = HealthLevel.CHEAP,
    load: Annotated[
        bool, Query(description="For live: have it loaded where it is not in memory; it stays there.")
    ] = False,
) -> Accepted:
    """What is found damaged is quarantined, and its repair goes first; nothing is ever deleted for it."""
    if load and level is not HealthLevel.LIVE:
        raise Invalid("unsupported_option", f"A {level} check asks nothing.", "Leave load out, or ask level=live.")
    return await asking.accept(HealthCheck, model_id, on_disk, level=level, load=load)
