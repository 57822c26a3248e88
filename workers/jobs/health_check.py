"""A model is looked at: its files, its runner, and, where it is asked something tiny, its answer.

No lock is taken unless something is wrong, so nobody waits for a check; a lease holds the runner while it is asked, and
does not count as a use. What is found is a fact about bytes, or one more answer in a row of answers: see
`shared/health.py`.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import redis

from shared import health as policy
from shared.contracts import HealthCheck
from shared.db import catalog, health, upkeep
from shared.db.health import Found
from shared.db.tables import Installation, Model, Residency
from shared.errors import Conflict, ModelyardError, NotFound, Snooze, Unavailable
from shared.keys import installation_secret, runner_key
from shared.progress import Leases
from shared.routing import Router
from shared.states import HealthLevel, Holder, InstallationState, ResidencyState, VerifyTier, output_of
from workers import elsewhere
from workers.job import Work, job
from workers.jobs.verify import convict, mend, suspected
from workers.runtimes.known import ask_tiny

LOOK_SECONDS = 0.2
"""Between two looks whether the job is to go on."""
AGAIN_SECONDS = 2.0
"""Between two looks for a model that is on its way into memory."""
ORIGIN = "health"
PROBE_FAILED = "probe_failed"
TELLING = (
    PROBE_FAILED,
    "ollama_cannot_load",
    "crash_loop",
    "runner_exited",
    "runner_start_timeout",
    "runner_stuck",
    "wake_failed",
)
"""Why a model was not loaded, where that is the model's own fault; there may be no room for it, or no device."""
OLLAMAS = ("ollama_failed", "ollama_cannot_load", "ollama_silent")
"""What Ollama says, or not, of a model that it has in memory and that does not answer."""


class Answer(NamedTuple):
    """What came of asking, or why nobody was asked."""

    outcomes: tuple[bool, ...] = ()
    """As `Found` has them."""
    reason: dict[str, Any] | None = None
    """Each with `code`, `message` and `hint`."""
    seconds: float | None = None
    asked: bool = False


def _reason(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"code": code, "message": message, "hint": hint}


BUSY = Answer((), _reason("busy", "It is busy with others.", "Ask again."), asked=True)


@job(HealthCheck)
def health_check(args: HealthCheck, work: Work) -> dict[str, Any]:
    """Look, ask where that is wanted, and write down what it says about the model; damage is repaired."""
    services = work.services
    with services.database.reading() as session:
        model, installation = catalog.get_model(session, args.model_id), catalog.installation(session, args.model_id)
    if installation is None:
        raise Conflict("model_not_installed", f"Model {model.id!r} is not on disk.", f"modelyard pull {model.id}")
    work.report("looking at the files")
    files = _look(work, installation, args.level)
    with services.database.reading() as session:
        rows, resident = health.resident(session, installation)
        before = health.of_models(session, [model.id]).get(model.id)
    answer = _of_runner(rows)
    if not answer.outcomes and args.level is HealthLevel.LIVE and files["ok"]:
        answer = _ask(work, args, model, resident, before.answers if before else [])
    work.confirm()
    reasons = [answer.reason] if answer.reason and answer.outcomes else []
    found = Found(work.job_id, answer.outcomes, reasons, answer.seconds, answer.asked, resident)
    with services.database.session() as session:
        told = health.record(session, installation, found) if files["ok"] is not None else None
    if told is not None and told[0] is not told[1]:
        services.events.publish(
            "model.health", modelId=model.id, health=told[1], before=told[0], reasons=[each["code"] for each in reasons]
        )
    return {
        "modelId": model.id, "level": args.level, "health": told[1] if told else None, "files": files,
        "loadState": resident.state if resident else next((row.state for row in rows), None),
        "live": {
            "asked": answer.asked, "ok": all(answer.outcomes) if answer.outcomes else None, "seconds": answer.seconds,
            "why": answer.reason,
        },
    }  # fmt: skip


# -- its files ----------------------------------------------------------------------------------------------


def _look(work: Work, installation: Installation, level: HealthLevel) -> dict[str, Any]:
    """What is with its files: `ok` None where its disk, or Ollama, is away."""
    tier = VerifyTier.BLAKE3 if level is HealthLevel.DEEP else VerifyTier.STAT
    try:
        if installation.holder != Holder.STORE:
            return elsewhere.verify(work, installation, tier)
        if installation.state == InstallationState.CORRUPT and tier is VerifyTier.STAT:  # a look acquits nobody
            mending = mend(work.services, installation.model_id, ORIGIN)
            return {"ok": False, "score": installation.integrity, "problems": installation.problems} | mending
        if installation.state == InstallationState.CORRUPT or suspected(work, installation, tier):
            return convict(work, installation, tier, ORIGIN) or {"ok": None, "why": "It has just been replaced."}
    except Unavailable as error:
        return {"ok": None, "why": error.message}
    if tier is VerifyTier.BLAKE3:
        with work.services.database.session() as session:
            upkeep.scrubbed(session, installation)
    return {"ok": True, "score": 1.0}


