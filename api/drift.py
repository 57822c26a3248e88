"""What a lock and this place do not agree on, and what would bring them together: pure, the same for plan and apply."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field
from pydantic.alias_generators import to_camel

from api.views import View
from shared.lock import Lock, LockedModel

MAX_NAMED = 20
FREE = ("requirements", "config")
"""Settings that are compared key by key."""


class What(StrEnum):
    """In what a model differs from the lock."""

    MISSING = "missing"
    """It is not on disk."""
    REVISION = "revision"
    FILES = "files"
    """The right revision, and other bytes, or more or fewer files."""
    DAMAGED = "damaged"
    """The right files, and the last verify found them damaged."""
    SETTING = "setting"
    OTHER_MODEL = "other_model"
    """The id stands for something else here."""
    EXTRA = "extra"
    """It is on disk, and the lock does not name it."""


class Action(StrEnum):
    """What applying a lock does to a model."""

    ADD = "add"
    CHANGE = "change"
    REPAIR = "repair"
    REMOVE = "remove"
    KEEP = "keep"
    """Nothing: the lock does not name it, and it is pinned here, or needed."""
    BLOCKED = "blocked"
    """Nothing, and so nothing at all is done until somebody has decided."""


FETCHING = frozenset({What.MISSING, What.REVISION, What.FILES})


class Difference(View):
    """`field` names the setting; `locked` and `here` are what each side has."""

    what: What
    field: str | None = None
    locked: Any = None
    here: Any = None


class Finding(View):
    """Everything in which one model differs."""

    model_id: str
    differences: list[Difference]

    def has(self, *kinds: What) -> bool:
        return any(difference.what in kinds for difference in self.differences)


class Step(Finding):
    """What would be done to one model."""

    action: Action
    fetches: bool = Field(False, description="It comes from its source, at exactly the locked revision.")
    bytes_to_fetch: int = Field(0, description="At most: what the store has already is not counted.")
    hint: str = Field("", description="Why nothing is done, and what to do, where the step is blocked or keeps it.")


class Plan(View):
    """What applying a lock would do, and under which id to have exactly this done."""

    plan_id: str
    steps: list[Step]
    counts: dict[Action, int]
    bytes_to_fetch: int
    unchanged: int
    extra: list[str] = Field(description="On disk, not in the lock, and left alone unless they are to be pruned.")


class Drift(View):
    """Whether this place is what the lock says."""

    drift: bool
    findings: list[Finding]


@dataclass(frozen=True)
class Here:
    """One model of the registry as it is. `revision` is None while nothing is on disk; `size` in bytes."""

    model_id: str
    stands_for: tuple[str, str, str]
    settings: Mapping[str, Any]
    revision: str | None = None
    digests: frozenset[tuple[str, int, str]] = frozenset()
    damaged: bool = False
    elsewhere: bool = False
    """A folder of the user's, or Ollama, has the bytes."""
    in_memory: bool = False
    needed: str = ""
    """Why it does not leave, whatever a lock says."""
    size: int = 0


def drift(lock: Lock, here: Mapping[str, Here]) -> Drift:
    """Args: here: the whole registry, by model id."""
    found = [*_compared(lock, here), *_extra(lock, here)]
    return Drift(drift=bool(found), findings=sorted(found, key=lambda finding: finding.model_id))


def plan(lock: Lock, here: Mapping[str, Here], *, prune: bool) -> Plan:
    """Args: prune: what is on disk and not in the lock goes to the trash."""
    entries = {entry.model_id: entry for entry in lock.models}
    known = frozenset(sha256 for one in here.values() for _, _, sha256 in one.digests)
    differing, extra = _compared(lock, here), _extra(lock, here)
    steps = [_step(finding, entries[finding.model_id], known) for finding in differing]
    if prune:
        steps += [_removal(finding, here[finding.model_id]) for finding in extra]
    steps.sort(key=lambda step: step.model_id)
    told = [step.model_dump(mode="json") for step in steps]
    content = json.dumps([told, [entry.digest() for entry in lock.models], prune], sort_keys=True)
    return Plan(
        plan_id=hashlib.sha256(content.encode()).hexdigest()[:16], steps=steps,
        counts=dict(Counter(step.action for step in steps)),
        bytes_to_fetch=sum(step.bytes_to_fetch for step in steps), unchanged=len(entries) - len(differing),
        extra=[] if prune else [finding.model_id for finding in extra],
    )  # fmt: skip


