"""Where a list goes on: what a page ended with, as a text that clients hand back as it is."""

import base64
import json
from typing import Annotated, Any

from fastapi import Query

from shared.errors import Invalid
from shared.storable import storable

Cursor = Annotated[str | None, Query(max_length=500)]


def encode_cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> list[Any]:
    """Raises: Invalid when the cursor is none of ours."""
    try:
        parts = storable(json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
        fits = isinstance(parts, list) and len(parts) == len(types)
    except (ValueError, RecursionError):
        fits = False
    if not fits or not all(isinstance(part, kind) for part, kind in zip(parts, types, strict=True)):
        raise Invalid("invalid_cursor", "The cursor is none of ours.", "Use nextCursor of the page before, as it is.")
    return list(parts)
