"""The registry's other faces: detailed status, summary, tiers, types, names; and what people may say of a model."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query

from api import registry, status
from api.bodies import BaseBody, ConfigBody, EnabledBody, NamesBody, ThinkingBody, TierBody
from api.cursor import Cursor, decode_cursor, encode_cursor
from api.deps import Front, FrontDep
from api.entries import RegistryBody
from api.filters import Filters
from api.registry import Imported, RegistryFile, RegistryView, TypesView
from api.routes.models import MOST, PAGE
from api.status import ModelStatus, StatusPage
from api.summary import Summary
from api.views import ModelPage, ModelView, view_model
from shared.db import bases, catalog, listing, names
from shared.db.facts import Facts
from shared.states import Tier

router = APIRouter(prefix="/models", tags=["registry"])


@router.get("/status", summary="The detailed status of models")
def all_statuses(front: FrontDep, wanted: Filters, cursor: Cursor = None, limit: PAGE = 100) -> StatusPage:
    """By id: can it be used, what is under way, how whole it is, how much it is used, is there a newer one."""
    return _statuses(front, wanted, cursor, limit)


@router.get("/status/{name}", summary="The detailed status of a model, or of a type")
def one_status(front: FrontDep, name: str, cursor: Cursor = None, limit: PAGE = 100) -> ModelStatus | StatusPage:
    """A model by its id, an alias or a mode; of a type, the page of its models."""
    with front.database.reading() as session:
        model_id = names.resolved(session, name)
        is_type = not catalog.exists(session, model_id) and name in {*catalog.types(session), *front.types.by_name}
    if is_type:
        return _statuses(front, listing.Wanted(type=name), cursor, limit)
    return status.status_of(front.database, model_id)


def _statuses(front: Front, wanted: listing.Wanted, cursor: str | None, limit: int) -> StatusPage:
    after = decode_cursor(cursor, str)[0] if cursor else None
    found = status.statuses(front.database, wanted, after, limit)
    more = encode_cursor(found[-1].model_id) if len(found) == limit else None
    return StatusPage(models=found, next_cursor=more)


@router.get("/summary", summary="All models and the machine, in figures")
def summarise(front: FrontDep) -> Summary:
    """Models by status, type and tier, bytes, devices, jobs and health; what nobody has told yet is null.

    As it was within the last second: `at` says when it was counted.
    """
    return front.summaries.latest()


@router.get("/registry", summary="The registry")
def entries(front: FrontDep, cursor: Cursor = None, limit: PAGE = MOST) -> RegistryView:
    """Its entries by id, in few and large pages; GET /models tells more of each."""
    return registry.page(front.database, decode_cursor(cursor, str)[0] if cursor else None, limit)


@router.get("/registry/export", summary="Export the registry", response_model_exclude_defaults=True)
def export(front: FrontDep) -> RegistryFile:
    """As the file that other systems read and write: in snake_case. POST /models/registry/import takes it."""
    return registry.exported(front.database)


@router.post("/registry/import", summary="Import a registry")
def take_in(
    front: FrontDep,
    body: RegistryBody,
    after: BackgroundTasks,
    replace: Annotated[bool, Query(description="What is here already gets what the file says of it.")] = False,
    dry_run: Annotated[bool, Query(alias="dryRun", description="Only tell what would change.")] = False,
) -> Imported:
    """Enter its models, all or none of them; nothing is downloaded, and files at a `local_path` are not looked for."""
    done = registry.take_in(front.database, body, front.types, replace=replace, dry_run=dry_run)
    if not dry_run:
        for model_id in done.added:
            after.add_task(front.ledger.events.publish, "model.added", modelId=model_id)
    return done


@router.get("/tiers/{tier}", summary="Models of a tier")
def of_tier(front: FrontDep, tier: Tier, cursor: Cursor = None, limit: PAGE = 100) -> ModelPage:
    """By id. It follows from the number of parameters (below 5 billion fast, from 20 billion powerful), or is set."""
    after = decode_cursor(cursor, str)[0] if cursor else None
    with front.database.reading() as session:
        models = listing.page(session, listing.Wanted(tier=tier), after, limit)
        facts = Facts(session, [model.id for model in models])
    more = encode_cursor(models[-1].id) if len(models) == limit else None
    return ModelPage(models=[view_model(model, facts) for model in models], next_cursor=more)


@router.get("/types", summary="Types of models")
def types(front: FrontDep) -> TypesView:
    """Those of the catalogue and those that models have: what each is for, and what its configuration may say."""
    return registry.types_now(front.database, front.types)


@router.get("/aliases", summary="Other names of models")
def aliases(front: FrontDep) -> dict[str, str]:
    """Each alias, and the id of the model that it stands for."""
    with front.database.reading() as session:
        return names.aliases(session)


@router.get("/modes", summary="Modes of generation")
def modes(front: FrontDep) -> registry.ModesView:
    """Each mode, the models that do it, and the one that the mode stands for now."""
    return registry.modes_now(front.database)


@router.put("/{model_id}/tier", summary="Say which tier a model is of")
def set_tier(front: FrontDep, model_id: str, body: TierBody) -> ModelView:
    """Null leaves it to what its files tell."""
    return _changed(front, model_id, tier=body.tier, tier_set=body.tier is not None)


@router.put("/{model_id}/thinking", summary="Say whether a model thinks")
def set_thinking(front: FrontDep, model_id: str, body: ThinkingBody) -> ModelView:
    """Null leaves it to what its chat template tells."""
    return _changed(front, model_id, thinking=body.thinking, thinking_set=body.thinking is not None)


@router.put("/{model_id}/enabled", summary="Enable or disable a model")
def set_enabled(front: FrontDep, model_id: str, body: EnabledBody) -> ModelView:
    """One that is disabled is not loaded by requests, and no mode stands for it; it stays where it is."""
    return _changed(front, model_id, enabled=body.enabled)


@router.put("/{model_id}/config", summary="Configure a model")
def set_config(front: FrontDep, model_id: str, body: ConfigBody) -> ModelView:
    """In place of the configuration that it has; every field is checked by the model's type (GET /models/types)."""
    with front.database.reading() as session:
        model_type = catalog.get_model(session, model_id).type
    return _changed(front, model_id, config=front.types.checked(model_type, body.config))


@router.put("/{model_id}/names", summary="Give a model other names")
def set_names(front: FrontDep, model_id: str, body: NamesBody) -> ModelView:
    """Aliases, each its alone, and modes of generation, which others may have too: requests may name it so."""
    with front.database.session() as session:
        model = catalog.hold_model(session, model_id)
        names.give(session, model_id, aliases=body.aliases, modes=body.modes)
        return view_model(model, Facts(session, [model_id]))


@router.put("/{model_id}/base", summary="Say which model an adapter is for")
def set_base(front: FrontDep, model_id: str, body: BaseBody) -> ModelView:
    """Refused where the adapter's own files say that it is for another."""
    with front.database.session() as session:
        if body.base_model is not None:
            bases.check(session, model_id, body.base_model)
        model = catalog.change_model(session, model_id, base_model=body.base_model)
        return view_model(model, Facts(session, [model_id]))


def _changed(front: Front, model_id: str, **values: object) -> ModelView:
    with front.database.session() as session:
        model = catalog.change_model(session, model_id, **values)
        catalog.note_facts(session, model_id)
        session.refresh(model)
        return view_model(model, Facts(session, [model_id]))
