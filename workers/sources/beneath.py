"""What lies beneath a folder of the user's, looked at without ever leaving it.

Every folder is opened from the one above it, by a single name and never through a link, so that nothing that is
swapped meanwhile leads anywhere else. One sort of link is understood, that of the Hub's own cache from a snapshot to
its blob: it is taken apart by its text and not followed. Nothing here writes, and nothing but plain files is opened.
"""

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple, Self

from workers.sources.base import Checkpoint

MAX_ENTRIES = 200_000
"""Entries of all folders that one look takes in."""
MAX_SKIPPED = 1_000
MAX_NAME_BYTES = 239

Parts = tuple[str, ...]
"""A place below the root; the root itself is empty."""
Identity = tuple[int, int]
"""Device and inode of a folder."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
_BLOB_LINK = re.compile(rf"(?P<up>(?:\.\./)+){_BLOBS}/(?P<name>[0-9a-f]{{40,64}})")


@dataclass(frozen=True)
class Plain:
    """A plain file: its name, and how it looked. `mtime_ns` is nanoseconds since 1970."""

    name: str
    size: int
    mtime_ns: int
    open: Callable[[], int] = field(repr=False)
    """Opens it for reading by the same safe way, as often as it is called."""


class Skipped(NamedTuple):
    """Something that was left out."""

    path: str
    reason: str


class Listing(NamedTuple):
    """What lies in one folder, by name; and the folders on the way to it, from the root to itself."""

    files: list[Plain]
    folders: list[str]
    above: tuple[Identity, ...]


class Beneath:
    """A root folder that is open, and everything below it."""

    def __init__(self, root: str, checkpoint: Checkpoint) -> None:
        """Raises: OSError, the root is not there or cannot be read."""
        self.root = root
        self.skipped: list[Skipped] = []
        self.complete = True
        """Nothing was left out in which something may lie that was there before."""
        self._checkpoint = checkpoint
        self._room = MAX_ENTRIES
        # the operator named the root, so it may be a link; nothing below it may
        self._handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def listing(self, parts: Parts) -> Listing:
        """Look into one folder.

        Raises:
            OSError: it is not there, cannot be read, or is a link.
        """
        files, folders = [], []
        with self.folder(parts) as (handle, above), os.scandir(handle) as entries:
            page = list(itertools.islice(entries, self._room + 1))
            if len(page) > self._room:
                self.skip(parts, f"there are more than {MAX_ENTRIES:,} entries; the rest was not looked at", lost=True)
                page = page[: self._room]
            self._room -= len(page)
            for entry in sorted(page, key=lambda entry: entry.name):
                self._checkpoint()
                found = self._judge(parts, entry)
                if isinstance(found, Plain):
                    files.append(found)
                elif found:
                    folders.append(entry.name)
        return Listing(files, folders, above)

    def look(self, parts: Parts) -> os.stat_result:
        """How something looks now; links are not followed.

        Raises:
            OSError: it is not there, or the way there leads through a link.
        """
        if not parts:
            return os.fstat(self._handle)
        with self.folder(parts[:-1]) as (handle, _):
            return os.stat(parts[-1], dir_fd=handle, follow_symlinks=False)

    def is_away(self, parts: Parts, above: tuple[Identity, ...]) -> bool:
        """Whether the disk with that place seems to be unmounted: the deepest folder on the way that is there is
        another one than it was, and empty, as those are that disks are mounted on.

        Args:
            above: the folders on the way as they were, from the root on.
        """
        there, depth = self._folder(parts[: len(above) - 1])
        try:
            return _identity(there) != tuple(above[depth]) and not os.listdir(there)  # noqa: PTH208 - of a handle, which a path has not
        finally:
            os.close(there)

    def path(self, parts: Parts) -> str:
        return str(PurePosixPath(self.root, *parts))

    def skip(self, parts: Parts, reason: str, *, lost: bool = False) -> None:
        """Leave something out, and say why; `lost`: things that were there before may lie in it."""
        self.complete = self.complete and not lost
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(Skipped(self.path(parts), reason))

    @contextmanager
    def folder(self, parts: Parts) -> Iterator[tuple[int, tuple[Identity, ...]]]:
        """A folder, opened name by name, and the identities of all on the way.

        Raises:
            OSError: it is not there, or a name on the way is a link.
        """
        there = os.dup(self._handle)
        try:
            above = [_identity(there)]
            for part in parts:
                there, old = os.open(part, _FOLDER, dir_fd=there), there
                os.close(old)
                above.append(_identity(there))
            yield there, tuple(above)
        finally:
            os.close(there)

    def _folder(self, parts: Parts) -> tuple[int, int]:
        """The deepest folder on that way that is there, and how deep it is."""
        there = os.dup(self._handle)
        for depth, part in enumerate(parts):
            try:
                there, old = os.open(part, _FOLDER, dir_fd=there), there
            except OSError:
                return there, depth
            os.close(old)
        return there, len(parts)

    def _judge(self, parts: Parts, entry: "os.DirEntry[str]") -> Plain | bool:
        """A file; or whether it is a folder to look into."""
        place = (*parts, entry.name)
        if not entry.name.isprintable() or "\\" in entry.name or len(os.fsencode(entry.name)) > MAX_NAME_BYTES:
            shown = entry.name.encode("unicode_escape").decode()
            self.skip((*parts, shown), "its name is too long, or cannot be shown")
            return False
        try:
            state = entry.stat(follow_symlinks=False)
        except OSError:
            return False  # gone already
        if stat.S_ISREG(state.st_mode):
            return Plain(entry.name, state.st_size, state.st_mtime_ns, lambda: self._open(place))
        if stat.S_ISLNK(state.st_mode):
            return self._linked(place)
        if not stat.S_ISDIR(state.st_mode):
            self.skip(place, "it is a pipe, a socket or a device")
        return stat.S_ISDIR(state.st_mode)

    def _linked(self, place: Parts) -> Plain | bool:
        """The blob that a link in a snapshot of the Hub's cache stands for: `<repo>/snapshots/<revision>/…` →
        `<repo>/blobs/<digest>`."""
        with self.folder(place[:-1]) as (handle, _):
            link = _BLOB_LINK.fullmatch(os.readlink(place[-1], dir_fd=handle))
        repo = place[: -link["up"].count("/") - 1] if link else ()
        if link is None or not repo or place[len(repo)] != _SNAPSHOTS:
            self.skip(place, "it is a link")
            return False
        blob = (*repo, _BLOBS, link["name"])
        try:
            state = self.look(blob)
        except OSError:
            self.skip(place, "its blob is not there")
            return False
        if not stat.S_ISREG(state.st_mode):
            self.skip(place, "its blob is no plain file")
            return False
        return Plain(place[-1], state.st_size, state.st_mtime_ns, lambda: self._open(blob))

    def _open(self, parts: Parts) -> int:
        with self.folder(parts[:-1]) as (handle, _):
            return os.open(parts[-1], _FILE, dir_fd=handle)


def _identity(handle: int) -> Identity:
    state = os.fstat(handle)
    return state.st_dev, state.st_ino
