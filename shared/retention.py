"""Which models may leave the disk, and in which order: a function of values. `docs/retention.md` has it in words."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from shared.states import Priority

DAY = 86_400.0
GIB = 1024.0**3
ASK_SECONDS = 60.0
"""What any fetch costs beside its bytes: to resolve, to prove, to load, and whoever waits for that."""
BY_HAND_SECONDS = DAY
"""What it costs more where a person has to bring the model again, as with a bundle."""
SOONEST_DAYS = 1 / 24
"""Below it, how long a model has been idle says nothing."""


class Policy(BaseModel):
    """What may leave; see `RetentionSettings` for each value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    max_unused_days: float
    max_storage_usage_percent: float
    min_usage_frequency: float
    preserve_recently_downloaded: bool
    recent_days: float
    preserve_high_priority: bool
    automatic: bool


class Hold(StrEnum):
    """Why a model stays, whatever else would have it leave."""

    PINNED = "pinned"
    LOADED = "loaded"
    """It serves its type, is in memory, sleeps, or is to come back there."""
    BUSY = "busy"  # a job works on it
    PRIORITY = "priority"
    """CRITICAL or HIGH, by its uses or because somebody said so."""
    RECENT = "recent"
    USED = "used"
    """It is used too often to be missed by nobody."""
    LOCKED = "locked"
    """The lock that was applied last names it."""
    PROFILE = "profile"
    """The profile that is in force enables it, or will once it is applied again."""
    FALLBACK = "fallback"
    """Another model falls back to it."""
    BASE = "base"
    """An adapter needs it."""


class Reason(StrEnum):
    """Why a model may leave."""

    UNUSED = "unused"
    """Nobody has used it for as long as the policy says."""
    STORAGE = "storage"
    """The disk is fuller than the policy says, and it is rarely used."""


class Disk(NamedTuple):
    """The store's disk, in bytes; `leaving` is what lies in the trash and goes with it."""

    total: int
    used: int
    leaving: int


@dataclass(frozen=True)
class Stored:
    """A model that Modelyard has put into its store, as the policy sees it. Times are seconds since 1970."""

    model_id: str
    model_type: str
    revision: str
    size: int
    """Bytes of all its revisions."""
    alone: int
    """Of these, what nothing else in the store holds."""
    came_at: float
    last_used_at: float | None
    uses_per_day: float
    priority: Priority
    fetch_seconds: float
    """What it would cost to fetch it again; see `fetch_seconds`."""
    holds: frozenset[Hold] = frozenset()
    """Whatever keeps it that is no matter of the policy."""

    def idle_days(self, now: float) -> float:
        """Since it was last used, or since it came."""
        return max(0.0, now - max(self.last_used_at or 0.0, self.came_at)) / DAY


@dataclass(frozen=True)
class Share:
    """Bytes that several models hold together; they go with the last of them."""

    models: frozenset[str]
    size: int


@dataclass(frozen=True)
class Verdict:
    """What the policy says of one model, whatever the disk."""

    model: Stored
    holds: tuple[Hold, ...]
    unused: bool
    """For as long as the policy says."""
    idle_days: float
    value: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        model = self.model
        return {
            "modelId": model.model_id, "modelType": model.model_type, "revision": model.revision, "size": model.size,
            "cameAt": model.came_at, "lastUsedAt": model.last_used_at, "usesPerDay": round(model.uses_per_day, 4),
            "idleDays": round(self.idle_days, 3), "priority": model.priority.name,
            "fetchSeconds": round(model.fetch_seconds, 1),
            "value": None if math.isinf(self.value) else round(self.value, 6),
        }  # fmt: skip


class Leaving(NamedTuple):
    """A model that may leave; `frees` is what goes with it once those before it in the list are gone, in bytes."""

    verdict: Verdict
    reason: Reason
    frees: int


@dataclass(frozen=True)
class Decision:
    """What may leave now, the least worth keeping first; and what would leave, but for what holds it."""

    policy: Policy
    disk: Disk | None
    leave: tuple[Leaving, ...]
    kept: tuple[Verdict, ...]

    @property
    def frees(self) -> int:
        """Bytes that are free once all of it has left and the trash is empty."""
        return sum(each.frees for each in self.leave)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        disk = self.disk
        return {
            "policy": self.policy.model_dump(by_alias=True), "frees": self.frees,
            "disk": None if disk is None else {
                "total": disk.total, "used": disk.used, "leavesWithTrash": disk.leaving,
                "over": over_by(self.policy, disk), "usedAfter": disk.used - disk.leaving - self.frees,
            },
            "recommendations": [
                {**each.verdict.to_dict(), "reason": each.reason, "frees": each.frees} for each in self.leave
            ],
            "kept": [{**each.to_dict(), "holds": list(each.holds)} for each in self.kept],
        }  # fmt: skip


def fetch_seconds(size: int, bytes_per_second: float, *, by_hand: bool) -> float:
    """What it costs to have a model again: its bytes at that speed, and what comes with any fetch."""
    return size / bytes_per_second + ASK_SECONDS + (BY_HAND_SECONDS if by_hand else 0.0)


