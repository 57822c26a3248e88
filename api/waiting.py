"""When a job begins, by what its lane works on now."""

import time

from api.forecast import seconds_left, seconds_until_start
from api.views import eta_seconds
from shared.db import asked, jobs
from shared.db.session import Database
from shared.db.tables import Job
from shared.queues import IO
from shared.states import JobState, Priority


def place(database: Database, job: Job) -> tuple[int | None, float | None]:
    """Place of a queued job in its lane, counted from 1; and when it probably starts, in seconds since 1970."""
    if job.state != JobState.QUEUED:
        return None, None
    with database.reading() as session:
        position = jobs.position(session, job)
        usual, running = jobs.usual_seconds(session, job.lane), jobs.running(session, job.lane)
    seconds = _until_start(position, running, usual)
    return position, None if seconds is None else max(time.time() + seconds, job.not_before)


def until_new(database: Database, priority: Priority) -> float | None:
    """Seconds until a job that was asked for now would begin to fetch; None where nothing tells."""
    with database.reading() as session:
        before = asked.ahead(session, IO, priority)
        usual, running = jobs.usual_seconds(session, IO), jobs.running(session, IO)
    return 0.0 if not before and not running else _until_start(before + 1, running, usual)


def _until_start(position: int, running: list[Job], usual: float | None) -> float | None:
    moment = time.time()
    left = [seconds_left(moment - (one.started_at or moment), eta_seconds(one), usual) for one in running]
    return seconds_until_start(position, left, usual)
