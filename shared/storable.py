"""What may be stored of what callers send, whatever the database."""

import math
from typing import Any

DEEPEST = 32
"""Levels of a request's JSON."""


def storable(value: Any, levels: int = DEEPEST) -> Any:
    """The value, if a database of either kind, a log and a browser can all hold it.

    Raises:
        ValueError: NUL or half a character, a number that is none or has more than 64 bits, too many levels.
    """
    if levels < 0:
        raise ValueError(f"it has more than {DEEPEST} levels")
    if isinstance(value, str) and ("\0" in value or (not value.isascii() and _is_broken(value))):
        raise ValueError("a text has a NUL or half a character")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and Infinity are no numbers of JSON")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a number has more than 64 bits")
    if isinstance(value, dict):
        for key, inner in value.items():
            storable(key, levels), storable(inner, levels - 1)
    elif isinstance(value, list):
        for inner in value:
            storable(inner, levels - 1)
    return value


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def printable(value: str) -> str:
    """One line that shows as what it is: no control characters, nothing that turns or hides text."""
    if not value.isprintable():
        raise ValueError("it has characters that cannot be shown")
    return value


def printable_lines(value: str) -> str:
    """The same for several lines."""
    printable(value.replace("\n", " ").replace("\t", " "))
    return value
