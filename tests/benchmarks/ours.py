"""`python -m tests.benchmarks.ours`: the code that a worker runs, without the ledger: one JSON command a line.

    {"do": "pull", "ref": …, "store": …}      resolve, fetch every file, prove, publish
    {"do": "fetch", "ref": …, "into": …}      resolve and fetch; answers also what was refused, by code
    {"do": "verify", "ref": …, "store": …, "tier": …}

Ends with its input. Started for one command it is what a command-line tool is, start and imports and all; kept, it is
what a worker is.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import Corrupt
from shared.refs import parse_ref
from shared.settings import SourceSettings
from shared.states import VerifyTier
from workers.sources import source_of
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.transfer import Fetched, fetch, fetch_several
from workers.sources.wire.policy import HostPolicy

MODEL, TYPE = "bench", "llm"


def pull(settings: SourceSettings, ref: str, store: str) -> dict[str, Any]:
    from workers.store.layout import Layout
    from workers.store.manifest import Manifest, ManifestFile
    from workers.store.publish import publish

    layout = Layout(Path(store))
    layout.ensure()
    snapshot = _resolve(settings, ref)
    partials = {file.name: layout.partial(MODEL, snapshot.revision, file.name) for file in snapshot.files}
    wanted = [(file, partials[file.name]) for file in snapshot.files]
    files = [
        ManifestFile(file.name, found.size, found.sha256, found.chunks, found.etag, source_checksum=True)
        for file, found in fetch_several(wanted, HostPolicy(settings), settings, lambda: None, lambda *_: None)
    ]
    publish(layout, Manifest.of(MODEL, TYPE, snapshot.revision, ref, files), partials)
    folder = layout.published(TYPE, MODEL, snapshot.revision)
    return {"bytes": sum(file.size for file in files), "folder": str(folder)}


def bring(settings: SourceSettings, ref: str, into: str) -> dict[str, Any]:
    done, refused = 0, Counter[str]()
    for file in _resolve(settings, ref).files:
        try:
            done += _fetch(settings, file, Path(into) / f"{file.name}.partial").size
        except Corrupt as error:
            refused[error.code] += 1
    return {"bytes": done, "refused": refused}


def check(settings: SourceSettings, ref: str, store: str, tier: str) -> dict[str, Any]:
    from workers.store.layout import Layout
    from workers.store.manifest import read
    from workers.store.verify import verify

    layout, promised = Layout(Path(store)), {}
    (kept,) = layout.manifests_root.glob(f"{MODEL}/*.json")
    if tier == VerifyTier.SOURCE:
        for file in _resolve(settings, ref).files:
            digests = {name: getattr(file, name) for name in ("sha256", "md5", "git_sha1")}
            promised[file.name] = {name: digest for name, digest in digests.items() if digest is not None}
    report = verify(
        layout, read(kept), tier=VerifyTier(tier), promised=promised, checkpoint=lambda: None, on_bytes=lambda _: None
    )
    assert report.ok, report
    return {"bytes": report.checked_bytes}


def _resolve(settings: SourceSettings, ref: str) -> Snapshot:
    parsed = parse_ref(ref)
    return source_of(parsed.kind, settings).resolve(parsed)


def _fetch(settings: SourceSettings, file: RemoteFile, partial: Path) -> Fetched:
    return fetch(file, partial, HostPolicy(settings), settings, lambda: None, lambda _: None)


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"pull": pull, "fetch": bring, "verify": check}


def main() -> None:
    settings = SourceSettings()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(COMMANDS[command.pop("do")](settings, **command)), flush=True)


if __name__ == "__main__":
    main()
