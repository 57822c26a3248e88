"""The one way every kind of job takes: adopt, claim, run under a lease, decide the outcome.

A body is a plain function of its contract and a `Work`. It calls `work.checkpoint()` in every loop and may be run
twice; what its errors mean for the job is decided here and nowhere else.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from shared.broker import Broker
from shared.contract import Contract
from shared.contracts import KINDS, parse
from shared.db.limits import FETCHING
from shared.db.session import Database
from shared.db.tables import Job
from shared.errors import (
    Cancelled,
    Failed,
    Interrupted,
    Invalid,
    LeaseLost,
    MadeWay,
    ModelyardError,
    Paused,
    Snooze,
    Stop,
    Unavailable,
)
from shared.jobs import Ledger, Progress, error_body
from shared.logs import job_context
from shared.points import reached
from shared.progress import Events, Leases, Workers
from shared.queues import IO, parse_queue
from shared.settings import Settings
from shared.states import Desired, Priority
from shared.tracing import Steps, of_job
from workers.governor import Governor
from workers.governor.flows import Flows

if TYPE_CHECKING:
    from workers.residency.manager import Manager
    from workers.store.layout import Layout

log = structlog.get_logger()

EVENT_SECONDS = 0.25
"""Progress is published at most this often."""
LOOK_SECONDS = 0.25
"""How often a worker whose slots are all taken looks for a more urgent job."""
ADOPT_AGAIN_SECONDS = 2.0
CLAIM_AGAIN_SECONDS = 1.0
OUTCOME_AGAIN_SECONDS = 1.0
TRUSTED_SHARE = 0.7
"""Of its lease, how long an attempt goes on without having heard from the ledger."""
LEDGER_LOOK_SECONDS = 0.2
SPEED_SECONDS = 5.0
"""Time constant of the moving average of bytes per second."""
SETTLE_SECONDS = 1.0
"""No speed, and so no time left, is told before it was measured for so long: the first bytes say nothing."""


@dataclass
class Services:
    """What bodies work with; made once per worker process."""

    settings: Settings
    database: Database
    broker: Broker
    events: Events
    leases: Leases
    workers: Workers
    ledger: Ledger
    layout: "Layout"
    owner: str
    """Name of this worker process: who holds a lease."""
    manager: "Manager | None" = None
    """On device workers only."""

    def __post_init__(self) -> None:
        self.governor = Governor(self.database, Flows(self.events.client))

    @cached_property
    def store(self) -> str:
        """The id of the store that this process works on; raises as `Layout.check_marker`."""
        return self.layout.check_marker()


class Message(NamedTuple):
    """A Celery message, ours or another service's."""

    id: str
    kind: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    ticket: int | None
    not_before: float = 0.0
    """Seconds since 1970; the ETA of a foreign message."""


