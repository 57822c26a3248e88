"""The keys of runners: derived where they are needed, never stored in a row or a message."""

import hashlib
import hmac
import os
import secrets

from shared.settings import Settings


def installation_secret(settings: Settings) -> bytes:
    """What API and device workers share: the setting, else a file in the data folder, made at first use."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    path = settings.data_dir / "secrets" / "runner"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode())
    return path.read_bytes()


def runner_key(secret: bytes, residency_id: str) -> str:
    """The bearer key of one runner, different for each residency."""
    return hmac.new(secret, residency_id.encode(), hashlib.sha256).hexdigest()
