"""How often models are used."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.bodies import PriorityBody, UseBody
from api.deps import FrontDep
from api.usage import ModelUsage, UsagePage, told
from api.views import ModelView, view_model
from shared.db import catalog, usage
from shared.db.facts import Facts
from shared.db.usage import KEEP_DAYS, Use
from shared.states import Priority

router = APIRouter(tags=["usage"])

Days = Annotated[int, Query(ge=1, le=KEEP_DAYS, description="Today and so many days before, less one; in UTC.")]


@router.get("/usage", summary="How often models are used")
def all_usage(front: FrontDep, days: Days = KEEP_DAYS) -> UsagePage:
    """Of every model that was used, by day, and of every type: what passed through the gateway, or was reported."""
    return told(front.database, days)


@router.get("/models/{model_id}/usage", summary="How often a model is used")
def model_usage(front: FrontDep, model_id: str, days: Days = KEEP_DAYS) -> ModelUsage:
    """Its uses by day, how long its answers took, and when it was last used."""
    return told(front.database, days, model_id).models[0]


@router.post("/models/{model_id}/usage", status_code=201, summary="Report a use of a model")
def report(front: FrontDep, model_id: str, body: UseBody) -> ModelUsage:
    """For programs that use a model's files past the gateway; it counts like an answer that passed through it."""
    with front.database.session() as session:
        catalog.get_model(session, model_id)
        usage.record(session, [Use(model_id, body.seconds, body.failed)])
    return told(front.database, KEEP_DAYS, model_id).models[0]


@router.put("/models/{model_id}/priority", summary="Set how much a model matters")
def prioritise(front: FrontDep, model_id: str, body: PriorityBody) -> ModelView:
    """What is cleaned up last and fetched first. Null gives it back to its uses, which never make a model CRITICAL."""
    said = Priority[body.priority] if body.priority is not None else None
    with front.database.session() as session:
        model = catalog.change_model(session, model_id, priority=said)
        return view_model(model, Facts(session, [model_id]))