def _compared(lock: Lock, here: Mapping[str, Here]) -> list[Finding]:
    folded = {model_id.lower(): one for model_id, one in here.items()}
    found = ((entry.model_id, _differences(entry, folded.get(entry.model_id.lower()))) for entry in lock.models)
    return [Finding(model_id=model_id, differences=differences) for model_id, differences in found if differences]


def _extra(lock: Lock, here: Mapping[str, Here]) -> list[Finding]:
    """Models of the store alone: what others keep cannot be locked, so a lock says nothing about it."""
    named = {entry.model_id.lower() for entry in lock.models}
    return [
        Finding(model_id=model_id, differences=[Difference(what=What.EXTRA, here=one.revision)])
        for model_id, one in sorted(here.items())
        if one.revision is not None and not one.elsewhere and model_id.lower() not in named
    ]


def _differences(entry: LockedModel, here: Here | None) -> list[Difference]:
    if here is None:
        return [Difference(what=What.MISSING, locked=entry.revision)]
    if here.elsewhere or (here.model_id, here.stands_for) != (entry.model_id, entry.stands_for):
        return [Difference(what=What.OTHER_MODEL, locked=":".join(entry.stands_for), here=":".join(here.stands_for))]
    return [*_in_bytes(entry, here), *_in_settings(entry, here)]


def _in_bytes(entry: LockedModel, here: Here) -> list[Difference]:
    if here.revision is None:
        return [Difference(what=What.MISSING, locked=entry.revision)]
    if here.revision != entry.revision:
        return [Difference(what=What.REVISION, locked=entry.revision, here=here.revision)]
    if here.digests != entry.digests:
        wanted, there = _named(entry.digests - here.digests), _named(here.digests - entry.digests)
        return [Difference(what=What.FILES, locked=wanted, here=there)]
    return [Difference(what=What.DAMAGED)] if here.damaged else []


def _in_settings(entry: LockedModel, here: Here) -> list[Difference]:
    pairs: dict[str, tuple[Any, Any]] = {}
    for name, locked in entry.settings.items():
        mine = here.settings[name]
        if name in FREE:
            pairs |= {f"{name}.{key}": (locked.get(key), mine.get(key)) for key in sorted(locked.keys() | mine.keys())}
        else:
            pairs[to_camel(name)] = (locked, mine)
    return [
        Difference(what=What.SETTING, field=field, locked=locked, here=mine)
        for field, (locked, mine) in pairs.items()
        if json.dumps(locked, sort_keys=True) != json.dumps(mine, sort_keys=True)  # for Python, true is 1
    ]


def _named(digests: frozenset[tuple[str, int, str]]) -> list[str]:
    return [f"{name} sha256:{sha256}" for name, _, sha256 in sorted(digests)[:MAX_NAMED]]


def _step(finding: Finding, entry: LockedModel, known: frozenset[str]) -> Step:
    told: dict[str, Any] = dict(finding)
    if finding.has(What.OTHER_MODEL):
        hint = f"Remove the other one first (modelyard rm {entry.model_id}), or take it out of the lock."
        return Step(**told, action=Action.BLOCKED, hint=hint)
    if finding.has(*FETCHING):
        sizes = {file.sha256: file.size for file in entry.files if file.sha256 not in known}
        action = Action.ADD if finding.has(What.MISSING) else Action.CHANGE
        return Step(**told, action=action, fetches=True, bytes_to_fetch=sum(sizes.values()))
    return Step(**told, action=Action.REPAIR if finding.has(What.DAMAGED) else Action.CHANGE)


def _removal(finding: Finding, here: Here) -> Step:
    told: dict[str, Any] = dict(finding)
    if here.needed:
        hint = f"It stays: {here.needed}. To have it leave all the same: modelyard rm {here.model_id} --force."
        return Step(**told, action=Action.KEEP, hint=hint)
    if here.in_memory:
        return Step(
            **told, action=Action.BLOCKED, hint=f"Take it out of memory first: modelyard unload {here.model_id}."
        )
    return Step(**told, action=Action.REMOVE)
