"""Another model serves its type from now on, and no request is cut.

New one beside the old → probed by a real inference → route flipped in one write → old one drained → old one stopped.
Where the new one fails at any step before the flip, nothing has changed for anybody.
"""

from typing import Any

from shared.contracts import Switch, Unload
from shared.db import catalog, jobs, residency
from shared.db.tables import Model, Residency
from shared.points import reached
from shared.states import ResidencyState
from workers.job import Work, job
from workers.ladder import bring
from workers.residency.manager import manager_of
from workers.residency.recovery import RECOVERY


@job(Switch)
def switch(args: Switch, work: Work) -> dict[str, Any]:
    """Load the model if it is not in memory, make it active, then let go of the one before."""
    services, manager = work.services, manager_of(work)
    with manager.exclusive(work):
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
        if _comes_too_late(work, model):
            return {"modelId": model.id, "modelType": model.type, "replaced": [], "dropped": True}
        brought = bring(work, manager, model, args.plan)
        new = brought.row
        try:
            work.report("switching", fraction=0.9)
            work.confirm()
            reached("switch.confirmed")
            with services.database.session() as session:
                residency.flip(session, new)
            reached("switch.flipped")
        except BaseException:
            if brought.started:  # nobody knows it yet: it must not stay in memory
                manager.leaving.retire(new.id)
            raise
        brought.tell(services)
    return {
        **brought.told(model), "replaced": _let_go(work, new),
    }  # fmt: skip


def _comes_too_late(work: Work, model: Model) -> bool:
    """A recovery, and by now somebody has switched or unloaded: the last word that people said counts."""
    with work.services.database.reading() as session:
        if jobs.get(session, work.job_id).origin != RECOVERY:
            return False
        serving = catalog.active(session, model.type)
    return serving is None or serving.model_id != model.id or serving.state != ResidencyState.LOST


def _let_go(work: Work, new: Residency) -> list[str]:
    """The route has moved: drain what served before here, or have its own device's worker do so. Another model sleeps
    where it can; another runner of the same one stops.

    The rows say what is to be let go, so that an attempt that was cut off here is finished by the next one.
    """
    services, manager = work.services, manager_of(work)
    with services.database.reading() as session:
        rows = residency.draining(session, new.model_type)
    work.report("draining", fraction=0.95)
    for old in rows:
        if old.device == manager.device.id and old.model_id != new.model_id:
            manager.leaving.replaced(old)
        elif old.device == manager.device.id:
            manager.leaving.retire(old.id)
        else:
            services.ledger.submit(Unload(model_id=old.model_id), origin="switch")
    return sorted({old.model_id for old in rows})
