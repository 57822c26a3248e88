"""Getting hold of models: ask for one, ask its source for it, have all of them brought."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.bodies import EnsureBody, RequestBody, SourceBody
from api.deps import AskingDep, FrontDep
from api.request import RequestResult, requested
from api.views import Accepted, PriorityName, View
from shared.contracts import Ensure, SourceCheck
from shared.db import ensuring
from shared.order import Bring, Policy
from shared.refs import Ref, SourceKind, checked, scan_root
from shared.states import Priority

router = APIRouter(prefix="/models", tags=["availability"])

SHOWN = 1000
"""Steps that are told one by one."""


class StepView(View):
    model_id: str
    bring: Bring
    priority: PriorityName
    why: str
    size: int | None = None


class OrderView(View):
    """What would be brought, the first first."""

    policy: Policy
    repairs: int
    downloads: int
    steps: list[StepView]


@router.post("/{model_id}/request", summary="Ask for a model")
def request(front: FrontDep, model_id: str, body: RequestBody | None = None) -> RequestResult:
    """Is it ready; if not, what happens next, how long that takes, what is ready now instead, and what you have to do.

    What is missing is fetched, what is damaged is repaired, what is on disk is loaded, unless `start` is false.
    """
    asked = body or RequestBody()
    priority = Priority[asked.priority] if asked.priority else None
    loads = front.settings.runners.load_on_use
    return requested(front.ledger, model_id, start=asked.start, priority=priority, loads_on_use=loads)


@router.post("/{model_id}/source/check", status_code=202, summary="Ask a model's source whether it has it")
async def check_model(asking: AskingDep, model_id: str) -> Accepted:
    """Does it exist, is it gated, how large is it; nothing is fetched. The answer stays with the model's status."""
    return await asking.accept(SourceCheck, model_id)


@router.post("/source/check", status_code=202, summary="Ask a source for a model that is not entered")
async def check_source(front: FrontDep, asking: AskingDep, body: SourceBody) -> Accepted:
    """Does it exist, is it gated, how large is it; nothing is fetched, and nothing entered."""
    checked(Ref(body.source, body.source_url, body.revision))
    if body.source is SourceKind.FILE:
        scan_root(body.source_url, front.settings.sources.scan_roots)
    return await asking.accept(
        SourceCheck, None, source=body.source, source_url=body.source_url, revision=body.revision
    )


@router.get("/ensure", summary="The order in which models would be brought")
def order(
    front: FrontDep, policy: Annotated[Policy, Query(description="Which models are to be there.")] = Policy.WANTED
) -> OrderView:
    """Damaged ones first, then missing ones by priority and use."""
    steps = ensuring.steps(front.database, policy)
    repairs = sum(step.bring is Bring.REPAIR for step in steps)
    return OrderView(
        policy=policy, repairs=repairs, downloads=len(steps) - repairs,
        steps=[
            StepView(
                model_id=step.model_id, bring=step.bring, priority=step.priority.name, why=step.why, size=step.size
            )
            for step in steps[:SHOWN]
        ],
    )  # fmt: skip


@router.post("/ensure", status_code=202, summary="Have damaged and missing models brought")
async def ensure(asking: AskingDep, body: EnsureBody | None = None) -> Accepted:
    """One job for each, in the order that GET tells."""
    return await asking.accept(Ensure, None, policy=body.policy if body else Policy.WANTED)
