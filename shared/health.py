"""How a model is: what its checks say, as a state that does not flap, as scores, and in words. Pure.

docs/health.md tells people the same; the rows are in `shared/db/health.py`.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.states import Health

WINDOW, FAILURES, RECOVERIES = 5, 3, 3
"""A model is unhealthy once FAILURES of its last WINDOW answers were none, and healthy again after RECOVERIES in a row
that were. Because RECOVERIES > WINDOW - FAILURES, the two never contradict each other."""
SAMPLES, LATEST = 20, 3
"""Measured times that are kept: of what is usual, and of now."""
SLOW_TIMES, SLOW_SECONDS, ENOUGH = 4.0, 1.0, 5
"""An answer that took so many times as long as usual, and at least so long, is too slow, once so many are known."""
ANSWERS_WEIGH = 0.75
"""Of the performance score; loads have the rest."""
SLOWED_BELOW = 0.5
USES_ENOUGH, FAILING_SHARE = 20, 0.05
PROVEN_DAYS = 60
DAY = 86_400


def settle(before: Health, outcomes: Sequence[bool]) -> Health:
    """The state after a check.

    Args:
        before: it never is CORRUPTED here: of bytes there is proof, which nothing need damp.
        outcomes: whether each answer was one, the newest last; WINDOW of them are enough.
    """
    recent = outcomes[-WINDOW:]
    if recent.count(False) >= FAILURES:
        return Health.UNHEALTHY
    steady = len(recent) >= RECOVERIES and all(recent[-RECOVERIES:])
    return Health.HEALTHY if steady or (before is Health.UNKNOWN and recent and recent[-1]) else before


def unsettled(state: Health, outcomes: Sequence[bool]) -> bool:
    """The newest outcome contradicts the state, so that the next check should come soon."""
    return bool(outcomes) and outcomes[-1] is (state is Health.UNHEALTHY)


def slow(seconds: float, usual: Sequence[float]) -> bool:
    """Did an answer take far longer than those before it?"""
    return len(usual) >= ENOUGH and seconds > max(SLOW_TIMES * statistics.median(usual), SLOW_SECONDS)


def performance(answers: Sequence[float], latest: Sequence[float], loads: Sequence[float]) -> float | None:
    """How fast it is beside how fast it usually is, 0 to 1; None where nothing was measured.

    For answers: the median of those that were well, at most SAMPLES, divided by the median of the LATEST, slow ones
    too. For loads: the median divided by the last one. Each at most 1; the mean of both, in which answers weigh
    ANSWERS_WEIGH; the one alone where the other is not known.
    """
    parts = []
    if latest:
        parts.append((ANSWERS_WEIGH, _share(answers or latest, statistics.median(latest))))
    if loads:
        parts.append((1 - ANSWERS_WEIGH, _share(loads, loads[-1])))
    weight = sum(each for each, _ in parts)
    return sum(each * share for each, share in parts) / weight if parts else None


def _share(usual: Sequence[float], seconds: float) -> float:
    return min(1.0, statistics.median(usual) / seconds) if seconds > 0 else 1.0


@dataclass(frozen=True)
class Seen:
    """What is known of a model that is installed."""

    model_id: str
    health: Health
    ours: bool
    """Our store holds it."""
    findings: int
    """Of the last verify."""
    reasons: Sequence[dict[str, Any]]
    """Why its last check failed."""
    proven: float | None
    """Seconds since every byte was proven."""
    performance: float | None
    uses: int
    failures: int
    unverified: bool
    newer: bool
    """Its source has a newer revision."""


class Advice(NamedTuple):
    """Something that a person could do."""

    code: str
    message: str
    command: str


def advise(seen: Seen) -> list[Advice]:
    """What to do for a model, the most urgent first; nothing for one that is well."""
    model = seen.model_id
    found: list[Advice | None] = [
        _of_damage(seen),
        Advice("unhealthy", " ".join(each["message"] for each in seen.reasons), f"modelyard reload {model}")
        if seen.health is Health.UNHEALTHY
        else None,
        Advice(
            "unverified", "Its server told neither length nor digest, so nobody can tell whether it is whole.",
            f"modelyard pull URL --id {model} --checksum sha256:…",
        )
        if seen.unverified
        else None,
        _of_speed(seen),
        Advice(
            "failing", f"{seen.failures} of its {seen.uses} uses within 30 days failed: see the log of its runner.",
            f"modelyard health {model} --check live",
        )
        if seen.uses >= USES_ENOUGH and seen.failures > FAILING_SHARE * seen.uses
        else None,
        _of_proof(seen),
        Advice("newer", "Its source has a newer revision.", f"modelyard update {model}") if seen.newer else None,
    ]  # fmt: skip
    return [each for each in found if each is not None]


def _of_damage(seen: Seen) -> Advice | None:
    if seen.health is not Health.CORRUPTED:
        return None
    what = f"{seen.findings} finding{'s' if seen.findings != 1 else ''} in its files; it is not loaded until they are"
    if seen.ours:
        return Advice("corrupted", f"{what} repaired.", f"modelyard repair {seen.model_id}")
    return Advice("corrupted", f"{what} put right where you keep them.", f"modelyard verify {seen.model_id}")


def _of_speed(seen: Seen) -> Advice | None:
    if seen.performance is None or seen.performance >= SLOWED_BELOW:
        return None
    times = f"{1 / seen.performance:.1f} times" if seen.performance > 0.01 else "far more than 100 times"  # noqa: PLR2004 - a hundredth
    message = f"It takes {times} as long as it used to: see what else its device and its disk do."
    return Advice("slowed", message, "modelyard devices")


def _of_proof(seen: Seen) -> Advice | None:
    command = f"modelyard health {seen.model_id} --check deep"
    if seen.proven is None:
        return Advice("never_proven", "Its bytes were never proven.", command)
    if seen.proven < PROVEN_DAYS * DAY:
        return None
    return Advice("proven_long_ago", f"Its bytes were last proven {seen.proven / DAY:.0f} days ago.", command)
