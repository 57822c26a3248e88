"""Profiles as rows, what is there of models, and whether those of a profile fit beside each other."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from sqlmodel import Session, col, delete, select, update

from shared import fit
from shared.contracts import ApplyProfile
from shared.db import catalog, devices, footprints, sleep
from shared.db.placement import Occupant, beside_free, free_bytes, occupants, plan
from shared.db.reports import Device
from shared.db.session import Database, now, serialise
from shared.db.tables import Installation, Job, Model, Residency
from shared.db.wishes import ProfileRow
from shared.errors import Conflict, ModelyardError, NotFound
from shared.fallback import Rung, context_of, ladder
from shared.profiles import Difference, Known, Profile, ToLoad, difference
from shared.progress import Leases
from shared.states import HELD, IN_MEMORY, LIVE, JobState, ResidencyState


def every(session: Session) -> list[ProfileRow]:
    """All that were made over REST or applied, by name."""
    return list(session.exec(select(ProfileRow).order_by(col(ProfileRow.name))).all())


def registered(session: Session) -> dict[str, str]:
    """The type of every model, by its id."""
    return dict(session.exec(select(Model.id, Model.type)).all())


def find(session: Session, name: str) -> ProfileRow | None:
    return session.get(ProfileRow, name)


def read(session: Session, name: str, digest: str | None) -> Profile:
    """A profile, as it was when somebody asked for it.

    Raises:
        NotFound
        Conflict: code `profile_changed`.
    """
    row = find(session, name)
    if row is None:
        raise not_found(name)
    profile = Profile.model_validate(row.content)
    if digest not in (None, profile.digest):
        raise Conflict("profile_changed", f"Profile {name!r} says something else by now.", "Apply it again.")
    return profile


def not_found(name: str) -> NotFound:
    return NotFound("profile_not_found", f"There is no profile {name!r}.", "`modelyard profile ls` lists them.")


def put(session: Session, profile: Profile, *, in_file: bool, replace: bool = True) -> bool:
    """From now on the profile of that name is this one. False: there is one, and it is not to be replaced."""
    serialise(session, "profiles")
    row = find(session, profile.name)
    if row is not None and not replace:
        return False
    moment = session.exec(select(now())).one()
    made = moment if row is None else row.created_at
    session.merge(
        ProfileRow(
            name=profile.name, content=profile.stored(), in_file=in_file, created_at=made, updated_at=moment,
            applied_at=None if row is None else row.applied_at, applied=None if row is None else row.applied,
        )
    )  # fmt: skip
    return True


def forget(session: Session, name: str) -> None:
    """Where it was in force none is from now on, and not the one that was before it.

    Raises:
        NotFound
    """
    if (in_force := active(session)) is not None and in_force.name == name:
        session.exec(update(ProfileRow).values(applied_at=None))
    if session.exec(delete(ProfileRow).where(col(ProfileRow.name) == name)).rowcount == 0:
        raise not_found(name)


def active(session: Session) -> ProfileRow | None:
    """The one that was applied last."""
    query = select(ProfileRow).where(col(ProfileRow.applied_at).is_not(None))
    return session.exec(query.order_by(col(ProfileRow.applied_at).desc()).limit(1)).first()


def wanted(session: Session) -> set[str]:
    """Models that the profile in force enables, and those that it will once it is applied as it is by now."""
    row = active(session)
    contents = () if row is None else (row.content, row.applied or {})
    return {model_id for content in contents for model_id in content.get("enabledModels", [])}


def overtaken_by(session: Session, job: Job) -> str | None:
    """The newer ask for a profile, which counts instead of this one."""
    query = select(Job.id).where(
        col(Job.kind) == ApplyProfile.kind, col(Job.created_at) > job.created_at,
        col(Job.state).not_in([JobState.CANCELLED, JobState.REJECTED]),
    )  # fmt: skip
    return session.exec(query.order_by(col(Job.created_at).desc()).limit(1)).first()


def is_ending(session: Session, contract: ApplyProfile) -> bool:
    """A job of that ask is live, and a newer ask counts instead of it: joining it would come to nothing."""
    mine = (col(Job.unique_key) == contract.unique_key()) & col(Job.state).in_(LIVE)
    job = session.exec(select(Job).where(mine)).first()
    return job is not None and overtaken_by(session, job) is not None


def known(session: Session, profile: Profile) -> dict[str, Known]:
    """What is there of every model that is to change."""
    rows = session.exec(select(Residency).where(col(Residency.state).in_(HELD))).all()
    there = {row.model_id: [one for one in rows if one.model_id == row.model_id] for row in rows}
    named = col(Model.id).in_([*profile.enabled_models, *there])
    query = select(Model, Installation).outerjoin(Installation, col(Installation.model_id) == col(Model.id))
    query = query.where(named | col(Model.enabled) | col(Model.pinned))
    return {model.id: _known(model, found, there.get(model.id, [])) for model, found in session.exec(query).all()}


def _known(model: Model, installation: Installation | None, rows: list[Residency]) -> Known:
    return Known(
        model_id=model.id, type=model.type, enabled=model.enabled, pinned=model.pinned, config=model.config,
        fallback=model.fallback, installed=installation is not None, size=model.file_size,
        ready=any(row.state == ResidencyState.READY for row in rows), held=bool(rows),
        active=any(row.active for row in rows),
        memory=sum(row.memory_bytes or 0 for row in rows if row.state in IN_MEMORY),
        stands_in_for=frozenset(name for row in rows for name in row.fallback_for if name != model.id),
    )  # fmt: skip


def take_effect(session: Session, profile: Profile) -> Difference:
    """Enable its models and no others, with its settings; in the caller's one transaction. The rest is for jobs."""
    session.exec(select(Model.id).order_by(col(Model.id)).with_for_update()).all()  # their configs are written whole
    found = difference(profile, known(session, profile))
    for names, enabled in ((found.enable, True), (found.disable, False)):
        session.exec(update(Model).where(col(Model.id).in_(names)).values(enabled=enabled, updated_at=now()))
    for model_id, changes in found.change.items():
        session.exec(update(Model).where(col(Model.id) == model_id).values(**changes, updated_at=now()))
    in_force = {"applied_at": now(), "applied": profile.stored()}
    session.exec(update(ProfileRow).where(col(ProfileRow.name) == profile.name).values(**in_force))
    return found


