"""What an applied lock makes of a source's offer: exactly the revision and the files that it names, or nothing."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from shared.errors import Corrupt, Unsafe
from shared.lock import LockedFile, LockedModel
from shared.refs import SourceKind
from shared.trust import Trust
from workers.formats import CODE, PICKLES
from workers.sources.base import RemoteFile, Snapshot


def pinned(offer: Snapshot, entry: LockedModel, trust: Trust) -> Snapshot:
    """The files of the lock as their source offers them, each with the digest that it must have.

    What the source offers beyond them is left out. The one file of a URL is told by its content, not by what its
    server calls that content today.

    Args:
        trust: what a person allowed of this revision, here.

    Raises:
        Corrupt: code `lock_mismatch`; the source offers something else under that revision.
        Unsafe: the lock names what is not fetched here without leave.
    """
    if entry.source == SourceKind.URL and len(offer.files) == len(entry.files) == 1:
        found = {entry.files[0].name: replace(offer.files[0], name=entry.files[0].name)}
    elif offer.revision != entry.revision:
        raise lock_mismatch("", "revision", entry.revision, offer.revision)
    else:
        found = {file.name: file for file in offer.files}
    for file in entry.files:
        if file.name in offer.skipped and PurePosixPath(file.name).suffix.lower() in CODE | PICKLES:
            raise _withheld(file.name, trust)
        if file.name not in found:
            raise lock_mismatch(file.name, "name", file.name, None)
    files = tuple(_held_to(found[file.name], file) for file in entry.files)
    return Snapshot(entry.revision, files, tuple(sorted({*offer.skipped, *(found.keys() - {f.name for f in files})})))


def lock_mismatch(name: str, what: str, want: Any, got: Any) -> Corrupt:
    """The source has something else than the lock says.

    Args:
        name: of the file; empty where the revision as a whole is meant.
        what: `revision`, `name`, `size` or `sha256`.
    """
    where = f"{name!r}" if name else "The revision"
    return Corrupt(
        "lock_mismatch",
        f"{where} is not what the lock says: its {what} must be {want}, and the source has {got or 'none'}.",
        "Nothing of it is used. If the change at the source is meant, write a new lock where it was looked at: "
        "modelyard lock. Else bring what was locked in a bundle: modelyard bundle export.",
        {"name": name, "what": what, "want": want, "got": got},
    )


def _held_to(remote: RemoteFile, file: LockedFile) -> RemoteFile:
    """What can be told before a byte is brought is told then."""
    if remote.size not in (None, file.size):
        raise lock_mismatch(file.name, "size", file.size, remote.size)
    if remote.sha256 not in (None, file.sha256):
        raise lock_mismatch(file.name, "sha256", file.sha256, remote.sha256)
    return replace(remote, size=file.size, locked=file.sha256)


def _withheld(name: str, trust: Trust) -> Unsafe:
    code = PurePosixPath(name).suffix.lower() in CODE
    return Unsafe(
        "remote_code_required" if code else "unsafe_format",
        f"The lock names {name!r}, which is not fetched without leave: a lock carries none.",
        trust.way(pickle=not code, remote_code=code),
        {"name": name, "revision": trust.revision},
    )
