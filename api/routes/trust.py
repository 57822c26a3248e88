"""The trust gate's exceptions: what of a model's own a person allows, for one revision of it."""

import structlog
from fastapi import APIRouter, Request

from api.bodies import TrustBody
from api.deps import FrontDep
from api.keyring import Caller
from api.views import ModelView, view_model
from shared.db import catalog, trust
from shared.db.facts import Facts
from shared.db.tables import Installation, Model
from shared.errors import Invalid
from shared.refs import Ref, SourceKind, checked
from shared.trust import Trust

log = structlog.get_logger()
router = APIRouter(prefix="/models", tags=["models"])


@router.put("/{model_id}/trust", summary="Allow a revision of a model what is refused by default")
def decide(front: FrontDep, model_id: str, body: TrustBody, request: Request) -> ModelView:
    """By default weights are read from safetensors and GGUF only, and no code of a model's own is fetched or run.

    This allows one revision more, and nothing to the next. All false takes it back: the model is then not loaded
    again, and what serves now goes on until it is unloaded.
    """
    by = _who(request)
    with front.database.session() as session:
        model = catalog.hold_model(session, model_id)
        revision = body.revision or _revision(model, catalog.installation(session, model_id))
        checked(Ref(SourceKind.HUGGINGFACE, "a/b", revision))
        decided = Trust(model_id, revision, body.allow_pickle, body.allow_remote_code, body.allow_unverified)
        trust.decide(session, decided, by)
        session.flush()
        shown = view_model(model, Facts(session, [model_id]))
    log.warning(
        "trust.decided", model_id=model_id, revision=revision, by=by,
        allow_pickle=body.allow_pickle, allow_remote_code=body.allow_remote_code,
        allow_unverified=body.allow_unverified,
    )  # fmt: skip
    front.ledger.events.publish("model.trust", modelId=model_id, revision=revision)
    return shown


def _revision(model: Model, installed: Installation | None) -> str:
    """The revision that is meant where none is named.

    Raises:
        Invalid: code `revision_needed`.
    """
    if installed is None:
        raise Invalid(
            "revision_needed",
            f"Nothing of {model.id!r} is on disk yet, so the revision to trust must be named.",
            "Try to download it: the refusal names the revision.",
        )
    return installed.revision


def _who(request: Request) -> str:
    address = request.client.host if request.client else "unknown"
    caller: Caller = request.state.caller
    return f"{address}, {'no key is set' if caller.name is None else f'key {caller.name}'}"
