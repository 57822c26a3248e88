"""What the retention policy lets go leaves the disk, model by model, for the trash; the registry keeps its entries.

The plan is written down before anything moves, and another attempt goes on with it. Each model is looked at again under
its lock, in the transaction that takes it off the list of what is installed; what changed meanwhile is left, and told.
"""

from typing import Any

from shared.contracts import Cleanup
from shared.db import catalog, retention
from shared.db.reports import CleanupStep
from shared.errors import Conflict, ModelyardError, NotFound, Snooze, Unavailable
from shared.points import reached
from shared.retention import Decision, Hold, Reason, decide, judge, over_by
from shared.states import StepState
from workers.job import Services, Work, job
from workers.stock import after_change, take_stock, to_trash
from workers.store.publish import check_ours

MOST_TOLD = 1000


@job(Cleanup)
def cleanup(args: Cleanup, work: Work) -> dict[str, Any]:
    """Decide, write down, carry out; a dry run ends after the first."""
    services = work.services
    services.layout.check_marker()
    with services.database.reading() as session:
        steps = retention.steps(session, work.job_id)
    if not steps:
        work.report("looking")
        take_stock(services)
        decision = _decided(services, args, work.job_id)
        if args.dry_run:
            services.events.publish("cleanup.recommended", models=len(decision.leave), frees=decision.frees)
            return _proposed(args, decision)
        work.confirm()
        with services.database.session() as session:
            retention.plan(session, work.job_id, decision)
            session.flush()
            steps = retention.steps(session, work.job_id)
        reached("cleanup.planned")
    promised, done = sum(step.promised for step in steps), 0
    for step in steps:
        work.report("cleaning up", done=done, total=promised)
        work.checkpoint()
        if step.state in (StepState.PLANNED, StepState.LEAVING):
            _carry_out(work, step)
        done += step.promised
    after_change(services)
    return _told(services, args, work.job_id)


def _decided(services: Services, args: Cleanup, job_id: str) -> Decision:
    with services.database.reading() as session:
        policy = retention.policy(session, services.settings.retention)
        world = retention.look(session, job_id=job_id, store=services.store)
    return decide(policy, world.now, world.disk, world.models, world.shares, args.models)


def _carry_out(work: Work, step: CleanupStep) -> None:
    """One model leaves, or is left for a reason."""
    services = work.services
    try:
        with services.layout.lock(step.model_id):
            if step.state == StepState.PLANNED:
                work.confirm()
                _take_off(work, step)
                reached("cleanup.taken_off")
            to_trash(services, step)
    except Snooze as busy:
        if step.state == StepState.LEAVING:
            raise
        _leave(services, step, Conflict("model_busy", busy.why, "", {"holds": [Hold.BUSY]}))
    except (Conflict, NotFound) as changed:
        _leave(services, step, changed)
    except Unavailable:
        raise
    except ModelyardError as refused:
        if step.state == StepState.LEAVING:
            raise
        _leave(services, step, refused)


def _take_off(work: Work, step: CleanupStep) -> None:
    """From now on nothing can load it.

    Raises:
        Conflict, NotFound: it may not leave any more.
        Forbidden: its folder is not ours.
    """
    services = work.services
    with services.database.reading() as session:
        before = catalog.installation(session, step.model_id)
    for revision in (before.revision, before.previous_revision) if before is not None else ():
        if revision is not None:
            check_ours(services.layout, step.model_type, step.model_id, revision)
    with services.database.session() as session:
        model = catalog.hold_model(session, step.model_id)
        installation = catalog.installation(session, step.model_id)
        if installation is None or installation.published_at != step.came_at or before is None:
            raise Conflict("model_changed", "It is not what it was when this was planned.", "Ask again.")
        _refuse_if_held(services, session, step, work.job_id)
        revisions = [each for each in (installation.revision, installation.previous_revision) if each is not None]
        step.revisions, step.memo = revisions, model.model_dump(mode="json")
        leaving = {"revisions": revisions, "memo": step.memo}
        if not retention.move(session, step, StepState.PLANNED, StepState.LEAVING, **leaving):
            raise Snooze(2, "another attempt is at it")
        retention.let_go(session, step.model_id)
    step.state = StepState.LEAVING


def _refuse_if_held(services: Services, session: Any, step: CleanupStep, job_id: str) -> None:
    """Raises: Conflict."""
    policy = retention.policy(session, services.settings.retention)
    world = retention.look(session, step.model_id, job_id, services.store)
    verdict = judge(policy, world.now, world.models[0]) if world.models else None
    if verdict is not None and verdict.holds:
        held = ", ".join(verdict.holds)
        raise Conflict("model_held", f"It is kept by now: {held}.", "", {"holds": list(verdict.holds)})
    if verdict is None or (step.reason == Reason.UNUSED and not verdict.unused):
        raise Conflict("model_changed", "It was used since this was planned.", "")
    if step.reason == Reason.STORAGE and not over_by(policy, world.disk):
        raise Conflict("disk_has_room", "The disk has room by now.", "")


def _leave(services: Services, step: CleanupStep, why: ModelyardError) -> None:
    told = {"code": why.code, "message": why.message, "holds": (why.details or {}).get("holds", [])}
    with services.database.session() as session:
        retention.move(session, step, StepState.PLANNED, StepState.LEFT, told=told)


def _proposed(args: Cleanup, decision: Decision) -> dict[str, Any]:
    whole = decision.to_dict()
    named = {each["modelId"] for each in whole["recommendations"]}
    not_now = [model_id for model_id in args.models or [] if model_id not in named]
    lists = {name: whole[name][:MOST_TOLD] for name in ("recommendations", "kept")}
    return {"dryRun": True, **whole, **lists, "models": len(named), "mayNotLeave": not_now}


def _told(services: Services, args: Cleanup, job_id: str) -> dict[str, Any]:
    """What it did and what it left, of all attempts."""
    with services.database.reading() as session:
        steps = retention.steps(session, job_id)
    gone = [step for step in steps if step.state == StepState.GONE]
    left = [step for step in steps if step.state == StepState.LEFT]
    named = {step.model_id for step in steps}
    removed = [
        {
            "modelId": step.model_id, "revision": step.revision, "reason": step.reason, "frees": step.freed,
            "entries": step.entries,
        }
        for step in gone
    ]  # fmt: skip
    return {
        "dryRun": False, "models": len(gone), "promised": sum(step.promised for step in steps),
        "frees": sum(step.freed or 0 for step in gone), "removed": removed[:MOST_TOLD],
        "left": [{"modelId": step.model_id, **step.told} for step in left][:MOST_TOLD],
        "mayNotLeave": [model_id for model_id in args.models or [] if model_id not in named],
    }  # fmt: skip