class Work:
    """One attempt at one job, as its body sees it."""

    def __init__(self, services: Services, job: Job) -> None:
        self.services = services
        self.job_id = job.id
        self.attempt = job.attempt
        self._kind = job.kind
        self._model_id = job.model_id
        self._stop: Stop | None = None
        self._patience = services.settings.jobs.lease_seconds * TRUSTED_SHARE
        self.progress: Progress | None = None
        self.steps = Steps()
        self.span = (0.0, 1.0)
        """Share of the whole job that the fractions reported from now on stand for."""
        self.last_beat = time.monotonic()
        self._event_due = 0.0
        self._done: int | None = None
        self._speed: float | None = None
        self._measured: tuple[float, int] | None = None

    def checkpoint(self) -> None:
        """Call at least twice a second in every loop. Waits while the ledger is out of reach for too long.

        Raises:
            Stop: the job was cancelled or paused, its lease is lost, or the worker shuts down.
        """
        while self._stop is None and time.monotonic() - self.last_beat > self._patience:
            time.sleep(LEDGER_LOOK_SECONDS)  # the lease may be another's by now; the heart will hear whose it is
        if self._stop is not None:
            raise self._stop

    @property
    def makes_way(self) -> bool:
        """It was told to give its slot to another job."""
        return isinstance(self._stop, MadeWay)

    def stop(self, reason: Stop) -> None:
        """Make the next checkpoint raise."""
        self._stop = self._stop or reason

    def confirm(self) -> None:
        """Make sure, by the ledger, that this attempt still owns the job: right before what cannot be undone.

        Raises:
            Stop: it does not, or people want it stopped.
        """
        while True:
            self.checkpoint()
            try:
                self.heard(self.services.ledger.beat(self.job_id, self.attempt, self.progress))
                break
            except Unavailable:
                time.sleep(LEDGER_LOOK_SECONDS)
        self.checkpoint()

    def heard(self, desired: Desired | None) -> None:
        """What the last heartbeat answered."""
        self.last_beat = time.monotonic()
        if desired is None:
            self.stop(LeaseLost("another attempt owns the job"))
        elif desired is Desired.CANCEL:
            self.stop(Cancelled("cancelled"))
        elif desired is Desired.PAUSE:
            self.stop(Paused("paused"))

    def report(
        self,
        phase: str,
        *,
        done: int | None = None,
        total: int | None = None,
        fraction: float | None = None,
        parts: tuple[dict[str, Any], ...] = (),
    ) -> None:
        """Say how far the whole job is: bytes `done` of `total`, or a `fraction` 0 to 1. Cheap; call it often."""
        self._done = self._done if done is None else done
        if fraction is None and done is not None and total:
            fraction = min(done / total, 1.0)
        if fraction is not None:
            start, stop = self.span
            fraction = start + fraction * (stop - start)
        moment = time.monotonic()
        due = moment >= self._event_due or self.progress is None or self.progress.phase != phase
        if not due:
            return
        if self.progress is None or self.progress.phase != phase:
            self.steps.begin(phase)
        self._event_due = moment + EVENT_SECONDS
        self._measure(moment, done)
        if self.progress is not None and done is None:
            done, total = self.progress.bytes_done, self.progress.bytes_total
        self.progress = Progress(phase, fraction, done, total, self._speed, parts)
        self.services.events.publish(
            "job.progress", jobId=self.job_id, kind=self._kind, modelId=self._model_id, attempt=self.attempt,
            phase=phase, progress=fraction, bytesDone=done, bytesTotal=total, bytesPerSecond=self._speed,
            parts=list(parts),
        )  # fmt: skip

    def final(self) -> Progress | None:
        """The last report, with the bytes as they were at the end whatever was published of them."""
        return (
            self.progress._replace(bytes_done=self._done) if self.progress and self._done is not None else self.progress
        )

    def _measure(self, moment: float, done: int | None) -> None:
        then, before = self._measured or (moment, done or 0)
        if done is None or done < before or self._measured is None:  # what a resume finds on disk is no speed
            self._measured, self._speed = None if done is None else (moment, done), None
        elif moment - then >= (SETTLE_SECONDS if self._speed is None else 0.0) and moment > then:
            speed, weight = (done - before) / (moment - then), min((moment - then) / SPEED_SECONDS, 1.0)
            self._speed = speed if self._speed is None else self._speed + weight * (speed - self._speed)
            self._measured = (moment, done)


Args = TypeVar("Args", bound=Contract)
Result = dict[str, Any]
BODIES: dict[str, Callable[[Any, Work], Result]] = {}


def job(contract: type[Args]) -> Callable[[Callable[[Args, Work], Result]], Callable[[Args, Work], Result]]:
    """Register the body of a kind; the function itself stays as it is, so a test calls it directly."""

    def register(body: Callable[[Args, Work], Result]) -> Callable[[Args, Work], Result]:
        if contract.kind in BODIES:
            message = f"two bodies for {contract.kind}"
            raise RuntimeError(message)
        BODIES[contract.kind] = body
        return body

    return register


class Heart(threading.Thread):
    """Renews the leases of everything this process runs, and tells bodies when to stop."""

    def __init__(self, services: Services, lanes: tuple[str, ...], slots: int) -> None:
        super().__init__(name="heart", daemon=True)
        self._services = services
        self.lanes = lanes
        self._slots = slots
        self._lock = threading.Lock()
        self._works: set[Work] = set()  # not by job: an attempt may still unwind while the next one runs
        self.closing = threading.Event()

    def hold(self, work: Work) -> None:
        with self._lock:
            self._works.add(work)
            if self.closing.is_set():
                work.stop(Interrupted("the worker shuts down"))

    def release(self, work: Work) -> None:
        with self._lock:
            self._works.discard(work)

    def close(self) -> None:
        """This worker shuts down: every job goes back to its queue at its next checkpoint."""
        with self._lock:
            self.closing.set()
            for work in self._works:
                work.stop(Interrupted("the worker shuts down"))

    def run(self) -> None:
        seconds, due = self._services.settings.jobs.heartbeat_seconds, time.monotonic()
        while self._works or not self.closing.is_set():
            time.sleep(min(seconds, LOOK_SECONDS))
            with self._lock:
                works = list(self._works)
            if len(works) >= self._slots:
                self._make_way(works, partial(self._services.ledger.make_way, self.lanes))
            if time.monotonic() >= due:
                due = time.monotonic() + seconds
                for work in works:
                    self._beat(work)
                if works:
                    self._make_way(works, self._services.ledger.make_room)

    def _make_way(self, works: list[Work], ask: Callable[[str, list[str]], tuple[str, int] | None]) -> None:
        """No slot, or no room under a limit, is free: stop the least urgent job, if it is here and one waits for it."""
        leaving = [work.job_id for work in works if work.makes_way]
        try:
            least = ask(self._services.owner, leaving)
        except Exception as error:  # noqa: BLE001 - see below
            log.warning("heart.look_missed", error=repr(error))
            return
        for work in works:
            if least == (work.job_id, work.attempt):
                work.stop(MadeWay("a more urgent job waits"))

    def _beat(self, work: Work) -> None:
        try:
            work.heard(self._services.ledger.beat(work.job_id, work.attempt, work.progress))
        except Exception as error:  # noqa: BLE001 - a heart that stops beating loses every job
            log.warning("heart.missed", job_id=work.job_id, error=repr(error))


