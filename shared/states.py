"""Every state that is stored or shown, each documented where it is named."""

from enum import IntEnum, StrEnum


class JobState(StrEnum):
    """Life of a job: queued → running → one of the ends, with paused as a rest between."""

    QUEUED = "queued"
    """Accepted. Waits for a worker, for its `not_before`, or for its ticket to be sent again."""
    RUNNING = "running"
    """Claimed by one worker under a lease; the rescue queues it again when the lease runs out."""
    PAUSED = "paused"
    """Rests until somebody resumes or cancels it; holds its unique key."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Ended with an error that says what to do; `retry` queues it again."""
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """A message that was no valid job; kept so that its sender can find out why."""


LIVE = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED)


class Desired(StrEnum):
    """What people want of a job; a running body learns it at its next heartbeat."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Priority(IntEnum):
    """Smaller starts first; the number is the `p` of the queue's name."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


class InstallationState(StrEnum):
    PUBLISHED = "published"
    """Every digest matched when it was published."""
    CORRUPT = "corrupt"
    """A verify found bad or missing bytes; not loaded until repaired."""


class Availability(StrEnum):
    """What people ask of a model: can I use it? Derived, never stored."""

    AVAILABLE = "available"
    DOWNLOADING = "downloading"
    QUEUED = "queued"
    PAUSED = "paused"
    MISSING = "missing"
    CORRUPTED = "corrupted"
    FAILED = "failed"


class ResidencyState(StrEnum):
    STARTING = "starting"
    """Its runner is being started and probed."""
    READY = "ready"
    """Answered a real inference; may be made active."""
    DRAINING = "draining"
    """Takes no new lease; stops when the last one is returned."""
    LOST = "lost"
    """Its runner or its worker died; if it was active, a recovery job is on its way."""
    STOPPED = "stopped"
    FAILED = "failed"
    """Never became ready, or was lost again and again and given up."""


HELD = (ResidencyState.STARTING, ResidencyState.READY, ResidencyState.DRAINING, ResidencyState.LOST)
"""In memory, or meant to be."""
