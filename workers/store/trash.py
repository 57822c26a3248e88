"""The trash: what left the store lies there until its grace time ends, and can come back until then."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import Conflict, Corrupt, NotFound
from workers.disk import storage
from workers.store.layout import MEMO, SEAL, Layout
from workers.store.manifest import Manifest, read

_NAME = re.compile(r"\d{1,12}-(.+)-([^-]+)-[0-9a-f]{8}")
_GOING = ".going-"
"""What the emptying has taken hold of: out of everybody's sight, whole or not."""
MAX_MEMO_BYTES = 1024**2
Inode = tuple[int, int]


@dataclass(frozen=True)
class Trashed:
    """Something in the trash. `size` counts bytes that nothing else in the store holds; `since` is epoch seconds.

    `manifest` is None for a folder that was replaced by a better one of the same revision: it is not to come back.
    """

    name: str
    path: Path
    since: float
    size: int
    manifest: Manifest | None

    @property
    def origin(self) -> tuple[str, str]:
        """Model and revision that it was; for a replaced folder as far as its name tells."""
        if self.manifest is not None:
            return self.manifest.model_id, self.manifest.revision
        match = _NAME.fullmatch(self.name)
        return (match[1], match[2]) if match else (self.name, "")


def entries(layout: Layout) -> Iterator[Trashed]:
    """What lies in the trash, oldest first; things that are not ours are left out.

    Raises:
        Unavailable: code `store_missing`.
    """
    layout.check_marker()
    for since, path in layout.trashed():
        with contextlib.suppress(FileNotFoundError):
            yield Trashed(path.name, path, since, bytes_alone(path), _manifest(path))


def find(layout: Layout, name: str) -> Trashed:
    """One entry that can come back.

    Raises:
        NotFound: there is none of this name.
        Conflict: code `not_restorable`.
    """
    found = next((entry for entry in entries(layout) if entry.name == name), None)
    if found is None:
        raise NotFound("trash_not_found", "There is no such thing in the trash.", "`modelyard trash` lists it.")
    if found.manifest is None:
        raise Conflict(
            "not_restorable", "This folder was replaced by a repaired one of the same revision.",
            "It is kept for a look at what was wrong, and goes when its grace time ends.",
        )  # fmt: skip
    return found


def leaves_with(layout: Layout, names: Collection[str]) -> int:
    """Bytes of these entries that nothing outside the trash holds: what is free once the trash is empty.

    An entry that is not there has none.

    Raises:
        Failed: the disk refuses.
    """
    with storage():
        mine = _contents(layout.trash_root / name for name in names)
        everywhere: Mapping[Inode, tuple[int, int, int]] = mine
        if any(found < links for _, links, found in mine.values()):
            everywhere = _contents(path for _, path in layout.trashed())
    counted = (everywhere.get(inode, content) for inode, content in mine.items())
    return sum(size for size, links, found in counted if found == links)


def write_memo(folder: Path, facts: dict[str, Any]) -> None:
    """Put the registry's entry beside the files that leave, so that both can come back."""
    path = folder / MEMO
    with path.open("w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())


def read_memo(folder: Path) -> dict[str, Any]:
    """The registry's entry as it was; empty where it is not there or cannot be read."""
    try:
        with (folder / MEMO).open("rb") as file:
            facts = json.loads(file.read(MAX_MEMO_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def empty_trash(layout: Layout, older_than_seconds: float, now: float) -> int:
    """Delete what has been in the trash for longer than that. Answers the bytes freed.

    Args:
        now: epoch seconds.

    Raises:
        Unavailable: code `store_missing`.
        Failed: the disk refuses.
    """
    layout.check_marker()
    freed = 0
    for since, entry in layout.trashed():
        if now - since <= older_than_seconds:
            continue
        with storage():
            size = bytes_alone(entry)
            going = entry.with_name(_GOING + entry.name)
            try:
                entry.rename(going)  # from here on nobody can have it back half deleted
            except FileNotFoundError:  # it was restored
                continue
        freed += size
    with storage():
        for left in layout.trash_root.glob(f"{_GOING}*"):
            if _NAME.fullmatch(left.name.removeprefix(_GOING)):
                shutil.rmtree(left)
    return freed


def bytes_alone(folder: Path) -> int:
    """Bytes of the files below a folder that have no other name elsewhere. Links are not followed."""
    return sum(state.st_size for path in files_below(folder) if (state := path.lstat()).st_nlink == 1)


def files_below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, links included and not followed."""
    for parent, folders, files in os.walk(folder):
        for name in files:
            yield Path(parent) / name
        for name in folders:
            if (Path(parent) / name).is_symlink():
                yield Path(parent) / name


def _contents(folders: Iterable[Path]) -> dict[Inode, tuple[int, int, int]]:
    """Size, names on the disk and names below these folders of what models' files hold."""
    found: dict[Inode, tuple[int, int, int]] = {}
    for folder in folders:
        for path in files_below(folder):
            state = path.lstat()
            if path.name not in (SEAL, MEMO):
                inode = (state.st_dev, state.st_ino)
                _, _, before = found.get(inode, (0, 0, 0))
                found[inode] = (state.st_size, state.st_nlink, before + 1)
    return found


def _manifest(path: Path) -> Manifest | None:
    try:
        return read(path / SEAL)
    except Corrupt:
        return None
