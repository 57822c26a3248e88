"""Profiles of the folder and of the rows: shown, kept, and made ready to be applied."""

import difflib
from datetime import datetime
from typing import Any, Literal

import structlog
from pydantic import Field

from api.deps import Front
from api.profile_files import Fault, Found, folder_of, in_folder, invalid
from api.views import ErrorView, Part, View, moment
from shared.contracts import ApplyProfile
from shared.db import profiles
from shared.db.profiles import Fit
from shared.db.wishes import ProfileRow
from shared.errors import Conflict, Invalid, ModelyardError
from shared.jobs import error_body
from shared.profiles import ModelSettings, Profile
from shared.progress import Leases

log = structlog.get_logger()


class ProfileView(View):
    name: str
    description: str = ""
    enabled_models: list[str] = Field([])
    settings: dict[str, ModelSettings] = Field({})
    source: Literal["rest", "file"]
    path: str | None = Field(None, description="Of its file.")
    active: bool = Field(description="It was applied last.")
    applied_at: datetime | None = None
    valid: bool
    faults: list[Fault] = Field([])


class ProfilesView(View):
    profiles: list[ProfileView]
    active_profile: str | None
    total: int
    folder: str = Field(description="Where files of profiles are looked for.")


class SwitchedView(View):
    model_id: str
    bytes: int | None = None


class LoadView(View):
    """A model of the profile that comes into memory. Sizes are bytes."""

    model_id: str
    serves_type: bool = Field(description="From then on, its type.")
    fits: bool | None = Field(description="Null: it is not on disk yet, so nobody can tell.")
    device: str | None = None
    served_by: str | None = None
    context_length: int | None = None
    need: int | None = None
    spread: int | None = None
    seconds: float | None = Field(None, description="What its last load took.")
    error: ErrorView | None = None


class ProfilePlanView(View):
    """What applying a profile would do, in this order."""

    id: str = Field(description="For ?plan= of the apply: it is refused where something else would be done by now.")
    action: Literal["apply-profile"] = "apply-profile"
    profile: str
    enable: list[str]
    disable: list[str]
    change: dict[str, dict[str, Any]] = Field(description="By model: pinned, config, fallback, as they will be.")
    unload: list[SwitchedView] = Field(description="Their requests end first.")
    download: list[SwitchedView]
    load: list[LoadView]
    unchanged: list[str] = Field(description="In memory, as they are to be.")
    does_not_fit: list[str]


def every(front: Front) -> ProfilesView:
    """Those of the folder, and those of the rows; a file goes before a row of its name."""
    files = in_folder(folder_of(front.settings))
    with front.database.reading() as session:
        rows, active = {row.name: row for row in profiles.every(session)}, profiles.active(session)
    made = {name: row for name, row in rows.items() if not row.in_file and name not in files}
    known = {name: Found(name, Profile.model_validate(row.content)) for name, row in made.items()} | files
    current = None if active is None else active.name
    shown = [_view(found, rows.get(name), current) for name, found in sorted(known.items())]
    return ProfilesView(profiles=shown, active_profile=current, total=len(shown), folder=str(folder_of(front.settings)))


def one(front: Front, name: str) -> ProfileView:
    """Raises: NotFound."""
    found = next((view for view in every(front).profiles if view.name == name), None)
    if found is None:
        raise profiles.not_found(name)
    return found


def _view(found: Found, row: ProfileRow | None, active: str | None) -> ProfileView:
    content = {} if found.profile is None else found.profile.model_dump(exclude={"name"})
    return ProfileView(
        name=found.name, source="file" if found.path else "rest", path=str(found.path) if found.path else None,
        active=found.name == active, applied_at=None if row is None else moment(row.applied_at),
        valid=found.profile is not None, faults=list(found.faults), **content,
    )  # fmt: skip


def create(front: Front, profile: Profile, *, replace: bool) -> ProfileView:
    """Keep a profile.

    Raises:
        Invalid: code `unknown_models`.
        Conflict: code `profile_exists`, or `profile_in_file`.
    """
    check_models(front, profile)
    _refuse_file(front, profile.name)
    with front.database.session() as session:
        if not profiles.put(session, profile, in_file=False, replace=replace):
            hint = f"PUT /api/v1/models/profiles/{profile.name} replaces it."
            raise Conflict("profile_exists", f"There is a profile {profile.name!r}.", hint)
    return one(front, profile.name)


def delete(front: Front, name: str) -> None:
    """Raises: NotFound; Conflict: code `profile_in_file`."""
    _refuse_file(front, name)
    with front.database.session() as session:
        profiles.forget(session, name)


