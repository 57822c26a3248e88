"""A model leaves memory once the requests that hold it have ended."""

from typing import Any

from shared.contracts import Unload
from shared.db import catalog, residency
from shared.points import reached
from workers.job import Work, job
from workers.residency.manager import manager_of


@job(Unload)
def unload(args: Unload, work: Work) -> dict[str, Any]:
    """Take the model off its route, drain its requests, stop its runner."""
    services, manager = work.services, manager_of(work)
    if args.if_unused:
        return _unused(args, work)
    with manager.exclusive(work):
        work.confirm()
        with services.database.session() as session:
            catalog.get_model(session, args.model_id)
            rows = residency.clear(session, args.model_id, manager.device.id)
    reached("unload.closed")
    work.report("draining", fraction=0.5)
    for row in rows:  # outside the lock: the route has moved, and a drain may take a minute
        manager.leaving.retire(row.id)
    return {"modelId": args.model_id, "unloaded": len(rows)}


def _unused(args: Unload, work: Work) -> dict[str, Any]:
    """Its type stays with it. A request that comes at this moment ends first, and the next ones bring it back."""
    manager = manager_of(work)
    with manager.exclusive(work):
        work.confirm()
        rows = [row for row in manager.leaving.unused() if row.model_id == args.model_id]
        rested = sum(manager.leaving.rest(row) for row in rows)
    return {"modelId": args.model_id, "unloaded": rested}
