"""Who may be how fast: weighted max-min fairness by progressive filling."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shared.limits import Limit
from shared.states import Priority

WEIGHTS = {Priority.CRITICAL: 8.0, Priority.HIGH: 4.0, Priority.MEDIUM: 2.0, Priority.LOW: 1.0}
"""Of two downloads that both want more than there is, one gets so many times as much as the other."""
ROUNDING = 1 + 1e-9


@dataclass(frozen=True)
class Flow:
    """A running download, as the governor sees it."""

    source: str
    priority: Priority
    demand: float = math.inf
    """Bytes a second that it can use; infinite where nobody knows."""


def shares(limits: Collection[Limit], flows: Mapping[str, Flow]) -> dict[str, float]:
    """Bytes a second for each flow; infinite for one that no limit concerns.

    All flows grow together, each by its weight, until a limit is full or a flow has what it can use: those stay as
    they are, and the others go on. So what one leaves is the others', and no limit is passed. Every round settles a
    flow at least. (Bertsekas and Gallager, Data Networks, 6.5.2.)
    """
    room = {limit: float(limit.bytes_per_second) for limit in limits if limit.bytes_per_second is not None}
    under = {
        limit: [name for name, flow in flows.items() if limit.concerns(flow.source, flow.priority)] for limit in room
    }
    limited = {name for names in under.values() for name in names}
    found = {name: 0.0 if name in limited else math.inf for name in flows}
    weight = {name: WEIGHTS[flow.priority] for name, flow in flows.items()}
    while limited:
        growth = {limit: sum(weight[name] for name in limited.intersection(under[limit])) for limit in room}
        steps = {limit: room[limit] / growth[limit] for limit in room if growth[limit]}
        wants = {name: (flows[name].demand - found[name]) / weight[name] for name in limited}
        step = max(0.0, min(*steps.values(), *wants.values()))
        for limit in steps:
            room[limit] -= step * growth[limit]
        for name in limited:
            found[name] += step * weight[name]
        full = {name for limit in steps if steps[limit] <= step * ROUNDING for name in under[limit]}
        limited -= full | {name for name, want in wants.items() if want <= step * ROUNDING}
    return found
