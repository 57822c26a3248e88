"""When a waiting job will probably start. Told only where there is something to tell it by."""

import heapq
from collections.abc import Sequence

SIMULATED = 1_000
"""Jobs ahead that are played through one by one; those beyond count by the mean."""


def seconds_left(elapsed: float, eta: float | None, usual: float | None) -> float | None:
    """Of a running job: its own estimate, else what its lane usually takes. All in seconds; None where unknown."""
    if eta is not None:
        return eta
    return None if usual is None else max(usual - elapsed, 0.0)


def seconds_until_start(position: int, left: Sequence[float | None], usual: float | None) -> float | None:
    """Seconds until the job at that place of its lane starts; None where nothing is known to tell it by.

    Each slot that becomes free takes the next job, and a job takes as long as jobs of the lane usually do.

    Args:
        position: counted from 1.
        left: what the running jobs still need, one for each slot.
        usual: mean run time of the lane's jobs.
    """
    if not left or any(seconds is None for seconds in left) or (usual is None and position > 1):
        return None
    free = [seconds for seconds in left if seconds is not None]
    heapq.heapify(free)
    ahead = position - 1
    for _ in range(min(ahead, SIMULATED)):
        heapq.heapreplace(free, free[0] + (usual or 0.0))
    return free[0] + max(ahead - SIMULATED, 0) * (usual or 0.0) / len(free)
