"""The registry and its files: list, add, fetch, prove, repair, remove."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query, Response

from api.bodies import ChangeModel, DownloadBody, ScanBody
from api.cursor import Cursor, decode_cursor, encode_cursor
from api.deps import AskingDep, Front, FrontDep
from api.entries import AddModel
from api.filters import Filters
from api.views import Accepted, ModelPage, ModelView, view_model
from shared.contracts import Download, Remove, Repair, Scan, Verify
from shared.db import bases, catalog, listing, registry, retention
from shared.db.facts import Facts
from shared.errors import Conflict, Invalid
from shared.refs import Ref, SourceKind, checked, scan_root
from shared.states import Availability, Priority, ResidencyState, VerifyTier

router = APIRouter(prefix="/models", tags=["models"])

MOST = 500
PAGE = Annotated[int, Query(ge=1, le=MOST, description="Models a page.")]


@router.get("", summary="List models")
@router.get("/", include_in_schema=False)
def list_models(
    front: FrontDep,
    wanted: Filters,
    cursor: Cursor = None,
    limit: PAGE = 100,
) -> ModelPage:
    """The registry by id, with what is known of each model now."""
    after = decode_cursor(cursor, str)[0] if cursor else None
    with front.database.reading() as session:
        models = listing.page(session, wanted, after, limit)
        facts = Facts(session, [model.id for model in models])
    more = encode_cursor(models[-1].id) if len(models) == limit else None
    return ModelPage(models=[view_model(model, facts) for model in models], next_cursor=more)


@router.post("/add", status_code=201, summary="Add a model of your own")
def add_model(front: FrontDep, body: AddModel, response: Response, after: BackgroundTasks) -> ModelView:
    """Enter a model in the registry; nothing is downloaded yet."""
    if body.source is SourceKind.FILE:
        scan_root(body.source_url, front.settings.sources.scan_roots)
    with front.database.session() as session:
        if body.base_model is not None:
            bases.check(session, body.model_id, body.base_model)
        model = registry.add(session, body.entry(front.types))
        facts = Facts(session, [model.id])
        shown = view_model(model, facts)
    response.headers["Location"] = f"/api/v1/models/{model.id}"
    after.add_task(front.ledger.events.publish, "model.added", modelId=model.id)
    return shown


@router.post("/rescan", status_code=202, summary="Scan folders for models")
async def rescan(front: FrontDep, asking: AskingDep, body: ScanBody | None = None) -> Accepted:
    """Find models in your own folders and use them where they lie; the result lists what was added, changed and gone.

    Without paths every folder of MODEL_SCAN_PATH is scanned.
    """
    body = body or ScanBody()
    for path in body.paths:
        scan_root(path, front.settings.sources.scan_roots)
    return await asking.accept(Scan, None, paths=body.paths, node=body.node)


@router.post("/download", status_code=202, summary="Download a model")
async def download(asking: AskingDep, body: DownloadBody) -> Accepted:
    """Fetch, prove and publish its files. Asked for again, the live job is returned."""
    priority = Priority[body.priority] if body.priority else None
    return await asking.accept(
        Download, body.model_id, priority=priority, force_redownload=body.force_redownload, node=body.node
    )


@router.post("/validate/{model_id}", status_code=202, summary="Verify a model")
@router.post("/{model_id}/verify", status_code=202, summary="Verify a model")
async def verify(
    asking: AskingDep,
    model_id: str,
    tier: Annotated[
        VerifyTier,
        Query(description="stat: a look; blake3: every byte; source: every byte, also against what its source says."),
    ] = VerifyTier.BLAKE3,
) -> Accepted:
    """Prove its files again; what is damaged is quarantined. The job's result is the report."""
    return await asking.accept(Verify, model_id, on_disk, tier=tier)


@router.post("/{model_id}/repair", status_code=202, summary="Repair a model")
async def repair(asking: AskingDep, model_id: str) -> Accepted:
    """Verify it, and fetch again only what is missing or damaged."""
    return await asking.accept(Repair, model_id, on_disk)


@router.get("/{model_id}", summary="One model")
def get_model(front: FrontDep, model_id: str) -> ModelView:
    """Its registry entry, and what is known of it now."""
    with front.database.reading() as session:
        model = catalog.get_model(session, model_id)
        return view_model(model, Facts(session, [model_id]))


@router.patch("/{model_id}", summary="Change what a model's source is asked for")
def change(front: FrontDep, model_id: str, body: ChangeModel) -> ModelView:
    """Another revision, or another checksum of its one file; the next download fetches that. Null is the default."""
    with front.database.session() as session:
        model = catalog.change_model(session, model_id, **body.model_dump(exclude_unset=True))
        checked(Ref(SourceKind(model.source), model.source_url, model.revision))
        facts = Facts(session, [model_id])
        return view_model(model, facts)


@router.delete("/{model_id}", status_code=202, summary="Remove a model")
async def remove(
    asking: AskingDep,
    model_id: str,
    force: Annotated[bool, Query(description="Also where it is pinned, or another model needs it.")] = False,
) -> Accepted:
    """Its files go to the trash, its entry leaves the registry; refused while it is in memory, comes down or is needed.

    Needed is what is pinned, what another model falls back to and what an adapter is made for; the refusal names them.
    """
    return await asking.accept(Remove, model_id, not_in_use if force else removable, force=force or None)


BUSY = (Availability.DOWNLOADING, Availability.QUEUED, Availability.PAUSED, Availability.UPDATING)


def on_disk(front: Front, model_id: str) -> None:
    """Raises: Conflict, where nothing of the model is installed."""
    with front.database.reading() as session:
        if catalog.installation(session, model_id) is None:
            raise Conflict("model_not_installed", f"Model {model_id!r} is not on disk.", f"modelyard pull {model_id}")


def not_in_use(front: Front, model_id: str) -> None:
    """Raises: Conflict, while the model is in memory or comes down."""
    with front.database.reading() as session:
        facts = Facts(session, [model_id])
    if any(row.state != ResidencyState.ASLEEP for row in facts.residencies.get(model_id, [])):
        raise Conflict("model_in_use", "The model is in memory.", f"Unload it first: modelyard unload {model_id}.")
    if facts.availability(model_id) in BUSY:
        job = facts.fetches[model_id].id
        raise Conflict("model_busy", "The model is being downloaded.", f"Cancel that first: modelyard cancel {job}.")


def removable(front: Front, model_id: str) -> None:
    """Raises: Conflict, while the model is in use, pinned, or needed by another."""
    not_in_use(front, model_id)
    with front.database.reading() as session:
        retention.refuse_if_needed(session, model_id)


def check_type(model_type: str, known_types: set[str]) -> None:
    """Raises: Invalid, with the types there are."""
    if model_type not in known_types:
        raise Invalid(
            "unknown_type", f"There is no model of type {model_type!r}.", f"Types: {', '.join(sorted(known_types))}."
        )
