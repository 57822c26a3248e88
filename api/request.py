"""Somebody wants to use a model: is it ready, what happens next, how long that takes, and what else is ready now."""

import time
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from api.status import RemoteView, view_remote
from api.views import ErrorView, JobView, View, eta_seconds, view_job
from api.waiting import place, until_new
from shared import fit
from shared.contracts import Download, Load, Repair
from shared.db import asked, catalog
from shared.db.facts import Facts
from shared.db.tables import Installation, Job, Model
from shared.jobs import Ledger
from shared.states import Availability, JobState, Priority, ResidencyState

ORIGIN = "request"
MOST_ALTERNATIVES = 5


class Act(StrEnum):
    """What the caller has to do."""

    NOTHING = "nothing"
    """It is ready, or on its way."""
    START = "start"
    """Ask for it: `start` was false."""
    RESUME = "resume"
    RETRY = "retry"
    MEND = "mend"
    """Something that only people can do: put files back, mount a disk, start Ollama, accept a licence, enable it."""


@dataclass(frozen=True)
class Situation:
    """How it stands with a model."""

    model_id: str
    availability: Availability
    enabled: bool
    answers: bool
    """It is in memory, and answers now."""
    coming: bool
    """It is on its way into memory."""
    runnable: bool
    """A runtime here runs it, as far as its files tell; else it is ready once it is on disk."""
    loads_on_use: bool
    job: str | None = None
    """What brings it, or did."""
    problem: str | None = None
    """Why that failed."""
    hint: str | None = None


@dataclass(frozen=True)
class Advice:
    """What is to be said, and what would bring it nearer."""

    ready: bool
    next: str
    act: Act
    todo: str = ""
    bring: type[Download | Repair | Load] | None = None
    """The job that does so, unless the caller only wants to be told."""


def advise(its: Situation) -> Advice:
    """What happens next with it."""
    if not its.enabled:
        todo = f"PUT /api/v1/models/{its.model_id}/enabled with true, or take another one."
        return Advice(False, "Nothing: somebody has disabled it.", Act.MEND, todo)
    if its.answers:
        return Advice(True, "It answers now.", Act.NOTHING)
    if its.availability in (Availability.AVAILABLE, Availability.UPDATING):
        return _on_disk(its)
    return _brought(its)[its.availability]


def _brought(its: Situation) -> dict[Availability, Advice]:
    """By how it stands with the files of a model that cannot be used yet."""
    follow = f"Follow it: modelyard jobs {its.job}."
    failed = f"Nothing: its download failed. {its.problem or ''}".strip()
    again = f"{its.hint or ''} Then: modelyard retry {its.job}".strip()
    mount = "Mount the disk, or start Ollama, that has it; then: modelyard scan. Nothing is lost."
    return {
        Availability.DOWNLOADING: Advice(False, "Its files come.", Act.NOTHING, follow),
        Availability.QUEUED: Advice(False, "Its files come as soon as it is its turn.", Act.NOTHING, follow),
        Availability.PAUSED: Advice(
            False, "Nothing: its download rests.", Act.RESUME, f"modelyard resume {its.job}"
        ),
        Availability.FAILED: Advice(False, failed, Act.RETRY, again),
        Availability.UNAVAILABLE: Advice(False, "Nothing: what has its files is out of reach.", Act.MEND, mount),
        Availability.CORRUPTED: Advice(
            False, "Its damaged files are fetched again.", Act.START, f"modelyard repair {its.model_id}", Repair
        ),
        Availability.MISSING: Advice(
            False, "Its files are fetched.", Act.START, f"modelyard pull {its.model_id}", Download
        ),
    }  # fmt: skip


def _on_disk(its: Situation) -> Advice:
    if its.coming:
        return Advice(False, "It is being loaded.", Act.NOTHING, "Ask it; the request waits.")
    if not its.runnable:
        return Advice(True, "Its files are whole; no runtime here runs it, so its own program has to.", Act.NOTHING)
    act = Act.NOTHING if its.loads_on_use else Act.START
    return Advice(False, "It is loaded with the first request.", act, f"modelyard load {its.model_id}", Load)


class Alternative(View):
    """Another model that does the same, and is ready now."""

    model_id: str
    name: str
    in_memory: bool = Field(description="It answers now; false: it is whole on disk, and loaded by a request.")


