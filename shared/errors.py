"""The one error tree. An error's class says what it means; its code is stable; its hint is the next step.

`api/problems.py` maps these classes to HTTP once, `workers/job.py` maps them to a job's outcome once.
"""

from typing import Any, ClassVar


class ModelyardError(Exception):
    """Something a person can act on.

    Args (positional only):
        code: stable machine-readable name, snake_case.
        message: what happened and why, for a person; never a stack, a path of ours or a secret.
        hint: what to do next.
        details: small JSON-able facts (bytes needed, names of files), or None.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, code: str, message: str, hint: str = "", details: dict[str, Any] | None = None, /) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details = details or {}


class Invalid(ModelyardError):
    """The request, message or setting itself is wrong; sending it again will not help."""


class NotFound(ModelyardError):
    """Nothing here has that name."""


class Conflict(ModelyardError):
    """Right in itself, but not in the present state (active, downloading, already finished)."""


class Unauthenticated(ModelyardError):
    """No key, or a wrong one."""


class Forbidden(ModelyardError):
    """Known, understood, and not allowed (a private host, a foreign origin, a gated repository)."""


class Exhausted(ModelyardError):
    """No room: disk, memory, a full queue."""


class Corrupt(ModelyardError):
    """Bytes are not what they must be."""


class Unsafe(ModelyardError):
    """Would run code that a model brought along."""


class Failed(ModelyardError):
    """Tried and did not work, and trying again the same way will not help (a runner that exits)."""


class Unavailable(ModelyardError):
    """Not now: a server is down, busy or limiting. Retried with backoff.

    Args:
        retry_after: seconds that the other side asked us to wait, or None.
    """

    retryable: ClassVar[bool] = True

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
        /,
    ) -> None:
        super().__init__(code, message, hint, details)
        self.retry_after = retry_after


class TooMany(Unavailable):
    """Asked too often, or too much at a time, by one caller."""


class Stop(Exception):
    """A job's body ends early without having failed. Raised by checkpoints, never caught by bodies."""


class Cancelled(Stop):
    """Somebody cancelled the job."""


class Paused(Stop):
    """Somebody paused the job; what it has proven stays on disk."""


class Interrupted(Stop):
    """This worker is shutting down; the job goes back to its queue at once."""


class MadeWay(Stop):
    """A more urgent job gets the slot; this one goes on after it."""


class LeaseLost(Stop):
    """Another attempt owns the job now; this one must write nothing more."""


class Snooze(Stop):
    """Come back later; not counted as an attempt.

    Args:
        seconds: how long to wait.
        why: shown to people while the job waits.
        code: stable machine-readable name of what it waits for.
        hint: what would make it go on sooner.
    """

    def __init__(self, seconds: float, why: str, code: str = "waiting", hint: str = "It goes on by itself.", /) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.why = why
        self.code = code
        self.hint = hint
