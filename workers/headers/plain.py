"""Opening a file that somebody else may have put there."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shared.errors import Corrupt

Openable = Path | Callable[[], int]
"""A file by its path, or by a function that opens it for reading: one that knows a safer way there than the path."""


@contextmanager
def open_plain(path: Openable) -> Iterator[tuple[BinaryIO, int]]:
    """An unbuffered file and its size in bytes; a link, a pipe or a device is refused and never waited for.

    Raises:
        Corrupt: code `invalid_format`.
        OSError: the disk refuses.
    """
    try:
        handle = path() if callable(path) else os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise invalid_format("the file is not there") from None
    except OSError as error:
        raise invalid_format(f"it cannot be opened: {os.strerror(error.errno or 0)}") from error
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise invalid_format("it is not a plain file")
    with os.fdopen(handle, "rb", buffering=0) as file:
        yield file, state.st_size


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """That many bytes, or as many as there are."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def invalid_format(reason: str) -> Corrupt:
    """The one error of all readers."""
    return Corrupt(
        "invalid_format",
        f"The file is not a valid model file: {reason}.",
        "Repair the model, or ask its publisher.",
        {"reason": reason},
    )
