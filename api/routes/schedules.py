"""What is done by the clock: listed, changed, and done at once."""

import structlog
from fastapi import APIRouter

from api.deps import Front, FrontDep
from api.schedules import AskedView, ScheduleChange, ScheduleDetail, SchedulesView, view, view_one
from api.views import view_job
from shared import schedules
from shared.schedules import schedule

log = structlog.get_logger()
router = APIRouter(prefix="/schedules", tags=["schedules"])


@router.get("", summary="What is done by the clock")
def list_schedules(front: FrontDep) -> SchedulesView:
    """Each with how often, its last turn with what came of it, and its next one."""
    return view(front.database, front.settings)


@router.get("/{name}", summary="One schedule")
def get_schedule(front: FrontDep, name: str) -> ScheduleDetail:
    """With its last turns."""
    return _detail(front, name)


@router.patch("/{name}", summary="Change a schedule")
def change_schedule(front: FrontDep, name: str, body: ScheduleChange) -> ScheduleDetail:
    """How often, and whether at all; it counts at once, for all workers, and outlives restarts."""
    one, changes = schedule(name), body.changes()
    with front.database.session() as session:
        schedules.change(session, front.settings, one, changes)
    log.info("schedule.changed", schedule=name, **changes)
    return _detail(front, name)


@router.post("/{name}/run", status_code=202, summary="Do it now")
def run_schedule(front: FrontDep, name: str) -> AskedView:
    """Whatever its clock says. Its turns go on as before; the same ask twice joins the job of the first."""
    turn = schedules.now(front.database, front.settings, schedule(name))
    jobs = [] if turn is None else turn.ask(front.ledger, front.settings)
    log.info("schedule.asked", schedule=name, jobs=[job.id for job in jobs])
    return AskedView(schedule=_detail(front, name), jobs=[view_job(job) for job in jobs], by_workers=turn is None)


def _detail(front: Front, name: str) -> ScheduleDetail:
    return view_one(front.database, front.settings, schedule(name))
