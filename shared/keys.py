"""The keys of runners: derived where they are needed, never stored in a row or a message."""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from shared.errors import Invalid
from shared.settings import Settings


def installation_secret(settings: Settings) -> bytes:
    """What API and device workers share: the setting, else a file in the data folder, made at first use.

    Raises:
        Invalid: the file is empty.
    """
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    path = settings.data_dir / "secrets" / "runner"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _make(path)
    secret = path.read_bytes()
    if not secret:
        raise Invalid("empty_secret", f"{path.name} in the secrets folder is empty.", "Delete it; a new one is made.")
    return secret


def _make(path: Path) -> None:
    """Write it whole before it has its name: another process may be looking."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode())
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    Path(temporary).unlink()


def runner_key(secret: bytes, residency_id: str) -> str:
    """The bearer key of one runner, different for each residency."""
    return hmac.new(secret, residency_id.encode(), hashlib.sha256).hexdigest()
