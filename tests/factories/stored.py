"""Revisions put into a store the way a download does it."""

import hashlib
from pathlib import Path

from blake3 import blake3

from workers.store.layout import Layout
from workers.store.manifest import CHUNK_BYTES, Manifest, ManifestFile


def manifest_file(name: str, data: bytes) -> ManifestFile:
    parts = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
    chunks = tuple(blake3(part).hexdigest() for part in parts)
    return ManifestFile(name, len(data), hashlib.sha256(data).hexdigest(), chunks, None, source_checksum=True)


def stage(
    layout: Layout, files: dict[str, bytes], *, model_id: str = "tiny", revision: str = "r1"
) -> tuple[Manifest, dict[str, Path]]:
    """Write partial files and their journals; the manifest and the partials, ready to be published."""
    partials = {}
    for name, data in files.items():
        partials[name] = layout.partial(model_id, revision, name)
        partials[name].write_bytes(data)
        partials[name].with_name(partials[name].name + ".journal").write_text("proof")
    described = [manifest_file(name, data) for name, data in files.items()]
    return Manifest.of(model_id, "llm", revision, "file:/models/tiny", described), partials
