"""A profile comes into force: its models and no others are enabled, have its settings, are on disk and in memory."""

import contextlib
import time
from typing import Any

from shared.contract import OfModel
from shared.contracts import ApplyProfile, Download, Load, Switch, Unload
from shared.db import jobs, profiles
from shared.db.profiles import Fit
from shared.db.session import serialise
from shared.db.tables import Job
from shared.errors import Conflict, Failed, Invalid, Snooze
from shared.jobs import error_body
from shared.profiles import Profile
from shared.states import LIVE, JobState
from workers.job import Services, Work, job

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 10.0
"""How long it keeps its slot while other jobs do the work; then it looks again now and then."""
AGAIN_SECONDS = 5.0
ORIGIN = "profile"


@job(ApplyProfile)
def apply(args: ApplyProfile, work: Work) -> dict[str, Any]:
    """Change rows at once, then ask for what is missing until nothing is; safe to run again at any point."""
    services = work.services
    with services.database.reading() as session:
        profile, mine = profiles.read(session, args.name, args.digest), jobs.get(session, work.job_id)
    work.confirm()
    with services.database.session() as session:
        serialise(session, "profiles")  # a newer one is either seen here, or takes effect after this one
        if overtaken := profiles.overtaken_by(session, mine):
            return {"profile": profile.name, "overtakenBy": overtaken}
        changed = profiles.take_effect(session, profile)
    if changed.unknown:
        names = ", ".join(changed.unknown)
        raise Invalid("unknown_models", f"Not in the registry: {names}.", "Add them: modelyard pull REF --id ID.")
    if mine.progress is None:
        _ask_again(services, profile, mine)
    until = time.monotonic() + PATIENCE_SECONDS
    while waiting := (step := _Step(services, profile, mine)).ask():
        work.checkpoint()
        if overtaken := step.overtaken:
            return {"profile": profile.name, "overtakenBy": overtaken}
        work.report(f"waiting for {waiting} jobs", fraction=step.done)
        if time.monotonic() > until:
            raise Snooze(AGAIN_SECONDS, f"{waiting} jobs of the profile are under way.", "jobs_under_way")
        time.sleep(LOOK_SECONDS)
    if step.failed:
        raise _incomplete(profile, step.failed)
    return {"profile": profile.name, "enabled": profile.enabled_models, "loaded": step.loaded, "jobs": step.jobs}


def _ask_again(services: Services, profile: Profile, mine: Job) -> None:
    """It begins, or somebody has it retried: so is what had failed for it."""
    with services.database.reading() as session:
        asked = profiles.asked_since(session, mine.created_at, profile.enabled_models)
    for one in asked.values():
        if one.state in (JobState.FAILED, JobState.CANCELLED):
            with contextlib.suppress(Conflict):  # somebody was faster
                services.ledger.retry(one.id)


class _Step:
    """One look at what is left, and the asking for it."""

    def __init__(self, services: Services, profile: Profile, mine: Job) -> None:
        self._services = services
        self._profile = profile
        self._outlook = profiles.outlook(
            services.database, services.leases, profile, services.settings.runners.context_length
        )
        found = self._outlook.difference
        names = [*profile.enabled_models, *found.unload]
        with services.database.reading() as session:
            self._asked = profiles.asked_since(session, mine.created_at, names)
            self.overtaken = profiles.overtaken_by(session, mine)
        self.failed: dict[str, dict[str, Any]] = {}
        self.loaded = found.unchanged
        self.jobs = [job.id for job in self._asked.values()]
        self.done = len(found.unchanged) / max(1, len(found.unchanged) + len(found.load))
        self._waiting = 0

    def ask(self) -> int:
        """How many jobs are under way for it: what leaves first, then what is fetched, then what is loaded."""
        if self.overtaken:
            return 1
        found = self._outlook.difference
        for model_id in found.unload:
            self._need(Unload(model_id=model_id))
        room = self._waiting == 0
        for model_id in found.download:
            self._need(Download(model_id=model_id))
        for one in self._outlook.fits if room else ():
            self._load(one)
        return self._waiting

    def _load(self, one: Fit) -> None:
        if one.model_id in self._outlook.difference.download:
            return
        if one.error is not None:
            self.failed[one.model_id] = error_body(one.error)
        elif self._need(Switch(model_id=one.model_id) if one.serves else Load(model_id=one.model_id)):
            self.loaded.append(one.model_id)

    def _need(self, contract: OfModel) -> bool:
        """Ask for it once; True where that is done, False where it is under way or has failed."""
        before = self._asked.get((contract.kind, contract.model_id))
        if before is None:
            try:
                before = self._services.ledger.submit(contract, origin=ORIGIN).job
            except Conflict as error:  # jobs for the model come and go at this moment
                self.failed[contract.model_id] = error_body(error)
                return False
        if before.state in LIVE:
            self._waiting += 1
        elif before.state != JobState.SUCCEEDED:
            self.failed[contract.model_id] = before.error or {
                "code": before.state,
                "message": f"It was {before.state}.",
            }
        return before.state == JobState.SUCCEEDED


def _incomplete(profile: Profile, failed: dict[str, dict[str, Any]]) -> Failed:
    told = "; ".join(f"{model_id}: {error['message']}" for model_id, error in failed.items())
    return Failed(
        "profile_incomplete", f"{len(failed)} models of {profile.name!r} are not as they are to be: {told}",
        "Mend what is named, or set `load: false` for what does not fit; then retry the job.",
        {"models": failed},
    )  # fmt: skip