def asked(front: Front, profile: Profile) -> dict[str, str]:
    """The arguments of a job that applies it.

    Raises:
        Conflict: code `profile_overtaken`.
    """
    contract = ApplyProfile(name=profile.name, digest=profile.digest)
    with front.database.reading() as session:
        if profiles.is_ending(session, contract):
            raise Conflict(
                "profile_overtaken", f"A newer profile counts instead of {profile.name!r}, whose job is still ending.",
                "Send it again in a few seconds; `modelyard jobs` shows both.",
            )  # fmt: skip
    return {"name": profile.name, "digest": profile.digest}


def _refuse_file(front: Front, name: str) -> None:
    found = in_folder(folder_of(front.settings)).get(name)
    if found is not None:
        raise Conflict("profile_in_file", f"Profile {name!r} is the file {found.path}.", "Change or delete that file.")


def check_models(front: Front, profile: Profile) -> None:
    """Raises: Invalid: code `unknown_models`, with the nearest names; or `unfit_fallback`."""
    with front.database.reading() as session:
        known = profiles.registered(session)
    strange = [name for name in profile.enabled_models if name not in known]
    if strange:
        near = {name: difflib.get_close_matches(name, known, 1) for name in strange}
        told = [f"{name!r}" + (f" (did you mean {near[name][0]!r}?)" if near[name] else "") for name in strange]
        hint = "`modelyard ls` lists what is known; `modelyard pull REF --id ID` adds a model."
        raise Invalid("unknown_models", f"Not in the registry: {', '.join(told)}.", hint)
    for name in profile.settings:
        for step in profile.of(name).fallback or ():
            if step.model is not None and (step.model == name or known.get(step.model) != known[name]):
                message = f"{step.model!r} cannot stand in for {name!r}."
                raise Invalid("unfit_fallback", message, f"Name another model of its type, {known[name]!r}.")


def to_apply(front: Front, name: str, *, keep: bool = True) -> Profile:
    """The profile of that name as it is now, of its file or of its row.

    Args:
        keep: that of a file as a row, where workers find it.

    Raises:
        NotFound
        Invalid: code `invalid_profile`, with the lines; or `unknown_models`.
    """
    found = in_folder(folder_of(front.settings)).get(name)
    if found is None:
        with front.database.reading() as session:
            row = profiles.find(session, name)
        if row is None or row.in_file:
            raise profiles.not_found(name)
        profile = Profile.model_validate(row.content)
    elif found.profile is None:
        raise invalid(found)
    else:
        profile = found.profile
    check_models(front, profile)
    if keep and found is not None:
        with front.database.session() as session:
            profiles.put(session, profile, in_file=True)
    return profile


def plan_profile(front: Front, profile: Profile) -> ProfilePlanView:
    """What applying it would do now, by the function that a worker carries it out by."""
    outlook = profiles.outlook(front.database, Leases(front.redis), profile, front.settings.runners.context_length)
    found = outlook.difference
    return ProfilePlanView(
        id=outlook.id, profile=profile.name, enable=found.enable, disable=found.disable, change=found.change,
        unload=[SwitchedView(model_id=name, bytes=outlook.sizes.get(name)) for name in found.unload],
        download=[SwitchedView(model_id=name, bytes=outlook.sizes.get(name)) for name in found.download],
        load=[_view_load(each) for each in outlook.fits],
        unchanged=found.unchanged, does_not_fit=[each.model_id for each in outlook.fits if each.error],
    )  # fmt: skip


def _view_load(one: Fit) -> LoadView:
    return LoadView(
        model_id=one.model_id, serves_type=one.serves, device=one.device, served_by=one.served_by,
        fits=False if one.error else True if one.served_by else None, context_length=one.context_length,
        need=one.need, spread=one.spread, seconds=one.seconds,
        error=ErrorView.model_validate(error_body(one.error)) if one.error else None,
    )  # fmt: skip


def apply_at_start(front: Front) -> None:
    """Have the profile of ACTIVE_PROFILE applied; what keeps it from that is told by readiness, and ends nothing."""
    name = front.settings.active_profile
    if not name:
        return
    try:
        profile = to_apply(front, name)
        job = front.ledger.submit(ApplyProfile(name=name, digest=profile.digest), origin="start").job
    except ModelyardError as error:
        front.profile = Part(ok=False, detail=f"{name}: {error.message} {error.hint}")
        log.error("profile.refused", profile=name, code=error.code, reason=error.message)
    else:
        front.profile = Part(ok=True, detail=f"{name}: job {job.id}")
        log.info("profile.asked", profile=name, job_id=job.id)
