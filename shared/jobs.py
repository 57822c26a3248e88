"""The ledger: every change of a job is one guarded update here, and nothing else changes a job.

    queued ──claim──► running ──► succeeded | failed | cancelled | paused
      ▲                 │
      └── retry later, snooze, worker lost, interrupted; resume and retry from a rest or an end

`attempt` is the fence: a worker that was away past its lease holds an old number, and its writes match no row.
"""

import contextlib
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Self

import structlog
from sqlalchemy import ColumnElement, Connection, Executable, case, insert, null, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import configure_mappers
from sqlmodel import col, delete, select

from shared.broker import Broker
from shared.contract import Contract
from shared.contracts import KINDS
from shared.db import audit, jobs, lanes, limits, nodes
from shared.db.moves import (
    CLAIM,
    CLAIM_WITH_ROOM,
    END,
    HOLD,
    IN_THE_WAY,
    JOBS,
    LET_IN,
    NOTE_SENT,
    RENEW,
    REPORT,
    RESEND,
    entering,
)
from shared.db.session import Database, now, serialise
from shared.db.tables import IdempotencyKey, Job, ScheduleRun
from shared.errors import Conflict, ModelyardError
from shared.limits import admitted, displaced
from shared.points import reached
from shared.progress import Events
from shared.queues import IO
from shared.settings import JobSettings
from shared.states import ENDED, LIVE, Desired, JobState, Priority
from shared.tracing import traceparent

log = structlog.get_logger()

MAKES_WAY = [kind for kind, contract in KINDS.items() if contract.makes_way]
WAITS = [kind for kind, contract in KINDS.items() if not contract.displaces]
WAY_GRACE_SECONDS = 0.2
"""A ticket that no worker has taken after so long found no free slot."""
WAY_AGAIN_SECONDS = 10.0
"""Way is made once more for a job that has not come to run by then."""


ONE_STORE_SECONDS = 2.0
"""A machine that joins has reported before it takes a job, so nothing of its store can be asked for before that."""

Aside = Callable[[Job], None]
"""Takes a job whose change is committed, for `Ledger.announce` where no caller has to wait for it."""


class Submitted(NamedTuple):
    job: Job
    created: bool
    """False: a live job for the same work was there already, and this ask joined it."""


class Ask(NamedTuple):
    """A caller's own name for what it asks, so that asking again is asking once."""

    key: str
    fingerprint: str
    """Differs where the same key comes with another ask."""

    @classmethod
    def of(cls, key: str, *what: Any) -> Self:
        """The ask for `what`, values that JSON can hold."""
        return cls(key, hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest())


class Progress(NamedTuple):
    """What a running job reports. Bytes are of the whole job; `fraction` is 0 to 1."""

    phase: str
    fraction: float | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    parts: tuple[dict[str, Any], ...] = ()


def error_body(error: ModelyardError, *, retry_at: float | None = None) -> dict[str, Any]:
    """The shape in which a job shows what went wrong; `retry_at` in seconds since 1970."""
    body = {"code": error.code, "message": error.message, "hint": error.hint, "retryable": error.retryable}
    if error.details:
        body["details"] = error.details
    if retry_at is not None:
        body["retryAt"] = retry_at
    return body


