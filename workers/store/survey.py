"""What a store holds, counted by inode: bytes that two models share are counted once. Nothing is changed or judged."""

import os
import shutil
import stat
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.disk import storage
from workers.store import trash
from workers.store.layout import Layout

Where = tuple[str, str, str]
"""Type, model and revision of a published folder."""
Inode = tuple[int, int]
MAX_LISTED = 1000
TRASH = "."
"""No model's id: who holds what lies in the trash."""


@dataclass
class Content:
    """The bytes of one inode, and who holds it under one of its names."""

    size: int
    names: int
    """That it has on the whole disk."""
    found: int = 0
    holders: set[str] = field(default_factory=set)


@dataclass
class Survey:
    """One look at a store. Sizes are bytes of content; `rows` says which folders the registry knows."""

    layout: Layout
    rows: Mapping[str, frozenset[Where]]
    """By model: its revision, and the one kept for a rollback."""
    grace_seconds: float
    _contents: dict[Inode, Content] = field(default_factory=dict)
    _shared: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON.

        Raises:
            Unavailable: code `store_missing`.
            Failed: the disk refuses.
        """
        self.layout.check_marker()
        with storage():
            disk = shutil.disk_usage(self.layout.root)
            folders = {where: self._count(path, self._holder(where)) for where, path in self._published()}
            partials = list(self._partials())
            trashed = [self._trashed(entry) for entry in trash.entries(self.layout)]
            for _, path in self.layout.trashed():
                deque(self._hold(path, TRASH), maxlen=0)
        self.layout.check_marker()
        known = frozenset[Where]().union(*self.rows.values()) if self.rows else frozenset[Where]()
        by_type: Counter[str] = Counter()
        for (model_type, _, _), (_, alone) in folders.items():
            by_type[model_type] += alone
        return {
            "diskTotal": disk.total, "diskUsed": disk.used, "diskFree": disk.free,
            "modelsSize": sum(by_type.values()), "sharedBytes": self._shared, "byType": dict(by_type),
            "byModel": self._by_model(folders), "partials": partials[:MAX_LISTED], **self._who_holds(),
            "partialsSize": sum(entry["size"] for entry in partials),
            "orphans": [_named(where) | {"size": folders[where][0]} for where in sorted(folders.keys() - known)],
            "rowsWithoutFolder": [_named(where) for where in sorted(known - folders.keys())],
            "trashed": trashed[:MAX_LISTED], "trashSize": sum(entry["size"] for entry in trashed),
        }  # fmt: skip

    def _published(self) -> Iterator[tuple[Where, Path]]:
        root = self.layout.models_root
        for path in sorted(root.glob("*/*/*")):
            if path.is_dir() and not path.is_symlink():
                model_type, model_id, revision = path.relative_to(root).parts
                yield (model_type, model_id, revision), path

    def _holder(self, where: Where) -> str:
        """The model that has this revision, or a name that no model has."""
        model_id = where[1]
        return model_id if where in self.rows.get(model_id, ()) else "/".join(where)

    def _hold(self, folder: Path, holder: str) -> Iterator[tuple[os.stat_result, bool]]:
        """Note who holds what lies below a folder. Answers the files, and whether each was met for the first time."""
        for path in trash.files_below(folder):
            try:
                state = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(state.st_mode):
                inode = (state.st_dev, state.st_ino)
                content = self._contents.setdefault(inode, Content(state.st_size, state.st_nlink))
                content.found += 1
                content.holders.add(holder)
                yield state, content.found == 1

    def _count(self, folder: Path, holder: str) -> tuple[int, int]:
        """Bytes of a folder's files, and of those that were not met before."""
        size = alone = 0
        for state, first in self._hold(folder, holder):
            size += state.st_size
            alone += state.st_size if first else 0
            self._shared += 0 if first else state.st_size
        return size, alone

    def _who_holds(self) -> dict[str, Any]:
        """What leaves with whom: `aloneBytes` with one model, `shares` with the last of several, and with the trash.

        What has a name that was not found here, in staging or outside, leaves with nobody.
        """
        alone: Counter[str] = Counter()
        together: Counter[frozenset[str]] = Counter()
        for content in self._contents.values():
            holders = frozenset(content.holders - {TRASH})
            if content.found == content.names:
                together[holders] += content.size
        with_trash = together.pop(frozenset(), 0)
        for holders in [holders for holders in together if len(holders) == 1]:
            alone[next(iter(holders))] = together.pop(holders)
        shares = [{"models": sorted(holders), "size": size} for holders, size in together.items()]
        return {"aloneBytes": dict(alone), "shares": shares, "trashFrees": with_trash}

    def _by_model(self, folders: Mapping[Where, tuple[int, int]]) -> list[dict[str, Any]]:
        sizes: dict[tuple[str, str], list[int]] = {}
        for (model_type, model_id, _), (size, alone) in folders.items():
            counted = sizes.setdefault((model_id, model_type), [0, 0, 0])
            for place, value in enumerate((size, alone, 1)):
                counted[place] += value
        return [
            {"modelId": model_id, "modelType": model_type, "size": size, "ownBytes": alone, "revisions": revisions}
            for (model_id, model_type), (size, alone, revisions) in sorted(sizes.items())
        ]

    def _partials(self) -> Iterator[dict[str, Any]]:
        """Half-brought revisions; `size` is what they take on the disk, sharing with nobody."""
        for path in sorted(self.layout.staging_root.glob("*/*")):
            if not path.is_dir():
                continue
            size = 0
            for file in trash.files_below(path):
                try:
                    state = file.lstat()
                except FileNotFoundError:
                    continue
                size += state.st_blocks * 512 if state.st_nlink == 1 else 0
            yield {"modelId": path.parent.name, "revision": path.name, "size": size}

    def _trashed(self, entry: trash.Trashed) -> dict[str, Any]:
        model_id, revision = entry.origin
        return {
            "id": entry.name, "modelId": model_id, "revision": revision, "size": entry.size,
            "modelType": entry.manifest.model_type if entry.manifest else None,
            "restorable": entry.manifest is not None, "trashedAt": entry.since,
            "goesAt": entry.since + self.grace_seconds,
        }  # fmt: skip


def _named(where: Where) -> dict[str, Any]:
    model_type, model_id, revision = where
    return {"modelType": model_type, "modelId": model_id, "revision": revision}