# -- its answer ---------------------------------------------------------------------------------------------


def _of_runner(rows: list[Residency]) -> Answer:
    if all(row.state != ResidencyState.CRASH_LOOP for row in rows):
        return Answer()
    why = _reason("crash_loop", "Its runner ended again and again.", "The log of the device worker has its last words.")
    return Answer((False,) * policy.FAILURES, why)  # five ends in ten minutes are proof enough


def _ask(work: Work, args: HealthCheck, model: Model, resident: Residency | None, usual: list[float]) -> Answer:
    if resident is None:
        return _load(work, args, model)
    leases = work.services.leases
    with leases.held(resident.id, is_use=False) as held:
        if not held:
            return Answer((), _reason("draining", "It is about to leave memory.", "Ask again."))
        work.report("asking")
        busy = _is_busy(leases, resident)
        seconds, error = _timed(work, lambda: _question(work, model, resident))
        busy = busy or _is_busy(leases, resident)
    return judge(seconds, error, usual, busy=busy)


def _is_busy(leases: Leases, resident: Residency) -> bool:
    """Does somebody else hold it? While Redis is away, perhaps."""
    try:
        return leases.count(resident.id) > 1
    except redis.RedisError:
        return True


def _load(work: Work, args: HealthCheck, model: Model) -> Answer:
    """Nobody can be asked; where that is wanted, it is loaded for it.

    Raises:
        Snooze: it is on its way.
    """
    if not args.load:
        return Answer((), _reason("not_in_memory", "It is not in memory.", f"modelyard load {model.id}"))
    try:
        route = Router(work.services.ledger, load_on_use=True).find(model.id, output_of(model.type))
    except (Conflict, NotFound, Unavailable) as error:
        return Answer((False,) if error.code in TELLING else (), _reason(error.code, error.message, error.hint))
    if route is None or route.model_id == model.id:
        raise Snooze(AGAIN_SECONDS, f"{model.id!r} is on its way into memory.", "model_loading")
    return Answer((), _reason("fallback", f"{route.model_id!r} answers in its place.", f"modelyard load {model.id}"))


def _question(work: Work, model: Model, resident: Residency) -> None:
    settings = work.services.settings
    key = "" if resident.known_as is not None else runner_key(installation_secret(settings), resident.id)
    ask_tiny(settings, resident.runtime, output_of(model.type), str(resident.url), key, resident.known_as)


def _timed(work: Work, ask: Callable[[], None]) -> tuple[float, ModelyardError | None]:
    """Seconds until the answer, and what was wrong with it. A job that is stopped meanwhile waits for no answer."""
    failed: list[ModelyardError] = []
    crashed: list[Exception] = []
    began = time.monotonic()

    def run() -> None:
        try:
            ask()
        except ModelyardError as error:
            failed.append(error)
        except Exception as error:  # noqa: BLE001 - it is the caller's, and is raised there
            crashed.append(error)

    asking = threading.Thread(target=run, name="health", daemon=True)
    asking.start()
    while asking.is_alive():
        asking.join(LOOK_SECONDS)
        work.checkpoint()
    seconds = time.monotonic() - began
    if crashed:
        raise crashed[0]
    return seconds, failed[0] if failed else None


def judge(seconds: float, error: ModelyardError | None, usual: list[float], *, busy: bool) -> Answer:
    """What an answer says about the model: where others were asking too, not that it was slow."""
    status = error.details.get("status") if error is not None else None
    if error is not None and error.code in (PROBE_FAILED, *OLLAMAS):
        if status == httpx.codes.SERVICE_UNAVAILABLE or (busy and not status):
            return BUSY
        message = error.message.replace("The model was loaded, but its", "Its")
        return Answer((False,), _reason("bad_answer", message, error.hint), asked=True)
    if error is not None:
        return Answer((), _reason(error.code, error.message, error.hint), asked=True)
    if policy.slow(seconds, usual):
        if busy:
            return BUSY
        message = f"Its answer took {seconds:.1f} s, far longer than usual."
        return Answer((False,), _reason("slow_answer", message, "See what else its device does."), seconds, asked=True)
    return Answer((True,), None, None if busy else seconds, asked=True)
