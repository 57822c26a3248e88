"""Memory: which model serves its type, and the change from one to another."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import ValidationError

from api.bodies import FallbackBody, ModelBody, RunBody
from api.deps import AskingDep, Front, FrontDep
from api.plan import PlanId
from api.routes.models import check_type
from api.servers import ServersView, servers_now
from api.views import Accepted, ActiveView, ModelView, view_model
from shared.contracts import Load, Run, Switch, Unload, invalid_arguments
from shared.db import catalog, names
from shared.db.facts import Facts
from shared.db.tables import Model
from shared.errors import Conflict, Invalid, NotFound
from shared.refs import SourceKind
from shared.states import Priority

router = APIRouter(prefix="/models", tags=["lifecycle"])


@router.post("/activate", status_code=202, summary="Make a model serve its type")
async def activate(asking: AskingDep, body: ModelBody) -> Accepted:
    """Load it, prove it with a real inference, route its type to it; the one before is drained, never cut."""
    return await asking.accept(Switch, body.model_id, _loadable)


@router.post("/{model_id}/switch", status_code=202, summary="Switch a type to this model")
async def switch(
    asking: AskingDep,
    model_id: str,
    clear_gpu: Annotated[
        bool, Query(description="Only true: the model before leaves memory once it has drained.")
    ] = True,
    plan: PlanId = None,
) -> Accepted:
    """The same as activate, by path: new one ready first, then the route, then the old one's last requests."""
    if not clear_gpu:
        raise Invalid("unsupported_option", "The model before always leaves memory.", "Leave clear_gpu out.")
    return await asking.accept(Switch, model_id, _loadable, plan=plan)


@router.post("/{model_id}/load", status_code=202, summary="Bring a model into memory")
async def load(asking: AskingDep, model_id: str) -> Accepted:
    """Beside what is there, and what serves its type goes on serving it; requests that name the model reach it."""
    return await asking.accept(Load, model_id, _loadable)


@router.post("/{model_id}/reload", status_code=202, summary="Start a model anew")
async def reload(asking: AskingDep, model_id: str) -> Accepted:
    """Its new runner takes over before the old one stops, so nobody is cut; after a change of settings, or of files."""
    return await asking.accept(Load, model_id, _to_start_anew, fresh=True)


@router.post("/{model_id}/run", status_code=202, summary="Ask a model in a job")
async def run(asking: AskingDep, model_id: str, body: RunBody) -> Accepted:
    """A model id, or a type. For batches: LOW where nothing else is said, kept in the ledger, its answer in the result.

    It waits for its model, and loads it where it is not in memory; a swap delays it and does not cut it.
    """
    try:
        Run(model_id=model_id, path=body.path, request=body.request)
    except ValidationError as error:
        raise invalid_arguments(Run.kind, error) from error
    priority = Priority[body.priority] if body.priority else None
    return await asking.accept(
        Run, model_id, _known, priority=priority, registered=False, path=body.path, request=body.request
    )


def _known(front: Front, name: str) -> None:
    with front.database.reading() as session:
        if name not in catalog.types(session):
            catalog.get_model(session, names.resolved(session, name))


@router.post("/{model_id}/pin", summary="Keep a model in memory")
def pin(front: FrontDep, model_id: str) -> ModelView:
    """Nothing puts it out but a person: no idle time, no other model's need, no switch to another one.

    One whose runner ends comes back by itself. Into memory it comes by a load.
    """
    with front.database.reading() as session:
        catalog.get_model(session, model_id)
        if catalog.installation(session, model_id) is None:
            hint = f"Download and load it first: modelyard pull {model_id}, modelyard load {model_id}; then pin it."
            raise Conflict("model_not_installed", f"Model {model_id!r} is not on disk.", hint)
    return _pinned(front, model_id, pinned=True)


@router.post("/{model_id}/unpin", summary="Let a model make room again")
def unpin(front: FrontDep, model_id: str) -> ModelView:
    """It stays where it is until somebody needs its room."""
    return _pinned(front, model_id, pinned=False)


@router.put("/{model_id}/fallback", summary="What a model falls back to")
def fallback(front: FrontDep, model_id: str, body: FallbackBody) -> ModelView:
    """Steps that are tried in order where it does not fit, or does not load: fewer tokens of context, fewer layers on
    the GPU or none, numbers of 16 bits, another model of its type.

    Without steps it is strict. Every answer, job and event says what served; a plan says it before.
    """
    longest = front.settings.runners.context_length
    for step in body.steps:
        if step.context_length is not None and step.context_length >= longest:
            raise Invalid(
                "unfit_fallback", f"{step.context_length} tokens are not fewer than {longest}, as models have here.",
                "Name fewer; MODELYARD_RUNNERS__CONTEXT_LENGTH is what they have.",
            )  # fmt: skip
    with front.database.session() as session:
        steps = [step.stored() for step in body.steps]
        model = catalog.change_model(session, model_id, fallback=steps)
        for step in body.steps:
            if step.model is not None:
                _stands_in(model, catalog.get_model(session, step.model))
            elif model.source == SourceKind.OLLAMA:
                hint = "Name another model of the same type; OLLAMA_CONTEXT_LENGTH, set for Ollama, is for all of its."
                raise Invalid("unfit_fallback", f"How {model.id!r} runs is Ollama's to choose.", hint)
        return view_model(model, Facts(session, [model_id]))


def _stands_in(model: Model, other: Model) -> None:
    if other.id == model.id or other.type != model.type:
        hint = "Name another model of its type, or fewer tokens: {contextLength}; context=2048 on the command line."
        raise Invalid(
            "unfit_fallback", f"{other.id!r}, of type {other.type!r}, cannot stand in for {model.id!r}.", hint
        )


def _pinned(front: Front, model_id: str, *, pinned: bool) -> ModelView:
    with front.database.session() as session:
        model = catalog.change_model(session, model_id, pinned=pinned)
        return view_model(model, Facts(session, [model_id]))


@router.post("/deactivate/{model_id}", status_code=202, summary="Take a model out of memory")
async def deactivate(asking: AskingDep, model_id: str) -> Accepted:
    """Its requests end first, then its runner stops and its memory comes back."""
    return await asking.accept(Unload, model_id, _in_memory)


@router.get("/servers", summary="The servers that hold models")
def servers(front: FrontDep) -> ServersView:
    """One for each model that is in memory or meant to be, and what failed to start within the last hour."""
    return servers_now(front.database)


@router.get("/active/{model_type}", summary="Who serves a type")
def active(front: FrontDep, model_type: str) -> ActiveView:
    """The model that requests for this type reach now."""
    with front.database.reading() as session:
        serving = catalog.active(session, model_type)
        if serving is None:
            check_type(model_type, catalog.types(session))
            raise NotFound(
                "no_active_model",
                f"No model of type {model_type!r} is active.",
                "Activate one: modelyard activate MODEL.",
            )
    return ActiveView.model_validate(serving, from_attributes=True)


def _loadable(front: Front, model_id: str) -> None:
    with front.database.reading() as session:
        catalog.installed(session, model_id)


def _to_start_anew(front: Front, model_id: str) -> None:
    with front.database.reading() as session:
        catalog.installed(session, model_id)
        if not catalog.residencies(session, [model_id]):
            hint = f"Load it: modelyard load {model_id}."
            raise Conflict("model_not_loaded", f"Model {model_id!r} is not in memory.", hint)


def _in_memory(front: Front, model_id: str) -> None:
    with front.database.reading() as session:
        if not catalog.residencies(session, [model_id]):
            raise Conflict("model_not_loaded", f"Model {model_id!r} is not in memory.", "There is nothing to do.")
