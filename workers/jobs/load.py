"""A model comes into memory beside what is there; what serves its type goes on serving it.

A model that served its type before, and is idle, serves it again.
"""

from typing import Any

from shared.contracts import Load
from shared.db import catalog, residency
from shared.points import reached
from shared.states import ResidencyState
from workers.job import Work, job
from workers.ladder import bring
from workers.residency.manager import manager_of


@job(Load)
def load(args: Load, work: Work) -> dict[str, Any]:
    """Load the model if it is not in memory; or anew, and then let go of the runner before."""
    services, manager = work.services, manager_of(work)
    with manager.exclusive(work):
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
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
