"""What the storms run: a job that leaves one line where it ran; ours, and the same as a task of a plain Celery.

`python -m tests.faults.short_jobs` is an io worker of ours that knows this kind beside its own;
`celery -A tests.faults.short_jobs worker` is the plain one, all settings as they come.
"""

import os
import random
import sys
import time
from typing import Any

from celery import Celery

from shared.contract import OfModel
from shared.contracts import KINDS
from workers import rescue
from workers.job import Work, job

EFFECTS = "MODELYARD_STORM_EFFECTS"
PLAIN_BROKER = "MODELYARD_STORM_PLAIN_BROKER"
PLAIN_TASK = "note"
LONGEST_SECONDS = 0.05


class Note(OfModel):
    """Leaves a line."""

    kind = "test.note"


def _leave(who: str) -> None:
    """The effect: one line, appended in one write."""
    time.sleep(random.uniform(0, LONGEST_SECONDS))
    handle = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{who}\n".encode())
    finally:
        os.close(handle)
    time.sleep(random.uniform(0, LONGEST_SECONDS))


app = Celery("plain", broker=os.environ.get(PLAIN_BROKER, "redis://"))


@app.task(name=PLAIN_TASK)  # type: ignore[untyped-decorator] # celery ships no types
def note(who: str) -> None:
    _leave(who)


def main() -> None:
    """An io worker of ours whose clocks run faster, as those of the matrix do."""
    from workers.__main__ import main as work

    @job(Note)
    def leave(args: Note, work: Work) -> dict[str, Any]:
        work.checkpoint()
        _leave(args.model_id)
        return {}

    KINDS[Note.kind] = Note
    rescue.LOST_TICKET_SECONDS = 3
    sys.argv = ["workers", "io"]
    sys.exit(work())


if __name__ == "__main__":
    main()
