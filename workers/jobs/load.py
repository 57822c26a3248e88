"""A model comes into memory beside what is there; what serves its type goes on serving it.

A model that served its type before, and is idle, serves it again.
"""

from typing import Any

from shared.contracts import Load
from shared.db import catalog, jobs, residency
from shared.db.tables import Model
from shared.points import reached
from shared.states import ResidencyState
from workers.job import Work, job
from workers.ladder import bring
from workers.residency.manager import manager_of
from workers.residency.recovery import RECOVERY


@job(Load)
def load(args: Load, work: Work) -> dict[str, Any]:
    """Load the model if it is not in memory; or anew, and then let go of the runner before."""
    services, manager = work.services, manager_of(work)
    with manager.exclusive(work):
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
        if _comes_too_late(work, model):
            return {"modelId": model.id, "modelType": model.type, "dropped": True}
        brought = bring(work, manager, model, fresh=args.fresh, set_aside=ResidencyState.IDLE)
        new = brought.row
        try:
            work.confirm()
            reached("load.confirmed")
            with services.database.session() as session:
                before = residency.take_over(session, new)
            reached("load.taken_over")
        except BaseException:
            if brought.started:
                manager.leaving.retire(new.id)
            raise
    if before and new.active:
        brought.tell(services)
    work.report("draining", fraction=0.95)
    for old in before:
        manager.leaving.retire(old.id)
    return {**brought.told(model), "active": new.active}


def _comes_too_late(work: Work, model: Model) -> bool:
    """A recovery of a pinned model, and by now somebody has loaded, unloaded or unpinned it."""
    with work.services.database.reading() as session:
        if jobs.get(session, work.job_id).origin != RECOVERY:
            return False
        rows = catalog.residencies(session, [model.id])
    return not any(row.state == ResidencyState.LOST for row in rows)
