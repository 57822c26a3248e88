"""The data folder of one instance: its layout, its lock, its secrets. Nobody but its owner may look inside."""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from shared.errors import Conflict, Invalid


class DataFolder:
    """Paths of one instance.

    Args:
        root: absolute path of the data folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.logs = root / "logs"
        self.redis = root / "redis"
        self.flower = root / "flower"
        self.secrets = root / "secrets"

    def create(self) -> None:
        """Make what is missing, each folder 0700 whatever the umask.

        Raises:
            Invalid: `data_dir_unusable`, the folder cannot be made or written.
        """
        try:
            if not self.root.is_dir():
                self.root.mkdir(parents=True)
                self.root.chmod(0o700)
            for folder in (self.run, self.logs, self.redis, self.flower, self.secrets):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise Invalid(
                "data_dir_unusable",
                f"The data folder {self.root} cannot be used: {error.strerror}.",
                "Choose a folder of yours with --data-dir or MODELYARD_DATA_DIR.",
            ) from error

    def lock(self) -> int:
        """Take the folder for this process; held until the descriptor is closed or the process ends.

        Raises:
            Conflict: `already_running`, another instance holds it.
        """
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(
                "already_running",
                "Modelyard already runs on this data folder.",
                f"Stop the instance that uses {self.root}, or give this one a folder of its own with --data-dir.",
            ) from None
        return descriptor

    def secret(self, name: str) -> str:
        """The secret of that name, made at random the first time; a file of mode 0600."""
        path = self.secrets / name
        if not path.exists():
            self._generate(path)
        path.chmod(0o600)
        return path.read_text("ascii").strip()

    def _generate(self, path: Path) -> None:
        # Linked into place when whole: a crash half-way must not leave an empty secret behind.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        write_private(draft, secrets.token_urlsafe(32), exclusive=True)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()


def write_private(path: Path, text: str, *, exclusive: bool = False) -> None:
    """Write a file that only its owner can read, whatever the umask.

    Args:
        exclusive: refuse a file that is there already.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_EXCL if exclusive else os.O_TRUNC)
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
