"""Another model serves its type from now on, and no request is cut.

New one beside the old → probed by a real inference → route flipped in one write → old one drained → old one stopped.
Where the new one fails at any step before the flip, nothing has changed for anybody.
"""

from typing import Any

from shared.contracts import Switch, Unload
from shared.db import catalog, residency
from shared.db.tables import Residency
from shared.states import ResidencyState
from workers.job import Work, job
from workers.residency.manager import manager_of


@job(Switch)
def switch(args: Switch, work: Work) -> dict[str, Any]:
    """Load the model if it is not in memory, make it active, then let go of the one before."""
    services, manager = work.services, manager_of(work)
    with manager.exclusive(work):
        with services.database.reading() as session:
            model = catalog.get_model(session, args.model_id)
            installation = catalog.installed(session, args.model_id)
        new = manager.ensure_ready(model, installation, work)
        work.report("switching", fraction=0.9)
        work.confirm()
        with services.database.session() as session:
            served = residency.flip(session, new)
        services.events.publish("model.active", modelId=new.model_id, modelType=new.model_type, residencyId=new.id)
        for old in served:
            _let_go(work, old)
    return {
        "modelId": new.model_id, "modelType": new.model_type, "device": new.device, "runtime": new.runtime,
        "loadSeconds": new.load_seconds, "memoryBytes": new.memory_bytes,
        "replaced": [old.model_id for old in served if old.model_id != new.model_id],
    }  # fmt: skip


def _let_go(work: Work, old: Residency) -> None:
    """The route has moved: drain and stop the old one here, or have its own device's worker do so."""
    services, manager = work.services, manager_of(work)
    work.report("draining", fraction=0.95)
    if old.device == manager.device.id:
        manager.retire(old.id)
    elif old.state == ResidencyState.LOST:
        with services.database.session() as session:
            residency.update_row(session, old.id, state=ResidencyState.STOPPED)
    else:
        services.ledger.submit(Unload(model_id=old.model_id), origin="switch")