def asked_since(session: Session, moment: float, model_ids: Sequence[str]) -> dict[tuple[str, str], Job]:
    """By kind and model, the newest job that was asked for since then."""
    query = select(Job).where(col(Job.model_id).in_(model_ids), col(Job.created_at) >= moment)
    return {(job.kind, str(job.model_id)): job for job in session.exec(query.order_by(col(Job.created_at))).all()}


@dataclass(frozen=True)
class Fit:
    """Whether a model fits beside the others of its profile."""

    model_id: str
    serves: bool
    device: str | None = None
    served_by: str | None = None
    """Itself, or what it falls back to; None: it is not on disk yet, so nobody can tell, or it does not fit."""
    context_length: int | None = None
    need: int | None = None
    spread: int | None = None
    seconds: float | None = None
    error: ModelyardError | None = None


@dataclass(frozen=True)
class Outlook:
    """What applying a profile would do."""

    difference: Difference
    fits: list[Fit]
    sizes: dict[str, int | None]
    """By model: bytes of memory that come back, or that a download fetches, as far as is known."""

    @property
    def id(self) -> str:
        """The same for as long as the same is to be done."""
        loads = [(one.model_id, one.serves, one.device, one.served_by, one.context_length) for one in self.fits]
        text = json.dumps([asdict(self.difference), loads], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def outlook(database: Database, leases: Leases, profile: Profile, context_length: int) -> Outlook:
    """By the function that a load is carried out by, on what workers last reported of their devices: nothing of the
    profile has to leave for another part of it.

    Args:
        context_length: tokens, where neither model nor profile says otherwise.
    """
    with database.reading() as session:
        there = known(session, profile)
    found = difference(profile, there)
    room = _Room(database, leases, {name: there[name].memory for name in found.unload})
    fits = [room.take(profile, one, there[one.model_id], context_length) for one in found.load]
    sizes = {name: one.memory if one.installed else one.size for name, one in there.items()}
    return Outlook(found, fits, sizes)


class _Room:
    """What devices have left while one model after another comes."""

    def __init__(self, database: Database, leases: Leases, leaving: Mapping[str, int]) -> None:
        self._database = database
        self._leases = leases
        self._leaving = leaving
        self._free: dict[str, tuple[int | None, int | None]] = {}

    def take(self, profile: Profile, one: ToLoad, there: Known, context_length: int) -> Fit:
        settings = profile.of(one.model_id)
        steps = there.fallback if settings.fallback is None else [step.stored() for step in settings.fallback]
        length = settings.context_length or context_of(there.config, context_length)
        errors: list[ModelyardError] = []
        for rung in ladder(one.model_id, steps, length):
            try:
                return self._try(one, rung, there)
            except (Conflict, NotFound) as error:
                errors.append(error)
        return Fit(one.model_id, one.serves, error=errors[0])

    def _try(self, one: ToLoad, way: Rung, there: Known) -> Fit:
        with self._database.reading() as session:
            device = devices.placed(session, way.model_id)
            if way.model_id == one.model_id and not there.installed:
                return Fit(one.model_id, one.serves, device.id)
            installation = catalog.installed(session, way.model_id)
            setting = fit.Setting(self._runtime(installation), device.kind, way.context_length, way.lowered)
            learned = footprints.learned(session, installation, device.id, setting.runtime)
        need = learned.need(setting)
        if not (there.ready and way.model_id == one.model_id):  # else it is in memory, and only gets its type
            self._fitting(device, installation, setting, need)
        return Fit(
            one.model_id, one.serves, device.id, way.model_id, way.context_length, need.total, need.spread,
            learned.load_seconds(setting),
        )  # fmt: skip

    def _fitting(self, device: Device, installation: Installation, setting: fit.Setting, need: fit.Need) -> None:
        residents = occupants(self._database, self._leases, device.id)
        staying = [replace(each, pinned=True) for each in residents if each.row.model_id not in self._leaving]
        if device.id not in self._free:
            self._free[device.id] = self._free_of(device, residents)
        free, host_free = self._free[device.id]
        found = plan(installation, device.id, setting, need, free, staying, host_free=host_free)
        self._free[device.id] = (
            None if free is None else max(0, free - need.total),
            None if host_free is None else max(0, host_free - found.host_bytes),
        )

    def _free_of(self, device: Device, residents: Sequence[Occupant]) -> tuple[int | None, int | None]:
        """Bytes of the device and, of a GPU, of the machine's memory."""
        with self._database.reading() as session:
            asleep = sleep.asleep(session, device.id)
        told = device.details
        free = free_bytes(told.get("memoryFree"), told.get("memoryLimit"), residents, asleep)
        back = sum(each.row.memory_bytes or 0 for each in residents if each.row.model_id in self._leaving)
        return None if free is None else free + back, beside_free(told.get("hostFree"), device.kind, asleep)

    def _runtime(self, installation: Installation) -> str:
        facts, type_ = installation.facts, installation.model_type
        if found := fit.runtime_of(facts, installation.holder, type_):
            return found
        name = installation.model_id
        raise Conflict("no_runtime", f"No runtime here can run the files of {name!r}.", fit.runnable(facts, type_))
