"""What a model will take on a device, and who makes room for it: known before anything is touched, and shown to people
by the same function that it is done by."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlmodel import Session, col, select

from shared import fit
from shared.db import residency, sleep
from shared.db.reports import Device, Footprint
from shared.db.session import Database, now
from shared.db.tables import Installation, Model, Residency
from shared.errors import Conflict
from shared.fallback import nothing_lower
from shared.progress import Leases
from shared.queues import is_cpu
from shared.states import ResidencyState


@dataclass(frozen=True)
class Occupant:
    """What is in a device's memory, and what speaks for leaving it there."""

    row: Residency
    pinned: bool = False
    age: float = 0.0
    """Seconds since it was ready."""
    unused: float = 0.0
    """Seconds since a request last held it; its age where that is not known."""
    known: bool = True
    """Redis told how long it was unused; one that is away or was emptied does not."""


def occupants(database: Database, leases: Leases, device: str) -> list[Occupant]:
    """What is in a device's memory now."""
    with database.reading() as session:
        rows = residency.residents(session, device)
        moment = session.exec(select(now())).one()
        pinned = set(session.exec(select(Model.id).where(col(Model.pinned))).all())
    unused = leases.unused([row.id for row in rows])
    ages = [max(0.0, moment - row.started_at - (row.load_seconds or 0.0)) for row in rows]
    return [
        Occupant(row, row.model_id in pinned, age, min(age, unused.get(row.id, age)), row.id in unused)
        for row, age in zip(rows, ages, strict=True)
    ]


@dataclass(frozen=True)
class Plan:
    """How a model is to be loaded, and what that takes."""

    model_id: str
    revision: str
    device: str
    setting: fit.Setting
    need: fit.Need
    predicted: int
    """Bytes that the formula alone says of it once it is loaded."""
    free: int | None
    """Bytes before anything is done; None where the device does not tell."""
    evictions: tuple[Residency, ...] = ()
    """They leave first, in this order; of those that serve the type, the requests wait meanwhile."""
    host: fit.HostNeed | None = None
    """Of the machine's memory, where the device is a GPU."""
    host_free: int | None = None

    @property
    def piece_by_piece(self) -> bool:
        """Its weights go to the GPU so, as the machine has no room for all of them at once."""
        return self.host is not None and self.host_free is not None and self.host.at_once > self.host_free

    @property
    def host_bytes(self) -> int:
        """What it will take of the machine's memory beside its device."""
        return 0 if self.host is None else self.host.least if self.piece_by_piece else self.host.at_once

    @property
    def id(self) -> str:
        """The same for as long as the same is to be done."""
        leaving = [row.id for row in self.evictions]
        parts = [self.model_id, self.revision, self.device, self.setting, leaving]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def check(self, plan_id: str | None) -> None:
        """It is the plan that people have seen, where they name one.

        Raises:
            Conflict: code `plan_outdated`.
        """
        if plan_id not in (None, self.id):
            raise outdated()

    def footprint(self, row: Residency, memory_bytes: int, load_seconds: float) -> Footprint:
        """What it took, to be remembered."""
        return Footprint(
            model_id=row.model_id, revision=row.revision, runtime=row.runtime, device=row.device,
            context_length=self.setting.context_length, memory_bytes=memory_bytes, predicted_bytes=self.predicted,
            load_seconds=load_seconds, measured_at=0.0,
        )  # fmt: skip


def outdated() -> Conflict:
    """What to say of a plan that is not carried out."""
    return Conflict(
        "plan_outdated", "What is in memory has changed since this plan was made, so it is not carried out.",
        "Ask for a new one: POST /api/v1/plan.",
    )  # fmt: skip


def free_bytes(
    seen: int | None, limit: int | None, residents: Sequence[Occupant], asleep: Sequence[Residency] = ()
) -> int | None:
    """What a model could take of a device: what was seen to be free, within what models may take together.

    Args:
        asleep: sleepers of the device, which end for whoever needs what they have of it.
    """
    if seen is not None:
        seen += sum(held_asleep(row) for row in asleep)
    if limit is None:
        return seen
    left = max(0, limit - sum(one.row.memory_bytes or 0 for one in residents))
    return left if seen is None else min(seen, left)


def free_now(session: Session, device: Device) -> int | None:
    """As `free_bytes`, of what the device's worker last reported."""
    there = [Occupant(row) for row in residency.residents(session, device.id)]
    told = device.details
    return free_bytes(told.get("memoryFree"), told.get("memoryLimit"), there, sleep.asleep(session, device.id))


def beside_free(seen: int | None, device_kind: str, asleep: Sequence[Residency]) -> int | None:
    """What a model of a GPU could take of the machine's memory; None on a CPU, which has no other.

    Args:
        asleep: sleepers of the device, which end for whoever needs it.
    """
    if device_kind != "gpu" or seen is None:
        return None
    return seen + sum(row.memory_bytes or 0 for row in asleep)


def held_asleep(row: Residency) -> int:
    """Bytes that a sleeper has of its device: on a CPU all of its memory, on a GPU what any process takes there."""
    return (row.memory_bytes or 0) if is_cpu(row.device) else fit.RUNTIME_BYTES.get((row.runtime, "gpu"), 0)


