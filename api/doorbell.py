"""Rings and tells from one thread of its own, in order: no request waits for Redis, whatever ails it.

What is not rung when this process dies waits in its row, and the rescue sends it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from shared.errors import ModelyardError

log = structlog.get_logger()


class Doorbell:
    """For `Ledger`: takes what is to be done once a change is committed."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="doorbell")

    def __call__(self, ring: Callable[[], None]) -> None:
        self._thread.submit(_do, ring)

    def close(self) -> None:
        """Ring what is still to be rung; seconds at most, because Redis is given one."""
        self._thread.shutdown()


def _do(ring: Callable[[], None]) -> None:
    try:
        ring()
    except ModelyardError as error:
        log.warning("doorbell.failed", code=error.code, reason=error.message)
    except Exception:
        log.exception("doorbell.crashed")