def receive(services: Services, heart: Heart, message: Message) -> None:
    """A message has arrived: make it a job if it is none yet, then run it if it is this one's turn."""
    with job_context(job_id=message.id, kind=message.kind):
        ticket = message.ticket if message.ticket is not None else _adopted(services, heart, message)
        if ticket is None:
            return
        reached("job.received")
        if (claimed := _claimed(services, heart, message.id, ticket)) is not None:
            _run(services, heart, claimed)


def _claimed(services: Services, heart: Heart, job_id: str, ticket: int) -> Job | None:
    """Claim the job, however long the ledger is away: its message is used up, and the rescue would find that late."""
    while True:
        try:
            claimed = services.ledger.claim(job_id, ticket, services.owner, *heart.lanes)
        except Unavailable as error:
            log.warning("claim.waits", code=error.code)
            if heart.closing.wait(CLAIM_AGAIN_SECONDS):
                return None
        else:
            if claimed is None:
                log.info("ticket.stale", ticket=ticket)
            return claimed


def _adopted(services: Services, heart: Heart, message: Message) -> int | None:
    """Adopt a foreign message, waiting for the ledger as long as it takes: the message exists nowhere else."""
    while True:
        try:
            return _adopt(services, message)
        except Unavailable as error:
            log.warning("message.waits", code=error.code)
            if heart.closing.wait(ADOPT_AGAIN_SECONDS):
                services.broker.put_back(message.kind, message.id, message.kwargs, message.queue, message.not_before)
                return None


def _adopt(services: Services, message: Message) -> int | None:
    """The ticket under which a foreign message may run here and now, None if it may not."""
    try:
        if message.args:
            raise Invalid(
                "invalid_arguments", "Arguments must be named.", "Send them as kwargs; see docs/contracts.md."
            )
        kwargs = dict(message.kwargs)
        wanted = _priority(kwargs.pop("priority", None))
        contract = parse(message.kind, kwargs)
    except Invalid as error:
        services.ledger.reject(message.id, message.kind, message.kwargs, error)
        log.warning("message.rejected", code=error.code, reason=error.message)
        return None
    place = parse_queue(message.queue)
    priority = wanted if wanted is not None else place[0] if place else None
    submitted = services.ledger.adopt(
        contract, origin="foreign", priority=priority, job_id=message.id, here=place[1] if place else None,
        not_before=message.not_before,
    )  # fmt: skip
    if submitted.job.id != message.id:
        joined = Invalid(
            "joined", f"Job {submitted.job.id} does the same work already.", f"Follow /api/v1/jobs/{submitted.job.id}.",
            {"jobId": submitted.job.id},
        )  # fmt: skip
        services.ledger.reject(message.id, message.kind, message.kwargs, joined)
        return None
    log.info("message.adopted", created=submitted.created)
    due = place is not None and submitted.job.lane == place[1] and not message.not_before
    return submitted.job.ticket if due else None


def _priority(name: Any) -> Priority | None:
    if name is None:
        return None
    try:
        return Priority[str(name).upper()]
    except KeyError:
        raise Invalid(
            "invalid_priority", f"{name!r} is not a priority.", "Use CRITICAL, HIGH, MEDIUM or LOW."
        ) from None


