"""What the tests of the range engine share."""

import hashlib
import random
import threading
from pathlib import Path
from typing import Any

from blake3 import blake3

from shared.settings import SourceSettings
from workers.sources.base import RemoteFile
from workers.sources.transfer import CHUNK_BYTES, Fetched, Patience, fetch
from workers.sources.wire.policy import HostPolicy

MIB = 1024**2
QUICK = Patience(window=1.5, tries=3, backoff=0.01)
PATIENT = Patience(window=60, tries=3, backoff=0.01)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


SMALL = noise(300_000)
MEDIUM = noise(5 * MIB + 7)


def settings(url: str, **changes: Any) -> SourceSettings:
    return SourceSettings.model_validate({"hf_endpoint": url, "read_timeout": 5, **changes})


def bring(
    url: str,
    partial: Path,
    content: bytes | None = None,
    *,
    path: str = "/file",
    patience: Patience = QUICK,
    **extra: Any,
) -> Fetched:
    """Fetch and check that what was brought is the content, with monotone progress that adds up."""
    counts: list[int] = []
    options = {name: extra.pop(name) for name in list(extra) if name in SourceSettings.model_fields}
    checkpoint = extra.pop("checkpoint", lambda: None)
    file = RemoteFile("file", url + path, **extra)
    chosen = settings(url, **options)
    fetched = fetch(file, partial, HostPolicy(chosen), chosen, checkpoint, counts.append, patience=patience)
    assert threading.active_count() == len([t for t in threading.enumerate() if not t.name.startswith("fetch-")])
    assert all(count > 0 for count in counts)
    if content is not None:
        assert partial.read_bytes() == content
        assert sum(counts) == fetched.size == len(content)
        assert fetched.sha256 == hashlib.sha256(content).hexdigest()
        assert list(fetched.chunks) == [
            blake3(content[start : start + CHUNK_BYTES]).hexdigest() for start in range(0, len(content), CHUNK_BYTES)
        ]
    return fetched


BIG = "/acme/big/resolve/main/model.safetensors"
