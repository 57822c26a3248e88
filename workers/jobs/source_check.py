"""A model's source is asked whether it has it, who may have it, and how large it is; nothing is fetched."""

from typing import Any

from shared.contracts import SourceCheck
from shared.db import catalog
from shared.db.devices import clock
from shared.db.tables import Model
from shared.errors import Forbidden, Invalid, ModelyardError, NotFound, Unsafe
from shared.refs import Ref, SourceKind, checked
from workers.elsewhere import in_ollama, in_place
from workers.job import Work, job
from workers.jobs.download import allowed
from workers.sources import source_of

LISTED = frozenset(
    ("unsafe_format", "unsupported_format", "source_too_large", "source_invalid_filename", "unsupported_archive")
)
"""What is refused for what it is: it is there."""


@job(SourceCheck)
def source_check(args: SourceCheck, work: Work) -> dict[str, Any]:
    """What the source says is kept with the model, where it is one of the registry."""
    services = work.services
    model = None
    if args.model_id is not None:
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
    work.report("asking the source")
    told = _look(work, model, args)
    if model is not None:
        with services.database.session() as session:
            catalog.note_remote(session, model.id, {**told, "checkedAt": clock(session)})
    return told


def _look(work: Work, model: Model | None, args: SourceCheck) -> dict[str, Any]:
    """Raises: Unavailable, Failed: the source does not answer like one; nothing is known then."""
    ref = checked(args.ref() if model is None else Ref(SourceKind(model.source), model.source_url, model.revision))
    try:
        if ref.kind is SourceKind.OLLAMA:
            return in_ollama.offered(work, ref.location)
        if ref.kind is SourceKind.FILE:
            return _fits(in_place.offered(work, ref.location))
        grants = {} if model is None else {"grants": allowed(work.services, model.id)}
        source = source_of(ref.kind, work.services.settings.sources, **grants)
        snapshot = source.resolve(ref, model.checksum if model is not None else None)
    except (NotFound, Forbidden, Invalid, Unsafe) as refusal:
        return _refused(refusal)
    return {
        "exists": True, "gated": snapshot.gated, "accessible": True, "size": snapshot.size,
        "files": len(snapshot.files), "revision": snapshot.revision,
    }  # fmt: skip


def _fits(size: int) -> dict[str, Any]:
    return {"exists": True, "gated": False, "accessible": True, "size": size}


def _refused(refusal: ModelyardError) -> dict[str, Any]:
    """What a refusal says of it; that a repository is private looks the same as that there is none."""
    gated = refusal.details.get("gated")
    there = True if gated or refusal.code in LISTED else None
    told: dict[str, Any] = {
        "exists": False if isinstance(refusal, NotFound) else there, "gated": gated, "accessible": False,
        "problem": {"code": refusal.code, "message": refusal.message, "hint": refusal.hint},
    }  # fmt: skip
    return told | {name: refusal.details[name] for name in ("size", "revision") if name in refusal.details}
