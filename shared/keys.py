"""The keys of runners: derived where they are needed, never stored in a row or a message."""

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
    return _kept(settings.data_dir / "secrets" / "runner")[0]


def kept_key(settings: Settings) -> tuple[str, bool]:
    """The API key that lies in the data folder, and whether it was made just now.

    Raises:
        Invalid: the file is empty, or the folder cannot be written.
    """
    secret, is_new = _kept(settings.data_dir / "secrets" / "api-key")
    return secret.decode("ascii").strip(), is_new


def _kept(path: Path) -> tuple[bytes, bool]:
    is_new = False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            is_new = _make(path)
        secret = path.read_bytes()
    except OSError as error:
        hint = "Choose a folder that can be written with MODELYARD_DATA_DIR, or set the secret as a variable."
        raise Invalid("data_dir_unusable", f"{path.parent} cannot keep a secret: {error.strerror}.", hint) from error
    if not secret:
        raise Invalid("empty_secret", f"{path.name} in the secrets folder is empty.", "Delete it; a new one is made.")
    return secret, is_new


def _make(path: Path) -> bool:
    """Write it whole before it has its name: another process may be looking. Whether ours is the one that stays."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink()
    return True


def runner_key(secret: bytes, residency_id: str) -> str:
    """The bearer key of one runner, different for each residency."""
    return hmac.new(secret, residency_id.encode(), hashlib.sha256).hexdigest()
