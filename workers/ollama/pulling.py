"""What Ollama tells of a pull, line by line, until it has proven all of it."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from workers.ollama.errors import interrupted, invalid_manifest, malformed, meaning

MAX_DIGESTS = 1_000
MAX_SIZE = 2**53
STALL_SECONDS = 600.0
"""A pull that tells nothing new for so long is given up. Hashing a large layer takes minutes, in silence."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Layer(NamedTuple):
    """How far Ollama is with one layer, in bytes."""

    done: int
    total: int


OnLayers = Callable[[str, dict[str, Layer]], None]
"""Told what Ollama does, and all layers that it has named so far, by digest."""


def follow(lines: Iterator[dict[str, Any]], name: str, on_layers: OnLayers) -> dict[str, Layer]:
    """The layers of what was pulled, once it is.

    Raises:
        ModelyardError: what Ollama says went wrong; or it ended before it was done.
        TimeoutError: nothing moves.
    """
    layers: dict[str, Layer] = {}
    last, moved = None, time.monotonic()
    for line in lines:
        if "error" in line:
            raise meaning(str(line["error"]), name)
        status = _status(line, layers)
        if status == "success":
            return layers
        on_layers(status, layers)
        if last != (last := (status, sum(layer.done for layer in layers.values()))):
            moved = time.monotonic()
        elif time.monotonic() - moved > STALL_SECONDS:
            raise TimeoutError
    raise interrupted()


def _status(line: dict[str, Any], layers: dict[str, Layer]) -> str:
    """What one line of a pull tells; the layer that it names is noted.

    Raises:
        Failed: `source_invalid_manifest`.
    """
    status, digest = line.get("status"), line.get("digest")
    if not isinstance(status, str):
        raise malformed("a line has no status")
    if "digest" not in line or digest == "":
        return status
    total, done = line.get("total", 0), line.get("completed", 0)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise invalid_manifest("a digest is not sha256: with 64 hex digits")
    if not (type(total) is int and type(done) is int and 0 <= total < MAX_SIZE and 0 <= done < MAX_SIZE):
        raise invalid_manifest("the size of a layer is no sane number")
    before = layers.get(digest)
    if before is None and len(layers) >= MAX_DIGESTS:
        raise invalid_manifest(f"it has more than {MAX_DIGESTS:,} layers")
    if before is not None and total and before.total not in (0, total):
        raise invalid_manifest("a layer has two sizes")
    size = total or (before.total if before else 0)
    layers[digest] = Layer(max(min(done, size), before.done if before else 0), size)
    return status
