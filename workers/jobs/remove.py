"""A model leaves: its files go to the trash by one rename, its entry leaves the registry."""

from typing import Any

from shared.contracts import Remove
from shared.db import catalog
from shared.db.jobs import live
from shared.errors import Conflict, Snooze
from shared.states import JobState
from workers.job import Work, job
from workers.store.publish import remove as remove_files


@job(Remove)
def remove(args: Remove, work: Work) -> dict[str, Any]:
    """Move the files to the trash and forget the model; refused while it is in memory."""
    services = work.services
    with services.layout.lock(args.model_id):
        with services.database.reading() as session:
            catalog.get_model(session, args.model_id)
            installation = catalog.installation(session, args.model_id)
            others = [job.id for job in live(session, [args.model_id]) if job.id != work.job_id]
            in_memory = catalog.residencies(session, [args.model_id])
        if in_memory:
            raise Conflict("model_in_use", "The model is in memory.", f"First: modelyard unload {args.model_id}.")
        if others:
            raise Snooze(2, f"waits for job {others[0]} of the same model")
        work.report("removing")
        work.confirm()
        freed = 0
        if installation is not None:
            freed = remove_files(services.layout, installation.model_type, args.model_id, installation.revision)
        services.layout.discard_staging(args.model_id)
        with services.database.session() as session:
            catalog.forget_model(session, args.model_id)
    services.events.publish("model.state", modelId=args.model_id, status="removed")
    return {"freedBytes": freed, "status": JobState.SUCCEEDED}
