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


EMBEDDING = "embedding"
IMAGE_GEN = "image_gen"
SPEECH, MUSIC = "tts", "music"
ANIMATION, VIDEO_GEN = "animation", "video_gen"


class Output(StrEnum):
    """What a model makes of a text; its type says which."""

    TEXT = "text"
    VECTORS = "vectors"
    IMAGES = "images"
    SOUND = "sound"
    VIDEO = "video"


def output_of(model_type: str) -> Output:
    """What models of a type make: all others than these generate text, as far as a runtime here runs them."""
    made = {
        EMBEDDING: Output.VECTORS, IMAGE_GEN: Output.IMAGES, SPEECH: Output.SOUND, MUSIC: Output.SOUND,
        ANIMATION: Output.VIDEO, VIDEO_GEN: Output.VIDEO,
    }  # fmt: skip
    return made.get(model_type, Output.TEXT)


class Priority(IntEnum):
    """Smaller starts first; the number is the `p` of the queue's name."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


HIGH_ABOVE = 1.0
MEDIUM_ABOVE = 0.1


def priority_of(uses_per_day: float, said: int | None = None) -> Priority:
    """How much a model matters: HIGH from more than one use a day, MEDIUM from more than one in ten days, else LOW.

    Args:
        uses_per_day: within the last 30 days.
        said: what a person chose instead; CRITICAL is never given otherwise.
    """
    if said is not None:
        return Priority(said)
    if uses_per_day > HIGH_ABOVE:
        return Priority.HIGH
    return Priority.MEDIUM if uses_per_day > MEDIUM_ABOVE else Priority.LOW


class Tier(StrEnum):
    """How much a model can do, and so how long it takes; by its size, see `tier_of`, or as somebody said."""

    FAST = "fast"
    BALANCED = "balanced"
    POWERFUL = "powerful"


FAST_BELOW, POWERFUL_FROM = 5e9, 20e9
"""Parameters: a fast model answers at reading speed on a CPU in four bits, a powerful one fills a large GPU."""


def tier_of(parameters: float | None) -> Tier | None:
    """The tier of a model with that many parameters; None where nothing tells how many."""
    if not parameters:
        return None
    return Tier.FAST if parameters < FAST_BELOW else Tier.BALANCED if parameters < POWERFUL_FROM else Tier.POWERFUL


class InstallationState(StrEnum):
    PUBLISHED = "published"
    """Every digest matched when it was published."""
    CORRUPT = "corrupt"
    """A verify found bad or missing bytes; not loaded until repaired."""
    GONE = "gone"
    """What was referenced, or lay in Ollama, is not there any more; the entry stays, and a scan may find it again."""
    AWAY = "away"
    """The disk or the server that holds it is out of reach; nothing is known about it, and nothing is lost."""


class Holder(StrEnum):
    """Who holds the bytes of an installation."""

    STORE = "store"
    """Our store: every file is published, proven and ours to delete."""
    FOLDER = "folder"
    """A folder of the user's: referenced in place, never written to, never deleted."""
    OLLAMA = "ollama"
    """Ollama, behind its API; its files are never touched."""


class VerifyTier(StrEnum):
    """How closely a verify looks."""

    STAT = "stat"
    """Names, types, sizes and times; only what was written to since is hashed."""
    BLAKE3 = "blake3"
    """Every chunk against the digest it had when it was published."""
    SOURCE = "source"
    """Every file also against what its source publishes now."""


class HealthLevel(StrEnum):
    """How closely a health check looks; `deep` and `live` look as `cheap` does, too."""

    CHEAP = "cheap"
    """A look at its files, their headers, and at its runner."""
    DEEP = "deep"
    """Every byte is read and compared with its digest."""
    LIVE = "live"
    """It is asked something tiny, and its answer is looked at."""


class Health(StrEnum):
    """Whether a model is whole, and answers as it should."""

    UNKNOWN = "unknown"
    """Not installed, out of reach, or never looked at."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """Several of its last answers were none, or came far too late."""
    CORRUPTED = "corrupted"
    """Its files are not what was published; quarantined until they are repaired."""


class Availability(StrEnum):
    """What people ask of a model: can I use it? Derived, never stored."""

    AVAILABLE = "available"
    DOWNLOADING = "downloading"
    QUEUED = "queued"
    PAUSED = "paused"
    MISSING = "missing"
    CORRUPTED = "corrupted"
    UPDATING = "updating"
    """A newer revision comes down; the installed one serves until that is proven."""
    UNAVAILABLE = "unavailable"
    """The disk or the server that holds it is out of reach."""
    FAILED = "failed"


class StepState(StrEnum):
    """Of a model that a cleanup has set out to put into the trash."""

    PLANNED = "planned"
    LEAVING = "leaving"
    """Off the registry's list of what is installed; its files are on their way, and whoever comes next goes on."""
    GONE = "gone"
    """In the trash."""
    LEFT = "left"
    """Left where it was, for a reason that is told."""


class ResidencyState(StrEnum):
    STARTING = "starting"
    """Its runner is being started and probed."""
    READY = "ready"
    """Answered a real inference; may be made active."""
    DRAINING = "draining"
    """Takes no new lease; stops when the last one is returned."""
    LOST = "lost"
    """Its runner or its worker died; if it was active, a recovery job is on its way."""
    IDLE = "idle"
    """Out of memory because nobody used it, or somebody else needed its room. It serves its type all the same: the next
    request brings it back."""
    CRASH_LOOP = "crash_loop"
    """Lost again and again. It serves its type all the same, and is tried again every few minutes."""
    ASLEEP = "asleep"
    """Out of the device's memory, its weights still in the machine's: a load wakes it by a copy. It serves no type, and
    ends where its room is needed, its model is removed or has another revision."""
    STOPPED = "stopped"
    FAILED = "failed"
    """Never became ready."""


IN_MEMORY = (ResidencyState.STARTING, ResidencyState.READY, ResidencyState.DRAINING)
AWAY = (ResidencyState.LOST, ResidencyState.IDLE, ResidencyState.CRASH_LOOP)
"""Without a runner, and meant to have one."""
HELD = (*IN_MEMORY, *AWAY, ResidencyState.ASLEEP)
"""In memory, or meant to be, or near it."""
