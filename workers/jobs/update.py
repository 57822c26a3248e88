"""The newest revision of an installed model comes down; the one before serves until the new one is proven.

What has not changed is not fetched: it gets a second name. The one before is kept for a rollback, and whoever has it
in memory goes on with it until the next switch.
"""

from typing import Any

from shared.contracts import Update
from shared.db import catalog, upkeep
from shared.db.tables import Model
from shared.errors import Conflict
from shared.points import reached
from shared.refs import Ref, SourceKind
from workers.job import Work, job
from workers.jobs.download import fetch_and_publish, kept, record, recorded_before, resolve
from workers.sources import source_of

FETCHED = (SourceKind.HUGGINGFACE, SourceKind.URL)


@job(Update)
def update(args: Update, work: Work) -> dict[str, Any]:
    """Ask the source; where it has something newer, fetch that and have it serve."""
    services = work.services
    with services.layout.lock(args.model_id):
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
            before = catalog.installation(session, args.model_id)
        if before is None:
            raise Conflict("model_not_installed", f"Model {model.id!r} is not on disk.", f"modelyard pull {model.id}")
        if model.source not in FETCHED:
            raise Conflict(
                "update_unsupported", f"Models from {model.source} are not updated in place.",
                f"modelyard pull {model.id} --force fetches it anew.",
            )  # fmt: skip
        if (done := recorded_before(work, before)) is not None:
            return {"updated": True, "previous": before.previous_revision, **done}
        work.report("resolving")
        snapshot = resolve(services, model)
        with services.database.session() as session:
            upkeep.asked_for_update(session, model.id, snapshot.revision)
        if snapshot.revision == before.revision:
            return {"revision": before.revision, "updated": False}
        if not args.accept_new_history:
            _check_history(work, model, before.revision)
        reached("update.resolved")
        there = kept(work, model, snapshot.revision)  # from before a rollback
        done = record(work, there) if there is not None else fetch_and_publish(work, model, snapshot)
    return {"updated": True, "previous": before.revision, **done}


def _check_history(work: Work, model: Model, installed: str) -> None:
    """Raises: Conflict: code `new_history`, the source has become another one under the same name."""
    ref = Ref(SourceKind(model.source), model.source_url, installed)
    if ref.kind is SourceKind.HUGGINGFACE and not source_of(ref.kind, work.services.settings.sources).knows(ref):
        raise Conflict(
            "new_history",
            f"{model.source_url} does not know the installed revision any more: its history was rewritten, or its name "
            "has another owner.",
            f"Look at who publishes it now. To trust that: modelyard update {model.id} --accept-new-history.",
            {"installed": installed},
        )
