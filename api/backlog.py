"""How much work may wait: who asks for more is told to come again, rather than to wait for days."""

import time

from shared.db import jobs
from shared.db.session import Database
from shared.errors import TooMany

FRESH_SECONDS = 1.0
AGAIN_SECONDS = 30.0


class Backlog:
    """Of all API processes together, counted by each of them once a second at most."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._looked_at = -FRESH_SECONDS
        self._waiting = 0

    def refuse_if_full(self) -> None:
        """Raises: TooMany: `too_many_jobs`."""
        if time.monotonic() - self._looked_at >= FRESH_SECONDS:
            with self._database.reading() as session:
                self._waiting = jobs.waiting(session, self._most)
            self._looked_at = time.monotonic()
        if self._waiting >= self._most:
            hint = "Wait until some have ended, or raise MODELYARD_API__MAX_WAITING_JOBS."
            raise TooMany("too_many_jobs", f"{self._most} jobs wait already.", hint, None, AGAIN_SECONDS)
