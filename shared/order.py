"""Which models are brought first: those that are damaged, then those that are missing, by how much they matter."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from shared.states import Availability, Priority


class Policy(StrEnum):
    """Which models are to be there without anybody asking for each."""

    OFF = "off"
    REPAIR = "repair"
    """Those that are damaged, in our store."""
    WANTED = "wanted"
    """And those that are missing, of what somebody entered or fetched before."""
    ALL = "all"
    """And all others that are enabled: the whole catalogue."""


class Bring(StrEnum):
    """What brings a model."""

    REPAIR = "repair"
    DOWNLOAD = "download"


@dataclass(frozen=True)
class Standing:
    """How it stands with a model."""

    model_id: str
    availability: Availability
    priority: Priority
    uses_per_day: float
    enabled: bool = True
    wanted: bool = True
    """Somebody entered it, or had it fetched."""
    repairable: bool = True
    """Its files are ours to write."""
    fetchable: bool = True
    """Its source sends files."""
    last_used_at: float | None = None
    size: int | None = None
    """Bytes, as far as known."""


@dataclass(frozen=True)
class Step:
    """One model, and what brings it."""

    model_id: str
    bring: Bring
    priority: Priority
    """Of the job. Damaged models come first in the queue."""
    why: str
    size: int | None = None


def download_order(standings: Iterable[Standing], policy: Policy) -> list[Step]:
    """What is to be brought under a policy, the first first.

    Damaged before missing; then by priority, by uses a day, by the last use, the smaller first. What failed is left to
    people: it would fail again. What waits, comes or rests already is not brought twice.
    """
    steps = [(each, step) for each in standings if (step := _step(each, policy)) is not None]
    steps.sort(key=lambda pair: _rank(*pair))
    return [step for _, step in steps]


def _step(one: Standing, policy: Policy) -> Step | None:
    if policy is Policy.OFF or not one.enabled:
        return None
    if one.availability is Availability.CORRUPTED and one.repairable:
        priority = min(one.priority, Priority.HIGH)
        return Step(one.model_id, Bring.REPAIR, priority, "Its files are damaged.", one.size)
    if one.availability is not Availability.MISSING or not one.fetchable or policy is Policy.REPAIR:
        return None
    if not one.wanted and policy is not Policy.ALL:
        return None
    return Step(one.model_id, Bring.DOWNLOAD, one.priority, "It is not on disk.", one.size)


def _rank(one: Standing, step: Step) -> tuple[bool, int, float, float, int, str]:
    unknown = 2**63
    size = one.size if one.size is not None else unknown
    return (
        step.bring is not Bring.REPAIR, one.priority, -one.uses_per_day, -(one.last_used_at or 0.0), size, one.model_id
    )  # fmt: skip
