"""The folder of bundles, the only one that they are written to and read from: a request names a file, never a path."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from shared.errors import Conflict, Exhausted, Failed, NotFound, Snooze
from shared.settings import Settings
from workers.disk import NO_ROOM
from workers.store.layout import sync_folder

SUFFIX = ".tar"
DRAFT, DRAFT_DIGITS = ".draft", 8
BUSY_SECONDS = 2
MODE = 0o640
MAX_LISTED = 1000


class BundleFolder:
    """Names are those of the contracts: plain, without a slash, ending in `.tar`.

    Args:
        ours: it lies in the data folder, and is made when it is first needed. One that the operator named is there, or
            its disk is not mounted.

    Raises from every method:
        Conflict: code `bundles_missing`.
        Exhausted: code `insufficient_space`.
        Failed: code `storage_error`.
    """

    def __init__(self, path: Path, *, ours: bool) -> None:
        self.path = path
        self._ours = ours

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The one that the settings name."""
        return cls(settings.bundles_folder, ours=settings.store.bundles is None)

    def to_dict(self) -> dict[str, Any]:
        """What lies in it, as JSON: names, bytes, and when each was written (epoch seconds)."""
        found = []
        with contextlib.suppress(OSError):  # nobody has needed it yet, or its disk is away
            for path in sorted(self.path.iterdir()):
                state = path.lstat()
                if path.suffix == SUFFIX and not path.name.startswith(".") and stat.S_ISREG(state.st_mode):
                    found.append({"name": path.name, "size": state.st_size, "writtenAt": state.st_mtime})
        return {"folder": str(self.path), "entries": found[:MAX_LISTED]}

    def has(self, name: str) -> bool:
        """Is there something of that name?"""
        return (self.path / name).is_symlink() or (self.path / name).exists()

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """A bundle, unbuffered, and its size in bytes. Links, pipes and devices are refused, and never waited for.

        Raises:
            NotFound: code `bundle_not_found`.
            Conflict: code `not_a_bundle`.
        """
        try:
            handle = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFound(
                "bundle_not_found", f"There is no bundle {name!r} where bundles are looked for.",
                f"Copy it to {self.path} on the io worker's machine; MODELYARD_STORE__BUNDLES names another folder.",
            ) from None  # fmt: skip
        except OSError as error:
            raise _not_plain(name) from error
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            os.close(handle)
            raise _not_plain(name)
        with os.fdopen(handle, "rb", buffering=0) as file:
            yield file, state.st_size

    @contextmanager
    def draft(self, name: str, size: int, reserve: int) -> Iterator[BinaryIO]:
        """A file to write a bundle of that size to. It gets its name when the block ends well; else nothing is left.

        What an attempt that was killed has left is cleared away.

        Raises:
            Snooze: somebody writes a bundle of this name.
            Conflict: code `bundle_exists`, something has taken the name meanwhile.
        """
        with self._disk():
            self._ensure()
            for left in self.path.glob(f".{name}.{'[0-9a-f]' * DRAFT_DIGITS}{DRAFT}"):
                _clear(left)
            self._require_room(size, reserve)
            draft = self.path / f".{name}.{secrets.token_hex(DRAFT_DIGITS // 2)}{DRAFT}"
            handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE)
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    fcntl.flock(handle, fcntl.LOCK_EX)  # let go when the process dies
                    yield file
                    os.fsync(handle)
                if self.has(name):
                    raise exists(name)
                draft.rename(self.path / name)
            finally:
                draft.unlink(missing_ok=True)
            sync_folder(self.path)

    def _ensure(self) -> None:
        if self._ours:
            self.path.mkdir(mode=0o750, parents=True, exist_ok=True)
        elif not self.path.is_dir():
            raise Conflict(
                "bundles_missing", "The folder of bundles is not there: its disk may not be mounted.",
                f"Make or mount {self.path}, or point MODELYARD_STORE__BUNDLES elsewhere.",
            )  # fmt: skip

    def _require_room(self, size: int, reserve: int) -> None:
        free = shutil.disk_usage(self.path).free
        if free < size + reserve:
            raise Exhausted(
                "insufficient_space",
                f"The bundle needs {size + reserve:,} bytes with the reserve, and its disk has {free:,} free.",
                "Free some space, point MODELYARD_STORE__BUNDLES at a larger disk, or bundle fewer models.",
                {"needBytes": size + reserve, "freeBytes": free},
            )

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """What the disk says, in our words."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise Exhausted(
                    "insufficient_space", "The disk of the bundles is full.",
                    "Free some space, or point MODELYARD_STORE__BUNDLES at a larger disk.",
                ) from error  # fmt: skip
            reason = os.strerror(error.errno or errno.EIO)
            hint = f"Check {self.path}, which MODELYARD_STORE__BUNDLES may name."
            raise Failed("storage_error", f"The folder of bundles refuses: {reason}.", hint) from error


def _clear(draft: Path) -> None:
    """Delete a draft that nobody writes any more."""
    with contextlib.suppress(FileNotFoundError), draft.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Snooze(BUSY_SECONDS, "waits for another job that writes a bundle of this name") from None
        draft.unlink(missing_ok=True)


def exists(name: str) -> Conflict:
    """The name is taken by something else."""
    hint = "Choose another name, or delete that file if nobody needs it."
    return Conflict("bundle_exists", f"There is another bundle {name!r} already.", hint)


def _not_plain(name: str) -> Conflict:
    hint = "Copy the bundle itself there; links are not followed."
    return Conflict("not_a_bundle", f"{name!r} is no plain file that can be read.", hint)
