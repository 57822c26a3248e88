"""What the store's disk says, in our words."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import Exhausted, Failed

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK})


@contextmanager
def storage() -> Iterator[None]:
    """Around what reads or writes the store.

    Raises:
        Exhausted: code `insufficient_space`.
        Failed: code `storage_error`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise Exhausted(
                "insufficient_space",
                "The store's disk is full.",
                "Free some space, or lower MODELYARD_STORE__TRASH_DAYS.",
            ) from error
        reason = os.strerror(error.errno or errno.EIO)
        raise Failed("storage_error", f"The store's disk refuses: {reason}.", "Check the store's disk.") from error
