"""A model leaves: its files go to the trash by one rename, its entry leaves the registry."""

from typing import Any

from shared.contracts import Remove
from shared.db import catalog
from shared.db.retention import refuse_if_needed
from shared.db.upkeep import refuse_if_used
from shared.points import reached
from workers import elsewhere
from workers.job import Work, job
from workers.stock import after_change
from workers.store.publish import remove as remove_files


@job(Remove)
def remove(args: Remove, work: Work) -> dict[str, Any]:
    """Move the files to the trash and forget the model; refused while it is in memory.

    The installation leaves the registry first, in the transaction that has made sure that nothing loads it.
    """
    services = work.services
    with services.layout.lock(args.model_id):
        work.report("removing")
        with services.database.reading() as session:
            if work.attempt > 1 and not catalog.exists(session, args.model_id):
                return {"trashedBytes": 0}  # an attempt before this one had forgotten it when its worker died
        work.confirm()
        freed = 0
        with services.database.reading() as session:
            model, before = catalog.get_model(session, args.model_id), catalog.installation(session, args.model_id)
            _refuse(session, args, work.job_id)
        deleted = elsewhere.delete(work, model, before)  # while the registry still knows that there is something
        memo, found = _take_off(work, args)
        reached("remove.taken_off")
        for model_type, revision in found:
            freed += remove_files(services.layout, model_type, args.model_id, revision, memo)
        reached("remove.trashed")
        services.layout.discard_staging(args.model_id)
        with services.database.session() as session:
            catalog.forget_model(session, args.model_id)
        reached("remove.forgotten")
    after_change(services, args.model_id)
    services.events.publish("model.state", modelId=args.model_id, status="removed")
    return {"trashedBytes": freed, **deleted}


def _take_off(work: Work, args: Remove) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """From now on nothing can load the model. Answers its entry, and type and revision of what lies on disk."""
    model_id = args.model_id
    with work.services.database.session() as session:
        model = catalog.hold_model(session, model_id)
        _refuse(session, args, work.job_id)
        installation = catalog.installation(session, model_id)
        catalog.uninstall(session, model_id)
    where = {(installation.model_type, installation.revision)} if installation else set()
    found = work.services.layout.published_revisions(model.type, model_id)  # also where a crash came after uninstall
    return model.model_dump(mode="json"), sorted(where | {(model.type, revision) for revision in found})


def _refuse(session: Any, args: Remove, job_id: str) -> None:
    """Raises: Conflict, Snooze."""
    refuse_if_used(session, args.model_id, job_id)
    if not args.force:
        refuse_if_needed(session, args.model_id)
