"""Where everything of the store lies; the only place that builds its paths.

<root>/.modelyard-store                                   says that this folder is a store, and which one
<root>/models/<type>/<model_id>/<revision>/…              published, read-only (files 0440, folders 0750)
<root>/manifests/<model_id>/<revision>.json
<root>/staging/<model_id>/<revision>/…                    `<name>.partial` and `<name>.partial.journal`
<root>/trash/<epoch>-<model_id>-<revision>-<random>/…
<root>/locks/<model_id>.lock
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import Invalid, Snooze, Unavailable
from shared.refs import MODEL_ID, check_model_id
from workers.disk import storage

MARKER = ".modelyard-store"
SEAL = ".modelyard-manifest.json"
"""The manifest's name while it travels with its files; see `publish.py`."""
MEMO = ".modelyard-model.json"
"""The registry's entry, while it lies in the trash with its files."""
PARTIAL = ".partial"
JOURNAL = ".partial.journal"
MAX_NAME = 1024
MAX_PART = 255 - len(JOURNAL)
"""Bytes of one part of a name, so that its journal has a name too."""
BUSY_SECONDS = 2

_FOLDERS = ("models", "manifests", "staging", "trash", "locks")
_OWN = ".modelyard-"
_FOREIGN_BUT_FINE = frozenset({"lost+found"})
_ID = re.compile(MODEL_ID)
_TYPE = re.compile(r"[a-z0-9_]{1,64}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Layout:
    """Paths of one store. Ids are checked again here, whoever checked them before.

    Raises from every method that takes ids:
        Invalid: codes `invalid_model_id`, `reserved_model_id`, `invalid_model_type`, `invalid_revision`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models_root, self.manifests_root = root / "models", root / "manifests"
        self.staging_root, self.trash_root = root / "staging", root / "trash"

    def ensure(self) -> str:
        """Make the store if there is none yet; the root is its owner's alone, whatever the umask. Answers its id.

        Raises:
            Invalid: code `store_not_empty`, the folder holds other things and no store.
            Exhausted, Failed: the disk refuses.
        """
        with storage():
            self.root.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):  # a mounted volume may belong to another user
                self.root.chmod(0o700)
            if not self._marker.exists():
                self._mark()
            for name in _FOLDERS:
                (self.root / name).mkdir(mode=0o750, exist_ok=True)
        return self.check_marker()

    def check_marker(self) -> str:
        """The store's generated id, if its disk is there.

        Raises:
            Unavailable: code `store_missing`.
        """
        try:
            found = json.loads(self._marker.read_bytes())["store"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise Unavailable(
                "store_missing",
                "The store's folder is not there, or has lost its marker: its disk may not be mounted.",
                "Mount the disk that MODELYARD_STORE__ROOT names; nothing was deleted, nothing needs a new download.",
            ) from None
        return str(found)

    def published(self, model_type: str, model_id: str, revision: str) -> Path:
        """Folder of a published revision."""
        if not _TYPE.fullmatch(model_type):
            raise Invalid("invalid_model_type", "A model type is lower-case letters, digits and underscores.", "")
        return self.root / "models" / model_type / _id(model_id) / _revision(revision)

    def manifest(self, model_id: str, revision: str) -> Path:
        """File of a published revision's manifest."""
        return self.root / "manifests" / _id(model_id) / f"{_revision(revision)}.json"

    def staging(self, model_id: str, revision: str) -> Path:
        """Folder in which a revision is put together; nothing reads a model from here."""
        return self.root / "staging" / _id(model_id) / _revision(revision)

    def partial(self, model_id: str, revision: str, name: str) -> Path:
        """Where a file's bytes arrive. Its folder is made, its owner's alone.

        Raises:
            Invalid: code `source_invalid_filename`.
            Exhausted, Failed: the disk refuses.
        """
        path = self.inside(self.staging(model_id, revision), name)
        with storage():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.with_name(path.name + PARTIAL)

    def published_revisions(self, model_type: str, model_id: str) -> list[str]:
        """Revisions of a model that have a published folder."""
        with storage():
            folder = self.published(model_type, model_id, "any").parent
            return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []

    def trash(self, model_id: str, revision: str) -> Path:
        """A place in the trash that nothing has yet; its name says when, and from whom."""
        name = f"{int(time.time())}-{_id(model_id)}-{_revision(revision)[:100]}-{secrets.token_hex(4)}"
        return self.root / "trash" / name

    def trashed(self) -> Iterator[tuple[float, Path]]:
        """What lies in the trash: since when (epoch seconds), and its path. Things that are not ours are left out."""
        with storage():
            for entry in sorted(self.trash_root.iterdir()):
                match = re.match(r"(\d{1,12})-.+-[0-9a-f]{8}$", entry.name)
                if match and entry.is_dir() and not entry.is_symlink():
                    yield float(match[1]), entry

    @staticmethod
    def inside(folder: Path, name: str) -> Path:
        """Join a name from outside (`/`-separated) to a folder; purely lexical, nothing is opened.

        Raises:
            Invalid: code `source_invalid_filename`, the name would leave the folder or take one of our own names.
        """
        parts = name.split("/")
        if not name or len(name) > MAX_NAME or "\\" in name or any(unicodedata.category(c)[0] == "C" for c in name):
            raise _bad_name(name)
        for part in parts:
            if part in ("", ".", "..") or len(part.encode()) > MAX_PART:
                raise _bad_name(name)
        if parts[0].startswith(_OWN) or name.endswith((PARTIAL, JOURNAL)):
            raise _bad_name(name)
        return folder.joinpath(*parts)

    @contextmanager
    def lock(self, model_id: str) -> Iterator[None]:
        """Own the files of a model, across processes; let go when the process dies.

        Raises:
            Snooze: somebody else owns them.
            Unavailable: code `store_missing`.
        """
        with self._locked(_id(model_id), f"waits for another job on the files of {model_id!r}"):
            yield

    @contextmanager
    def scan_lock(self) -> Iterator[None]:
        """Be the only scan, across processes.

        Raises:
            Snooze: there is another.
            Unavailable: code `store_missing`.
        """
        with self._locked(".scan", "waits for another scan"):
            yield

    @contextmanager
    def _locked(self, name: str, why: str) -> Iterator[None]:
        self.check_marker()
        with storage():
            handle = os.open(self.root / "locks" / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Snooze(BUSY_SECONDS, why) from None
            yield
        finally:
            os.close(handle)

    def free_bytes(self) -> int:
        """Bytes that the store's disk has left for us.

        Raises:
            Unavailable: code `store_missing`.
        """
        self.check_marker()
        with storage():
            return shutil.disk_usage(self.root).free

    def discard_staging(self, model_id: str) -> None:
        """Delete every half-brought revision of a model.

        Raises:
            Failed: the disk refuses.
        """
        with storage(), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.root / "staging" / _id(model_id))

    @property
    def _marker(self) -> Path:
        return self.root / MARKER

    def _mark(self) -> None:
        """Write the marker first of all, so that a folder without one was never a store of ours.

        Two processes may start at once: a hard link fails for the second, and it takes the first one's id.
        """
        if any(
            entry.name not in _FOREIGN_BUT_FINE and not entry.name.startswith(_OWN) for entry in self.root.iterdir()
        ):
            raise Invalid(
                "store_not_empty",
                "The folder that should become the store holds other files, and no store's marker.",
                "Point MODELYARD_STORE__ROOT at an empty folder or at an existing store.",
            )
        draft = self.root / f"{MARKER}.{secrets.token_hex(4)}"
        with draft.open("x") as file:
            json.dump({"store": secrets.token_hex(16), "v": 1}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, self._marker)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        sync_folder(self.root)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _id(model_id: str) -> str:
    if not _ID.fullmatch(check_model_id(model_id)):
        raise Invalid("invalid_model_id", "The model id ends in a line break.", "")
    return model_id


def _revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise Invalid(
            "invalid_revision", "A stored revision is letters, digits, dots, dashes and underscores, at most 200.", ""
        )
    return revision


def _bad_name(name: str) -> Invalid:
    shown = name.encode("unicode_escape").decode()[:200]
    return Invalid(
        "source_invalid_filename",
        f"A file is named {shown!r}, which would not stay inside the model's folder.",
        "Ask the publisher to rename the file, or choose another revision.",
        {"name": shown},
    )
