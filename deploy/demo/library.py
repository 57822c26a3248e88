"""The repositories that the demo's hub serves: folders of real files, described as the Hub's API describes them."""

import hashlib
import shutil
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LFS_SUFFIXES = frozenset({".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx", ".msgpack", ".h5"})
LFS_BYTES = 10 * 1024**2
READ_BYTES = 1024**2


@dataclass(frozen=True)
class Entry:
    """One file of a repository, as the API describes it."""

    path: str
    place: Path
    size: int
    sha256: str
    blob_id: str
    modified: float

    @property
    def lfs(self) -> bool:
        return self.size >= LFS_BYTES or Path(self.path).suffix in LFS_SUFFIXES

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    def tree_row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "oid": self.blob_id, "size": self.size, "path": self.path}
        if self.lfs:
            row["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return row

    def sibling(self, blobs: bool) -> dict[str, Any]:
        if not blobs:
            return {"rfilename": self.path}
        row: dict[str, Any] = {"rfilename": self.path, "size": self.size, "blobId": self.blob_id}
        if self.lfs:
            row["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": 134}
        return row


class Library:
    """The repositories under a root. Digests are kept until a file's size or time of change differs."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._history: dict[str, set[str]] = {}

    def files(self, repo: str) -> list[Entry] | None:
        """The files of a repository by path, None where there is no such repository."""
        folder = self._root / repo
        if any(part in ("", ".", "..") for part in repo.split("/")) or not folder.is_dir():
            return None
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [self._entry(path, path.relative_to(folder).as_posix()) for path in paths]

    def at(self, repo: str, revision: str | None) -> tuple[list[Entry], str] | None:
        """The files of a revision and its commit, None where there is no such thing."""
        files = self.files(repo)
        if files is None:
            return None
        commit = commit_of(files)
        self._history.setdefault(repo, set()).add(commit)
        if revision in (None, "main", commit):
            return files, commit
        kept = self.files(f"{repo}@{revision}")
        return (kept, str(revision)) if kept is not None else None

    def knows(self, repo: str, commit: str) -> bool:
        """Whether the repository has had that commit, as far as anybody has asked; its files may be gone."""
        return commit in self._history.get(repo, ())

    def forget(self, repo: str) -> None:
        """The name is somebody else's from now on: what comes has no history."""
        self._history.pop(repo, None)

    def keep(self, repo: str) -> str:
        """Copy a repository to where its commit is looked for once the repository has another one; the commit."""
        commit = commit_of(self.files(repo) or [])
        shutil.copytree(self._root / repo, self._root / f"{repo}@{commit}", dirs_exist_ok=True)
        return commit

    def _entry(self, path: Path, name: str) -> Entry:
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        with self._lock:
            digests = self._known.get(key)
            if digests is None:
                digests = self._known[key] = _digests(path, state.st_size)
        return Entry(name, path, state.st_size, *digests, state.st_mtime)


def _digests(path: Path, size: int) -> tuple[str, str]:
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            sha256.update(block)
            blob.update(block)
    return sha256.hexdigest(), blob.hexdigest()


def commit_of(files: list[Entry]) -> str:
    """The 40 hex digits that stand for exactly these files."""
    return hashlib.sha256("".join(f"{file.path}\0{file.sha256}\n" for file in files).encode()).hexdigest()[:40]


def model_info(repo: str, files: list[Entry], commit: str, *, blobs: bool) -> dict[str, Any]:
    """A repository as `GET /api/models/{repo}` answers it."""
    changed = datetime.fromtimestamp(max((file.modified for file in files), default=0), UTC)
    return {
        "_id": commit[:24],
        "id": repo,
        "modelId": repo,
        "author": repo.split("/", maxsplit=1)[0],
        "sha": commit,
        "lastModified": changed.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "createdAt": "2024-01-01T00:00:00.000Z",
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": sum(file.size for file in files),
        "siblings": [file.sibling(blobs) for file in files],
    }


def tree(files: list[Entry], under: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder, as `GET /api/models/{repo}/tree/…` answers them."""
    prefix = f"{under.strip('/')}/" if under.strip("/") else ""
    rows: dict[str, dict[str, Any]] = {}
    for file in files:
        if not file.path.startswith(prefix):
            continue
        parts = file.path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            oid = hashlib.sha256(folder.encode()).hexdigest()[:40]
            rows[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
        if recursive or len(parts) == 1:
            rows[file.path] = file.tree_row()
    return list(rows.values())