def value(idle_days: float, size: float, cost_seconds: float) -> float:
    """What keeping a model is worth: seconds of fetching saved, for each GiB and each day that it has been idle.

    After GreedyDual-Size (Cao and Irani, 1997): what is cheap to have again, large and long unused is worth least.
    Infinite where it takes no room.
    """
    return cost_seconds / (max(idle_days, SOONEST_DAYS) * size / GIB) if size > 0 else math.inf


def over_by(policy: Policy, disk: Disk | None) -> int:
    """Bytes above the share of the disk that the policy allows, without what leaves with the trash."""
    if disk is None:
        return 0
    return max(0, math.ceil(disk.used - disk.leaving - disk.total * policy.max_storage_usage_percent / 100))


def judge(policy: Policy, now: float, model: Stored, shared: float = 0.0) -> Verdict:
    """What holds a model, whether it is unused, and what it is worth.

    Args:
        now: seconds since 1970.
        shared: bytes; its part of what it holds together with others.
    """
    idle, holds = model.idle_days(now), set(model.holds)
    if policy.preserve_high_priority and model.priority <= Priority.HIGH:
        holds.add(Hold.PRIORITY)
    if policy.preserve_recently_downloaded and now - model.came_at < policy.recent_days * DAY:
        holds.add(Hold.RECENT)
    if model.uses_per_day > 0 and model.uses_per_day >= policy.min_usage_frequency:
        holds.add(Hold.USED)
    worth = value(idle, model.alone + shared, model.fetch_seconds)
    return Verdict(model, tuple(hold for hold in Hold if hold in holds), idle >= policy.max_unused_days, idle, worth)


def decide(
    policy: Policy,
    now: float,
    disk: Disk | None,
    models: Iterable[Stored],
    shares: Sequence[Share] = (),
    among: Collection[str] | None = None,
) -> Decision:
    """Which models may leave: all that are unused, and of the rest as few as bring the disk under its share.

    Args:
        now: seconds since 1970.
        disk: None where nothing is known of it: then only what is unused may leave.
        among: none but these.
    """
    parts: defaultdict[str, float] = defaultdict(float)
    for share in shares:
        for model_id in share.models:
            parts[model_id] += share.size / len(share.models)
    judged = [judge(policy, now, model, parts[model.model_id]) for model in models]
    judged.sort(key=lambda each: (each.value, each.model.model_id))
    over, tally = over_by(policy, disk), _Tally(shares)
    free = [each for each in judged if not each.holds and (among is None or each.model.model_id in among)]
    chosen = _chosen(free, over, tally)
    _keep_what_frees_nothing(judged, over, tally, chosen)
    counted = _Tally(shares)
    leave = tuple(
        Leaving(each, chosen[each.model.model_id], counted.add(each.model))
        for each in judged if each.model.model_id in chosen
    )  # fmt: skip
    tight = over > counted.freed
    return Decision(policy, disk, leave, tuple(each for each in judged if each.holds and (each.unused or tight)))


class _Tally:
    """Bytes that leave with a set of models; those that several share leave with the last of them."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self.freed = 0
        self._sizes = [share.size for share in shares]
        self._left = [len(share.models) for share in shares]
        self._of: dict[str, list[int]] = {}
        for number, share in enumerate(shares):
            for model_id in share.models:
                self._of.setdefault(model_id, []).append(number)

    def add(self, model: Stored) -> int:
        """It leaves. Answers what leaves with it."""
        for number in self._of.get(model.model_id, ()):
            self._left[number] -= 1
        freed = self.loss(model)
        self.freed += freed
        return freed

    def loss(self, model: Stored) -> int:
        """What would not leave if this one, which is in the set, stayed."""
        shared = self._of.get(model.model_id, ())
        return model.alone + sum(self._sizes[number] for number in shared if not self._left[number])

    def take_back(self, model: Stored) -> None:
        """It stays after all."""
        self.freed -= self.loss(model)
        for number in self._of.get(model.model_id, ()):
            self._left[number] += 1


def _chosen(free: Sequence[Verdict], over: int, tally: _Tally) -> dict[str, Reason]:
    """Of what nothing holds what is unused, then what is rarely used, until the disk is under its share."""
    chosen: dict[str, Reason] = {}
    for each in free:
        if each.unused:
            tally.add(each.model)
            chosen[each.model.model_id] = Reason.UNUSED
    for each in free:
        if tally.freed >= over:
            break
        if each.model.model_id not in chosen:
            tally.add(each.model)
            chosen[each.model.model_id] = Reason.STORAGE
    return chosen


def _keep_what_frees_nothing(judged: Sequence[Verdict], over: int, tally: _Tally, chosen: dict[str, Reason]) -> None:
    """Take back, the most worth keeping first, what frees nothing, and what the disk does not need any more."""
    for each in reversed(judged):
        reason, loss = chosen.get(each.model.model_id), tally.loss(each.model)
        if reason and (loss == 0 or (reason is Reason.STORAGE and tally.freed - loss >= over)):
            tally.take_back(each.model)
            del chosen[each.model.model_id]