class Ledger:
    """Submits, moves and finds jobs. Rings the broker and tells listeners only after the change is committed."""

    def __init__(
        self, database: Database, settings: JobSettings, broker: Broker, events: Events, aside: Aside | None = None
    ) -> None:
        self.database = database
        self.settings = settings
        self.broker = broker
        self.events = events
        self._aside = aside
        dialect = database.engine.dialect.name
        self._insert = sqlite_insert if dialect == "sqlite" else postgresql_insert
        self._entering = entering(dialect)
        self._one_store_until = 0.0

    # -- asking for work ------------------------------------------------------------------------------------

    def submit(
        self, contract: Contract, *, origin: str, priority: Priority | None = None, ask: Ask | None = None
    ) -> Submitted:
        """Record a job and ring for it, or join the live one that does the same work.

        Raises:
            Unavailable: the database does not answer, or no device worker has ever reported.
            Conflict: `idempotency_key_reused`, the key of the ask stands for another one; as `lanes.lane_of`.
            NotFound: as `lanes.lane_of`.
        """
        try:
            submitted = self._insert_or_join(contract, origin, priority, str(uuid.uuid4()), ask=ask)
        except IntegrityError:  # the same ask was faster
            known = self.asked(ask) if ask is not None else None
            if known is None:
                raise
            return known
        if submitted.created:
            reached("submit.committed")
            self._changed(submitted.job)
            return submitted
        if priority is not None and priority < submitted.job.priority and submitted.job.state in LIVE:
            with contextlib.suppress(Conflict):  # it has ended meanwhile
                return Submitted(self.reprioritise(submitted.job.id, priority), created=False)
        return submitted

    def adopt(
        self,
        contract: Contract,
        *,
        origin: str,
        priority: Priority | None,
        job_id: str,
        here: str | None,
        not_before: float = 0.0,
    ) -> Submitted:
        """Record the message of another service. On its right lane (`here`), and due, the message is the ticket."""
        submitted = self._insert_or_join(contract, origin, priority, job_id, here=here, not_before=not_before)
        if submitted.created:
            self._changed(submitted.job)
        return submitted

    def _insert_or_join(
        self,
        contract: Contract,
        origin: str,
        priority: Priority | None,
        job_id: str,
        *,
        here: str | None = None,
        not_before: float = 0.0,
        ask: Ask | None = None,
    ) -> Submitted:
        urgency = int(contract.priority if priority is None else priority)
        lane = self.lane_of(contract)
        # What is left out of the arguments is not written: a worker of the version before knows nothing of it.
        values: dict[str, Any] = {
            "id": job_id, "kind": contract.kind, "unique_key": contract.unique_key(), "model_id": contract.subject,
            "args": contract.model_dump(mode="json", exclude_none=True), "origin": origin, "lane": lane,
            "state": JobState.QUEUED, "desired": Desired.RUN, "priority": urgency, "urgency": urgency, "aged": False,
            "attempt": 0, "lost": 0, "retries": 0, "ticket": 1, "not_before": not_before, "parts": [],
            "traceparent": traceparent(),
        }  # fmt: skip
        sent = 0.0 if lane == here and not not_before else None
        noted = contract.audited and origin not in audit.BY_ITSELF
        with self.database.transaction() if noted or ask is not None else self.database.single() as connection:
            for _ in range(3):  # the job that stood in the way may end between the two statements
                submitted = self._enter(connection, values, sent)
                if submitted is not None:
                    if ask is not None:
                        named = {**ask._asdict(), "job_id": submitted.job.id, "created": submitted.created}
                        connection.execute(insert(IdempotencyKey), named)
                    if noted and submitted.created:
                        audit.append(connection, audit.Change.of_job(contract, job_id), audit.actor(origin))
                    return submitted
        raise Conflict("job_conflict", "Jobs for this model come and go at this moment.", "Send the request again.")

    def _enter(self, connection: Connection, values: dict[str, Any], sent: float | None) -> Submitted | None:
        """A new row with these values, or the one that stands in its way, if that is still there."""
        entered = connection.execute(self._entering, {**values, "sent": sent}).one_or_none()
        if entered is not None:
            job = _to_read(**values, created_at=entered.created_at, sent_at=entered.sent_at)
            return Submitted(job, created=True)
        rival = _one(connection, IN_THE_WAY, job_id=values["id"], its_key=values["unique_key"])
        return None if rival is None else Submitted(rival, created=False)

    def lane_of(self, contract: Contract, here: Collection[str] = ()) -> str:
        """Where it is to be done, as things are now; see `lanes.lane_of`."""
        if contract.lane == IO and (not contract.of_store or (contract.wanted_node is None and self._has_one_store())):
            return IO
        with self.database.reading() as session:
            return lanes.lane_of(session, contract, here)

    def _has_one_store(self) -> bool:
        """Every job passes here: where there was one a moment ago, nobody looks again."""
        if time.monotonic() >= self._one_store_until:
            with self.database.reading() as session:
                if len(nodes.stores(session)) > 1:
                    return False
            self._one_store_until = time.monotonic() + ONE_STORE_SECONDS
        return True

    def reject(self, job_id: str, kind: str, args: dict[str, Any], error: ModelyardError) -> None:
        """Keep a message that was no valid job, so that its sender finds out why. Twice is once."""
        values = {
            "id": job_id, "kind": kind[:64], "args": args, "origin": "foreign", "state": JobState.REJECTED,
            "desired": Desired.RUN, "priority": int(Priority.MEDIUM), "urgency": int(Priority.MEDIUM), "aged": False,
            "lane": IO, "error": error_body(error),
            "attempt": 0, "lost": 0, "retries": 0, "ticket": 1, "not_before": 0.0, "parts": [],
            "created_at": now(), "finished_at": now(), "sent_at": now(),
        }  # fmt: skip
        with self.database.session() as session:
            session.exec(self._insert(Job).values(**values).on_conflict_do_nothing())

    # -- what workers do ------------------------------------------------------------------------------------

    def claim(
        self, job_id: str, ticket: int, owner: str, lane: str | None = None, beside: str | None = None
    ) -> Job | None:
        """Take a queued job under a lease. None: another ticket, another worker or its sender was faster.

        Args:
            lane, beside: of the worker; a ticket that strayed to it from another lane finds nothing.
        """
        bound = {
            "its_ticket": ticket, "owner": owner, "my_lane": lane, "lane_beside": beside,
            "lease_seconds": self.settings.lease_seconds,
        }  # fmt: skip
        claimed = self._move(CLAIM, job_id, **bound)
        return claimed if claimed is not None else self._claim_under_limits(job_id, bound)

    def _claim_under_limits(self, job_id: str, bound: dict[str, Any]) -> Job | None:
        """Take a job if the limits on jobs leave it room, else let it wait for that: one claim at a time looks."""
        if not self.downloads_are_counted():
            return None
        with self.database.session() as session:
            serialise(session, "limits on jobs")
            waiting = limits.held(session, job_id)
            found = admitted(limits.in_force(session), limits.running(session), waiting)
            may = job_id in {fetch.job_id for fetch in found}
            if not may and job_id not in {fetch.job_id for fetch in waiting}:
                return None  # it is none that limits concern, or waits no longer
            moved = _one(session.connection(), CLAIM_WITH_ROOM if may else HOLD, job_id=job_id, **bound)
        if moved is not None:
            self._changed(moved)
        if may and moved is not None:
            return moved
        self.let_in()  # one may have ended between the look and the commit, and found nobody to let in
        return None

    def beat(self, job_id: str, attempt: int, progress: Progress | None) -> Desired | None:
        """Renew the lease, store progress, learn what people want. None: the job belongs to another attempt."""
        values = {
            "job_id": job_id,
            "fence": attempt,
            "lease_seconds": self.settings.lease_seconds,
            **_reported(progress),
        }
        with self.database.single() as connection:
            desired = connection.execute(REPORT if "fraction" in values else RENEW, values).scalar_one_or_none()
        return None if desired is None else Desired(desired)

    def succeed(self, job_id: str, attempt: int, result: dict[str, Any] | None, last: Progress | None = None) -> bool:
        """The body returned. False: the fence held, this attempt's word no longer counts."""
        values = {**_reported(last), "progress": 1.0, "phase": None, "error": None, "result": result}
        values.pop("fraction", None)
        return self._end(job_id, attempt, JobState.SUCCEEDED, **values)

    def fail(self, job_id: str, attempt: int, error: ModelyardError) -> bool:
        return self._end(job_id, attempt, JobState.FAILED, error=error_body(error))

    def stop(self, job_id: str, attempt: int) -> bool:
        """End a run that people wanted cancelled or paused; what they want at this moment decides."""
        return self._settle(job_id, attempt, ticket=col(Job.ticket) + 1, sent_at=None, not_before=0.0, **_as_wished())

    def again(
        self, job_id: str, attempt: int, delay: float, error: dict[str, Any] | None = None, *, counted: bool = False
    ) -> bool:
        """Queue the job for `delay` seconds from now, unless people want it cancelled or paused by now.

        Args:
            counted: adds to its retries.
        """
        return self._settle(
            job_id, attempt, not_before=now() + delay if delay else 0.0, ticket=col(Job.ticket) + 1, sent_at=None,
            error=error, retries=col(Job.retries) + int(counted), urgency=col(Job.priority), aged=False,
            **_as_wished(),
        )  # fmt: skip

    def hand_on(self, job_id: str, attempt: int, lane: str) -> bool:
        """Queue a job that was begun where it cannot be done in the lane where it can."""
        return self._settle(
            job_id, attempt, lane=lane, not_before=0.0, ticket=col(Job.ticket) + 1, sent_at=None, **_as_wished()
        )

    def give_way(self, job_id: str, attempt: int) -> bool:
        """Queue the job again behind a more urgent one, before all others of its own class."""
        error = {
            "code": "made_way", "message": "A more urgent job has its slot.", "hint": "It goes on by itself.",
            "retryable": True,
        }  # fmt: skip
        # A LOW one goes before all LOW ones, and a HIGH one may take its slot again; others are left alone by HIGH.
        low = (col(Job.priority) == Priority.LOW) & ~col(Job.aged)
        one_better = case((low, int(Priority.MEDIUM)), else_=int(Priority.HIGH))
        return self._settle(
            job_id, attempt, not_before=0.0, ticket=col(Job.ticket) + 1, sent_at=None, error=error,
            urgency=one_better, **_as_wished(),
        )  # fmt: skip

    def make_way(self, lanes: Collection[str], owner: str, leaving: Collection[str] = ()) -> tuple[str, int] | None:
        """Id and attempt of the job that this worker must stop for a CRITICAL or HIGH one that waits.

        None where nobody waits in vain, where no running job is less urgent, or where another worker has the least
        urgent one. A waiting job gets way made once, however many workers look.

        Args:
            leaving: jobs of this worker that make way already.
        """
        with self.database.reading() as session:
            waiting = jobs.kept_waiting(session, lanes, WAITS, WAY_GRACE_SECONDS, WAY_AGAIN_SECONDS)
            least = None if waiting is None else jobs.least_urgent(session, lanes, MAKES_WAY, leaving)
        return self._make_way(waiting, least, owner)

    def make_room(self, owner: str, leaving: Collection[str]) -> tuple[str, int] | None:
        """The same for a CRITICAL or HIGH job that a limit on jobs keeps waiting, whatever slots are free."""
        with self.database.reading() as session:
            held = limits.urgently_held(session, WAY_AGAIN_SECONDS) if limits.on_jobs(session) else None
            if held is None:
                return None
            running = [fetch for fetch in limits.running(session) if fetch.job_id not in leaving]
            found = displaced(limits.in_force(session), running, held)
            waiting, least = session.get(Job, held.job_id), session.get(Job, found.job_id) if found else None
        return self._make_way(waiting, least, owner)

    def _make_way(self, waiting: Job | None, least: Job | None, owner: str) -> tuple[str, int] | None:
        if waiting is None or least is None or least.lease_owner != owner or least.urgency <= waiting.urgency:
            return None
        guard = (
            (col(Job.id) == waiting.id) & (col(Job.state) == JobState.QUEUED)
            & col(Job.way_made_at).is_not_distinct_from(waiting.way_made_at)
        )  # fmt: skip
        with self.database.session() as session:
            won = session.exec(update(Job).where(guard).values(way_made_at=now())).rowcount == 1
        return (least.id, least.attempt) if won else None

    def downloads_are_counted(self) -> bool:
        """Whether a limit is on how many may run; where there is none, nobody waits for room."""
        with self.database.reading() as session:
            return limits.on_jobs(session)

    def let_in(self) -> list[Job]:
        """Send on what waited for room under a limit on jobs and has it now, most urgent first."""
        with self.database.reading() as session:
            held = limits.held(session)
            found = admitted(limits.in_force(session), limits.running(session), held) if held else []
        return [moved for fetch in found if (moved := self._move(LET_IN, fetch.job_id)) is not None]

    # -- what people do -------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> Job:
        """Cancel at once what waits; what runs stops at its next checkpoint. Cancelled twice is cancelled once."""
        return self._wish(job_id, Desired.CANCEL, [JobState.QUEUED, JobState.PAUSED], JobState.CANCELLED)

    def pause(self, job_id: str) -> Job:
        """Pause; what was proven so far stays."""
        return self._wish(job_id, Desired.PAUSE, [JobState.QUEUED], JobState.PAUSED)

    def _wish(self, job_id: str, desired: Desired, at_once: list[JobState], to: JobState) -> Job:
        # One statement: between two the job could go from running to queued, and both would miss it.
        waits = col(Job.state).in_(at_once)
        running = (col(Job.state) == JobState.RUNNING) & (col(Job.desired) != Desired.CANCEL)
        end = {"finished_at": case((waits, now()), else_=col(Job.finished_at))} if to in ENDED else {}
        state = case((waits, to.value), else_=col(Job.state))
        if job := self._update(job_id, waits | running, state=state, desired=desired, **end):
            return job
        job = self._get(job_id)
        if job.state == to or (job.state == JobState.RUNNING and job.desired == desired):
            return job
        raise Conflict("job_ended", f"The job is {job.state}.", "Only a live job can be cancelled or paused.")

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again; it goes on where it stopped. A pause that is on its way is taken back."""
        pausing = (col(Job.state) == JobState.RUNNING) & (col(Job.desired) == Desired.PAUSE)
        if job := self._update(job_id, pausing, desired=Desired.RUN):
            return job
        return self._requeue(job_id, [JobState.PAUSED], "job_not_paused", "Only a paused job can be resumed.")

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again, its counters fresh."""
        hint = "Only a failed or cancelled job can be retried."
        states = [JobState.FAILED, JobState.CANCELLED]
        with self.database.reading() as session:
            job = jobs.get(session, job_id)
            rival = jobs.live_with_key(session, job.unique_key) if job.state in states else None
        if rival is None or rival.id == job_id:
            fresh = {"lost": 0, "retries": 0, "progress": None, "finished_at": None}
            try:
                return self._requeue(job_id, states, "job_not_ended", hint, **fresh)
            except IntegrityError:  # a job for the same work was submitted in between
                rival = None
        which = f"Job {rival.id}" if rival else "Another job"
        raise Conflict("job_superseded", f"{which} does the same work now.", "Follow that job instead.")

    def _requeue(self, job_id: str, states: list[JobState], code: str, hint: str, **values: Any) -> Job:
        job = self._update(
            job_id, col(Job.state).in_(states), state=JobState.QUEUED, desired=Desired.RUN, sent_at=None,
            not_before=0.0, ticket=col(Job.ticket) + 1, error=None, urgency=col(Job.priority), aged=False, **values,
        )  # fmt: skip
        if job is None:
            raise Conflict(code, f"The job is {self._get(job_id).state}.", hint)
        return job

    def reprioritise(self, job_id: str, priority: Priority) -> Job:
        """Move a live job to another priority: a waiting one at once, by a new ticket (the old one finds nothing).

        Raises:
            NotFound
            Conflict: it has ended.
        """
        waits = col(Job.state) != JobState.RUNNING
        job = self._update(
            job_id, col(Job.state).in_(LIVE), priority=int(priority), urgency=int(priority), aged=False,
            ticket=case((waits, col(Job.ticket) + 1), else_=col(Job.ticket)),
            sent_at=case((waits, null()), else_=col(Job.sent_at)),
        )  # fmt: skip
        if job is None:
            raise Conflict("job_ended", f"The job is {self._get(job_id).state}.", "Only a live job has a priority.")
        return job

    def asked(self, ask: Ask) -> Submitted | None:
        """What the same ask led to before; ask this first, then `submit`.

        Raises:
            Conflict: `idempotency_key_reused`, its key stands for another ask.
        """
        with self.database.reading() as session:
            row = session.get(IdempotencyKey, ask.key)
            if row is None:
                return None
            job = jobs.get(session, row.job_id)
        if row.fingerprint != ask.fingerprint:
            raise Conflict(
                "idempotency_key_reused", "This Idempotency-Key stands for another request.", "Make a new key for it."
            )
        return Submitted(job, row.created)

    # -- the rescue's part ----------------------------------------------------------------------------------

    def resend(self, lost: list[Job]) -> None:
        """New tickets for jobs whose tickets Redis lost; they wait in the outbox."""
        with self.database.single() as connection:
            connection.execute(RESEND, {"these": _tickets(lost)})

    def ring(self, job: Job) -> bool:
        """Send the job's ticket and note that it went out. False: Redis is away."""
        return self.ring_all([job]) == 1

    def ring_all(self, waiting: list[Job]) -> int:
        """Ring for each until Redis is away, and note it for all at once: a ticket that is sent twice is one.

        Returns:
            For how many.
        """
        sent = list(itertools.takewhile(self.broker.send, waiting))
        if sent:
            reached("ticket.sent")
            with self.database.single() as connection:
                connection.execute(NOTE_SENT, {"these": _tickets(sent)})
        return len(sent)

    def recover_lost(self) -> list[Job]:
        """Take running jobs from workers that fell silent: back to the queue, or failed after too many.

        Nobody, for seconds after the database was out of reach: it was so for their hearts, too.
        """
        if self.database.seconds_since_away() < self.settings.lease_seconds / 2:
            return []
        with self.database.reading() as session:
            found = jobs.silent(session)
        return [moved for job in found if (moved := self._recover(job)) is not None]

    def _recover(self, job: Job) -> Job | None:
        guard = self._fence(job.id, job.attempt) & (col(Job.lease_until) < now())
        lost = job.lost + 1
        log.warning("job.worker_lost", job_id=job.id, worker=job.lease_owner, lost=lost)
        if lost >= self.settings.max_lost:
            error = {
                "code": "worker_lost", "message": f"{lost} workers died while they ran this job.", "retryable": False,
                "hint": "Look into the workers' logs for what kills them, then retry the job.",
            }  # fmt: skip
            return self._update(job.id, guard, state=JobState.FAILED, lost=lost, error=error, finished_at=now())
        return self._update(
            job.id, guard, lost=lost, ticket=job.ticket + 1, sent_at=None, not_before=0.0, **_as_wished()
        )

    def lead_on(self, job: Job, lane: str, error: dict[str, Any] | None) -> Job | None:
        """Have a job that waits go to another lane, or say why it waits on; None: it waits no more."""
        guard = (col(Job.state) == JobState.QUEUED) & (col(Job.ticket) == job.ticket)
        moved = {"lane": lane, "ticket": job.ticket + 1, "sent_at": None} if lane != job.lane else {}
        return self._update(job.id, guard, error=error, **moved)

    def lift_overdue(self) -> list[Job]:
        """Let what waited too long go with the HIGH ones: in each lane the oldest, and one at a time."""
        with self.database.reading() as session:
            found = jobs.overdue(session, self.settings.age_seconds)
        return [lifted for job in found if (lifted := self._lift(job)) is not None]

    def _lift(self, job: Job) -> Job | None:
        guard = (col(Job.state) == JobState.QUEUED) & (col(Job.ticket) == job.ticket)
        return self._update(job.id, guard, urgency=int(Priority.HIGH), aged=True, ticket=job.ticket + 1, sent_at=None)

    def prune(self) -> int:
        """Forget jobs that ended long ago, so that the table stays bounded. Answers how many."""
        settings, forgotten = self.settings, 0
        with self.database.reading() as session:
            surplus = jobs.surplus_before(session, settings.keep_ended)
        for state in ENDED:
            days = settings.keep_succeeded_days if state == JobState.SUCCEEDED else settings.keep_failed_days
            while count := self._forget(state, days * 86_400, surplus):
                forgotten += count
        return forgotten

    def _forget(self, state: JobState, seconds: float, surplus: float) -> int:
        """One small transaction's worth of old jobs."""
        with self.database.session() as session:
            old = jobs.ended_before(session, state, seconds, surplus)
            # Ended still: somebody may have had one retried since.
            still = delete(JOBS).where(col(Job.id).in_(old), col(Job.state) == state).returning(JOBS.c.id)
            gone = session.connection().execute(still).scalars().all()
            session.exec(delete(IdempotencyKey).where(col(IdempotencyKey.job_id).in_(gone)))
        return len(gone)

    def first_in_slot(self, name: str, seconds: float) -> bool:
        """True for one caller per slot of that many seconds, over all processes."""
        with self.database.session() as session:
            slot = int(session.exec(select(now())).one() // seconds * seconds * 1000)  # ms, as those of schedules
            row = {"name": name, "slot": slot, "ran_at": now()}
            insert = self._insert(ScheduleRun).values(**row).on_conflict_do_nothing().returning(ScheduleRun)
            won = session.exec(insert).one_or_none() is not None
            if won:
                old = (col(ScheduleRun.name) == name) & (col(ScheduleRun.slot) < slot - 100_000 * seconds)
                session.exec(delete(ScheduleRun).where(old))
            return won

    # -- the one way a row changes --------------------------------------------------------------------------

    def _end(self, job_id: str, attempt: int, state: JobState, **values: Any) -> bool:
        return self._move(END, job_id, fence=attempt, state=state, **values) is not None

    def _settle(self, job_id: str, attempt: int, **values: Any) -> bool:
        return self._update(job_id, self._fence(job_id, attempt), **values, lease_until=None) is not None

    def _update(self, job_id: str, guard: ColumnElement[bool], **values: Any) -> Job | None:
        return self._move(update(JOBS).where(JOBS.c.id == job_id, guard).values(**values).returning(*JOBS.c))

    def _move(self, statement: Executable, job_id: str | None = None, **bound: Any) -> Job | None:
        with self.database.transaction() if audit.waits() else self.database.single() as connection:
            job = _one(connection, statement, **({} if job_id is None else {"job_id": job_id, **bound}))
            if job is not None:
                audit.witness(connection)
        if job is not None:
            reached("ledger", job.state)
            self._changed(job)
        return job

    def _get(self, job_id: str) -> Job:
        with self.database.reading() as session:
            return jobs.get(session, job_id)

    def _fence(self, job_id: str, attempt: int) -> ColumnElement[bool]:
        return (col(Job.id) == job_id) & (col(Job.attempt) == attempt) & (col(Job.state) == JobState.RUNNING)

    def _changed(self, job: Job) -> None:
        if self._aside is not None:
            self._aside(job)
        else:
            self.announce([job])

    def announce(self, changed: list[Job]) -> None:
        """Tell of all, then ring for those that wait for a worker: it tells of them next. The rescue rings the rest."""
        for job in changed:
            self._tell(job)
        waiting = [job for job in changed if job.state == JobState.QUEUED and job.sent_at is None]
        self.ring_all([job for job in waiting if job.not_before == 0.0])

    def _tell(self, job: Job) -> None:
        self.events.publish(
            "job.state", jobId=job.id, kind=job.kind, modelId=job.model_id, status=job.state, attempt=job.attempt,
            priority=Priority(job.priority).name, phase=job.phase, error=job.error,
        )  # fmt: skip


def _tickets(found: list[Job]) -> list[tuple[str, int]]:
    return [(job.id, job.ticket) for job in found]


def _as_wished() -> dict[str, Any]:
    """Where a run goes that ends without an outcome: decided by the same statement that ends it."""
    cancelled, paused = col(Job.desired) == Desired.CANCEL, col(Job.desired) == Desired.PAUSE
    state = case((cancelled, JobState.CANCELLED.value), (paused, JobState.PAUSED.value), else_=JobState.QUEUED.value)
    return {"state": state, "finished_at": case((cancelled, now()), else_=None)}


def _reported(progress: Progress | None) -> dict[str, Any]:
    """What a report changes in the row, and under `fraction` what it does not take back."""
    if progress is None:
        return {}
    told = progress._asdict() | {"parts": list(progress.parts)}
    if progress.fraction is None:
        del told["fraction"]
    return told


def _one(connection: Connection, statement: Executable, **bound: Any) -> Job | None:
    row = connection.execute(statement, bound).mappings().first()
    return None if row is None else _to_read(**row)


def _to_read(**values: Any) -> Job:
    """A job that is only read, and belongs to no session: a tenth of the work of one that SQLAlchemy keeps track of."""
    return Job.model_construct(None, **values)


configure_mappers()  # else the columns of such a job cannot be read before the first query
