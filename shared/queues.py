"""Names of queues, devices and Redis channels. A queue's name sorts by priority: that order is what workers follow."""

import re
from collections.abc import Iterable

from shared.states import Priority

IO = "io"
DEVICE = "device"
"""Stands for the lane of whichever device is chosen at submit."""
CPU, ONLY_NODE = "cpu", "local"
"""The device that is no GPU, and the node that nobody has named."""
INTAKE = "modelyard.intake"
"""Where a message goes that names no queue of ours; it is adopted and filed, never run in place."""
CELERY_DEFAULT = "celery"
"""Celery's own default queue, for foreign services that name none."""

SEPARATOR, PRIORITY_STEPS = "\x06\x16", (0, 3, 6, 9)
"""kombu's: a message with the priority 4 lies in `<queue><separator>3`, and one with 0 in `<queue>`."""
OURS = ("modelyard.*", "celery[^a-z]*")
"""SCAN patterns of the lists that messages to us may lie in."""

_DEFAULT_VARIANT = re.compile(rf"^{CELERY_DEFAULT}({SEPARATOR}|:)\d$")
_QUEUE = re.compile(r"^modelyard\.p(?P<priority>[0-3])\.(?P<lane>io(\.[0-9a-f]{32})?|device\.[a-z0-9][a-z0-9-]{0,63})$")


def device_lane(device_id: str) -> str:
    return f"device.{device_id}"


def store_lane(store: str) -> str:
    """Of jobs for the files of one store, where there are several; its workers read it beside `io`."""
    return f"{IO}.{store}"


def cpu_of(node: str) -> str:
    """The id of a machine's CPU: unlike a GPU it has no name of its own in all the world."""
    return CPU if node == ONLY_NODE else f"{CPU}-{node}"


def is_cpu(device_id: str) -> bool:
    return device_id == CPU or device_id.startswith(f"{CPU}-")


def queue_name(priority: Priority, lane: str) -> str:
    """`modelyard.p0.io` … `modelyard.p3.device.cpu`."""
    return f"modelyard.p{int(priority)}.{lane}"


def parse_queue(name: str) -> tuple[Priority, str] | None:
    """Priority and lane of one of our queues, None for any other name."""
    match = _QUEUE.match(name)
    return (Priority(int(match["priority"])), match["lane"]) if match else None


def worker_queues(*lanes: str) -> list[str]:
    """What a worker of these lanes consumes, as it does. Intake sorts first on purpose: adopting costs milliseconds."""
    intake: Iterable[str] = (CELERY_DEFAULT, INTAKE) if IO in lanes else ()
    return [*intake, *(queue_name(priority, lane) for priority in Priority for lane in lanes)]


def read_lists(lanes: Iterable[str]) -> set[str]:
    """Every list that workers of these lanes, and of io, read."""
    names = {name for lane in {IO, *lanes} for name in worker_queues(lane)}
    return {f"{name}{SEPARATOR}{step}" if step else name for name in names for step in PRIORITY_STEPS}


def is_ours(name: str) -> bool:
    """Is a list one that somebody meant for us? Of Celery's own queue only variants that no default would read."""
    return name.startswith("modelyard.") or _DEFAULT_VARIANT.match(name) is not None


EVENTS_CHANNEL = "modelyard:events"
"""Pub/sub channel of every event."""
EVENTS_STREAM = "modelyard:events:stream"
"""Capped stream with the same events, for those who come back."""


def leases_key(residency_id: str) -> str:
    """Sorted set of lease ids, scored by the time they run out."""
    return f"modelyard:leases:{residency_id}"


def closed_key(residency_id: str) -> str:
    """Present from the moment a residency takes no new lease."""
    return f"modelyard:leases:{residency_id}:closed"


def used_key(residency_id: str) -> str:
    """When a request last held a residency, in seconds since 1970 by Redis' clock."""
    return f"modelyard:used:{residency_id}"


WORKERS_KEY = "modelyard:workers"
"""Sorted set of `<lane> <worker>`, scored by the last sign of life."""
BEAT_KEY = "modelyard:beat"
"""When a worker last heard of beat, in seconds since 1970 by Redis' clock."""
FLOWS_KEY = "modelyard:flows"
"""Hash of the downloads that run under a limit, by job: when they were last told of, and what they can use."""