def _run(services: Services, heart: Heart, claimed: Job) -> None:
    work = Work(services, claimed)
    heart.hold(work)
    log.info("job.started", attempt=claimed.attempt)
    reached("job.claimed")
    began = time.monotonic()
    told = {"job_id": claimed.id, "attempt": claimed.attempt, "lane": claimed.lane, "model_id": claimed.model_id}
    try:
        with of_job(claimed.kind, claimed.traceparent, **told) as work.steps:
            outcome, write = _handed_on(services, heart, claimed) or _carry_out(services, claimed, work)
            work.steps.end(outcome)
        reached("job.carried_out")
        _insist(heart, write)
        if claimed.kind in FETCHING:
            _insist(heart, partial(_let_in, services.ledger))
    finally:
        heart.release(work)
    log.info("job.ended", outcome=outcome, seconds=round(time.monotonic() - began, 3))


def _let_in(ledger: Ledger) -> None:
    """One download less: another may have waited for that."""
    if ledger.downloads_are_counted():
        ledger.let_in()


Write = Callable[[], object]


def _insist(heart: Heart, write: Write) -> None:
    """Write an outcome, or what follows from it, however long the ledger is away.

    The heart keeps the lease, and the fence judges at the end.
    """
    while True:
        try:
            write()
            return
        except Unavailable as error:
            log.warning("outcome.waits", code=error.code)
            if heart.closing.wait(OUTCOME_AGAIN_SECONDS):
                return  # the lease runs out, and the next attempt finds the work done; the rescue lets in who waits


def _handed_on(services: Services, heart: Heart, claimed: Job) -> tuple[str, Write] | None:
    """A job that cannot be done here goes where it can: it was asked for when there was one store, or its model has
    moved."""
    kind = KINDS.get(claimed.kind)
    if kind is None or not kind.of_store or IO not in heart.lanes:
        return None
    try:
        lane = services.ledger.lane_of(parse(claimed.kind, claimed.args), heart.lanes)
    except ModelyardError:  # its body says what is wrong
        return None
    if lane in heart.lanes:
        return None
    return f"handed on to {lane}", lambda: services.ledger.hand_on(claimed.id, claimed.attempt, lane)


def _carry_out(services: Services, claimed: Job, work: Work) -> tuple[str, Write]:
    """Run the body; every ending of every kind is decided here. Answers what to log and what to write."""
    ledger, key = services.ledger, (claimed.id, claimed.attempt)
    try:
        contract = parse(claimed.kind, claimed.args)
        result = BODIES[claimed.kind](contract, work)
    except Stop as stop:
        return _stopped(ledger, key, stop)
    except Unavailable as error:
        return _retry(services, claimed, error)
    except ModelyardError as error:
        log.warning("job.failed", code=error.code, reason=error.message)
        failure = error
    except Exception:
        log.exception("job.crashed")
        failure = Failed("internal_error", "The job met a defect of Modelyard.", "The worker's log has the details.")
    else:
        return "succeeded", lambda: ledger.succeed(*key, result, work.final())
    return f"failed: {failure.code}", lambda: ledger.fail(*key, failure)


def _stopped(ledger: Ledger, key: tuple[str, int], stop: Stop) -> tuple[str, Write]:
    """A body ended early without having failed."""
    told = f"stopped: {stop}"
    match stop:
        case Cancelled() | Paused():
            return told, lambda: ledger.stop(*key)
        case Snooze():
            waits = {"code": stop.code, "message": stop.why, "hint": stop.hint, "retryable": True}
            return told, lambda: ledger.again(*key, stop.seconds, waits)
        case Interrupted():
            return told, lambda: ledger.again(*key, 0)
        case MadeWay():
            return told, lambda: ledger.give_way(*key)
        case _:  # the lease is lost: nothing of this attempt may be written any more
            return told, lambda: None


def _retry(services: Services, claimed: Job, error: Unavailable) -> tuple[str, Write]:
    ledger, key, settings = services.ledger, (claimed.id, claimed.attempt), services.settings.jobs
    if claimed.retries >= settings.max_retries:
        return f"failed: {error.code} after {claimed.retries} retries", lambda: ledger.fail(*key, error)
    wait = backoff(claimed.retries, settings.backoff_seconds, settings.backoff_cap_seconds)
    delay = max(error.retry_after or 0.0, wait)
    body = error_body(error, retry_at=time.time() + delay)
    return f"again in {delay:.1f} s: {error.code}", lambda: ledger.again(*key, delay, body, counted=True)


def backoff(failures: int, first: float, most: float) -> float:
    """Seconds to wait after so many failures before: `first`, doubled each time, up to `most`; half of it by chance."""
    return min(first * 2.0 ** min(failures, 64), most) * random.uniform(0.5, 1.0)