def taken(device_kind: str, host: int, device: int | None, before: int | None, after: int | None) -> int | None:
    """Bytes of a device's memory that a model took: on a CPU all of it, on a GPU what is free no more.

    Args:
        host, device: what its server tells of the host's memory, and of a GPU's if it knows that.
        before, after: what was free of the device; None where it does not tell.

    Returns:
        None where it is not known; a figure that is none would be learned from.
    """
    if device_kind == "cpu":
        return host + (device or 0)
    if device is not None:
        return device
    if before is None or after is None or after >= before:
        return None
    return before - after


def plan(
    installation: Installation,
    device: str,
    setting: fit.Setting,
    need: fit.Need,
    free: int | None,
    residents: Sequence[Occupant],
    stay: float = 0.0,
    host_free: int | None = None,
) -> Plan:
    """Beside what is there where both fit, else in the place of what serves no type or this one: the longest unused
    first, and who serves last.

    Who serves another type is left alone, as nobody asked for that to end, and so is what is pinned.

    Args:
        residents: what is in the device's memory.
        stay: seconds that a model may stay at least, once it was loaded.
        host_free: of the machine's memory, where the device is a GPU; None where that is not known.

    Raises:
        Conflict: code `will_not_fit`; or `nothing_lower`, it is to have less and would need no less.
    """
    facts, size = installation.facts, installation.size
    if (why := nothing_lower(facts, setting)) is not None:
        raise Conflict("nothing_lower", why, "The next step is tried; `modelyard fallback` changes them.")
    predicted, host = fit.at_rest(facts, size, setting), fit.host_need(facts, size, setting)
    if host is not None and host_free is not None and host.least > host_free:
        raise _host_too_small(installation, host, host_free, setting)
    beside = Plan(
        installation.model_id, installation.revision, device, setting, need, predicted, free, host=host,
        host_free=host_free,
    )  # fmt: skip
    if free is None or need.total <= free:
        return beside
    ready = [one for one in residents if one.row.state == ResidencyState.READY]
    going = [
        one for one in ready
        if _may_leave(one, installation, stay)
    ]  # fmt: skip
    evictions: list[Residency] = []
    room = free
    for one in sorted(going, key=lambda one: (one.row.active, -one.unused)):
        if need.total <= room:
            break
        if one.row.memory_bytes == 0:  # it runs on the CPU beside
            continue
        room += one.row.memory_bytes or 0
        evictions.append(one.row)
    if need.total - need.spread > room:
        staying = [one for one in ready if one not in going]
        raise _will_not_fit(installation, need, room, setting, staying)
    return replace(beside, evictions=tuple(evictions))


def _may_leave(one: Occupant, for_: Installation, stay: float) -> bool:
    """A pin keeps a model, and not its runner: the same model may take that one's place."""
    kept = one.pinned and one.row.model_id != for_.model_id
    return not kept and one.age >= stay and (not one.row.active or one.row.model_type == for_.model_type)


def _host_too_small(installation: Installation, host: fit.HostNeed, free: int, setting: fit.Setting) -> Conflict:
    what = "runs on the CPU beside its GPU" if setting.lowered != fit.WHOLE else "is loaded onto its GPU"
    return Conflict(
        "will_not_fit",
        f"{installation.model_id} needs {fit.size_text(host.least)} of the machine's memory where it {what}, and "
        f"{fit.size_text(free)} are free.",
        "Free some of the machine's memory; MODELYARD_RUNNERS__SLEEP_BYTES is what models that sleep may have of it.",
        {"hostNeedBytes": host.least, "hostFreeBytes": free},
    )


def _will_not_fit(
    installation: Installation, need: fit.Need, room: int, setting: fit.Setting, staying: Sequence[Occupant]
) -> Conflict:
    """With the numbers, and with what would help."""
    context = fit.longest_context(installation.facts, installation.size, setting, room)
    ways = [
        f"{'Unpin' if one.pinned else 'Unload'} {one.row.model_id}: {fit.size_text(one.row.memory_bytes or 0)}."
        for one in staying
    ]
    if layers := fit.most_layers(installation.facts, installation.size, setting, room):
        step = f"modelyard fallback {installation.model_id} gpu-layers={layers}"
        ways.append(f"With {layers} layers on the GPU it would fit: {step}.")
    if 0 < context < setting.context_length:
        ways.append(f"With MODELYARD_RUNNERS__CONTEXT_LENGTH={context} it would fit.")
    ways.append("A variant of fewer bits a weight takes less; `modelyard fallback` says what may serve in its place.")
    takes = f"{fit.size_text(need.total)} ± {fit.size_text(need.spread)}"
    return Conflict(
        "will_not_fit",
        f"{installation.model_id} needs {takes} of memory, and at most {fit.size_text(room)} can be had.",
        " ".join(ways),
        {
            "needBytes": need.total, "spreadBytes": need.spread, "freeBytes": room, "basis": need.basis,
            "weightsBytes": need.weights, "cacheBytes": need.cache, "runtimeBytes": need.runtime,
        },
    )  # fmt: skip