class RequestResult(View):
    """What became of the request."""

    model_id: str
    ready: bool
    availability: Availability
    load_state: str | None
    next: str = Field(description="What happens next, by itself.")
    action_required: bool
    action: Act = Field(description="What the caller has to do.")
    todo: str = Field(description="How.")
    estimated_wait_seconds: float | None = Field(description="Until it is ready; null where nothing tells.")
    wait_parts: dict[str, float | None] = Field(description="Of which: queue, download, load; null: unknown.")
    job: JobView | None
    alternatives: list[Alternative]
    problem: ErrorView | None = None
    source: RemoteView | None = Field(None, description="What its source said when it was last asked.")


def requested(
    ledger: Ledger, model_id: str, *, start: bool, priority: Priority | None, loads_on_use: bool
) -> RequestResult:
    """Tell how it stands, and set about what is missing.

    Args:
        priority: of the job; None: as the model has it.

    Raises:
        NotFound: no such model.
    """
    with ledger.database.reading() as session:
        model = catalog.get_model(session, model_id)
        facts = Facts(session, [model_id])
        others = asked.alternatives(session, model, MOST_ALTERNATIVES)
    its, fetch = _situation(model, facts, loads_on_use=loads_on_use), facts.fetches.get(model_id)
    advice, job = advise(its), fetch if fetch is not None and fetch.state not in DONE else None
    started = advice.bring is not None and start
    if advice.bring is not None and start:
        wanted = priority if priority is not None else facts.priority(model)
        urgency = min(wanted, Priority.HIGH) if advice.bring is Repair else wanted
        origin = ORIGIN if advice.bring is Load else "rest"  # to load it is what any request to it would do
        job = ledger.submit(advice.bring(model_id=model_id), origin=origin, priority=urgency).job
    position, begins = place(ledger.database, job) if job is not None else (None, None)
    parts = _parts(ledger, model, facts.installations.get(model_id), its, job, begins)
    act = Act.NOTHING if started else advice.act
    return RequestResult(
        model_id=model_id, ready=advice.ready, availability=its.availability,
        load_state=next((row.state for row in facts.residencies.get(model_id, [])), None),
        next=advice.next if act is not Act.START else f"Nothing, until somebody starts it. {advice.next}",
        action_required=act is not Act.NOTHING, action=act, todo=advice.todo,
        estimated_wait_seconds=_wait(advice, parts), wait_parts=parts,
        job=view_job(job, position, begins) if job is not None else None,
        alternatives=[Alternative(model_id=other.id, name=other.name, in_memory=ready) for other, ready in others],
        problem=ErrorView.model_validate(fetch.error) if fetch is not None and fetch.error else None,
        source=view_remote(model.remote),
    )  # fmt: skip


def _wait(advice: Advice, parts: dict[str, float | None]) -> float | None:
    """Nobody knows how long people take."""
    if advice.ready:
        return 0.0
    known = [part for part in parts.values() if part is not None]
    people = advice.act not in (Act.NOTHING, Act.START)
    return None if people or len(known) < len(parts) else sum(known)


DONE = (JobState.SUCCEEDED, JobState.CANCELLED, JobState.REJECTED)


def _situation(model: Model, facts: Facts, *, loads_on_use: bool) -> Situation:
    row, fetch = facts.installations.get(model.id), facts.fetches.get(model.id)
    held = [each.state for each in facts.residencies.get(model.id, [])]
    error = (fetch.error or {}) if fetch is not None else {}
    return Situation(
        model.id, facts.availability(model.id), model.enabled, answers=ResidencyState.READY in held,
        coming=ResidencyState.STARTING in held,
        runnable=row is not None and bool(fit.runtime_of(row.facts, row.holder, model.type)),
        loads_on_use=loads_on_use, job=fetch.id if fetch is not None else None,
        problem=error.get("message"), hint=error.get("hint"),
    )  # fmt: skip


def _parts(
    ledger: Ledger, model: Model, row: Installation | None, its: Situation, job: Job | None, begins: float | None
) -> dict[str, float | None]:
    """Seconds of queue, download and load that are still to come; None where nothing tells."""
    on_disk = its.availability in (Availability.AVAILABLE, Availability.UPDATING)
    size = row.size if row is not None else (model.remote or {}).get("size") or model.file_size
    with ledger.database.reading() as session:
        rate = asked.bytes_per_second(session)
        load = asked.load_seconds(session, model.id, size) if its.runnable or not on_disk else 0.0
    if on_disk:
        return {"queue": 0.0, "download": 0.0, "load": load}
    if job is not None and job.state == JobState.RUNNING:
        return {"queue": 0.0, "download": eta_seconds(job), "load": load}
    queue = until_new(ledger.database, Priority.MEDIUM) if job is None else begins and max(0.0, begins - time.time())
    return {"queue": queue, "download": size / rate if size and rate else None, "load": load}
