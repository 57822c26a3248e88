"""What is damaged or missing is asked for, in the order in which it matters."""

from typing import Any

from shared.contracts import Download, Ensure, Repair
from shared.db import ensuring
from shared.order import Bring, Policy
from workers.job import Work, job

NAMED = 100
KINDS: dict[Bring, type[Download | Repair]] = {Bring.REPAIR: Repair, Bring.DOWNLOAD: Download}


@job(Ensure)
def ensure(args: Ensure, work: Work) -> dict[str, Any]:
    """One job for each model, which a job that is there already joins; so this may run twice."""
    work.report("looking")
    steps = ensuring.steps(work.services.database, Policy(args.policy))
    asked: dict[Bring, list[str]] = {bring: [] for bring in Bring}
    for number, step in enumerate(steps):
        work.report("asking", fraction=number / len(steps))
        work.checkpoint()
        work.services.ledger.submit(KINDS[step.bring](model_id=step.model_id), origin="ensure", priority=step.priority)
        asked[step.bring].append(step.model_id)
    return {
        "policy": args.policy, "repairs": len(asked[Bring.REPAIR]), "downloads": len(asked[Bring.DOWNLOAD]),
        "first": [step.model_id for step in steps[:NAMED]],
    }  # fmt: skip
