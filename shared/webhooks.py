"""What receivers of webhooks are told, and how they know that it is from us: https://www.standardwebhooks.com.

The secret of a webhook is derived from that of the installation, so that no row, message or backup holds it.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from shared.keys import installation_secret
from shared.settings import Settings

EVENTS = {
    "job.succeeded": "A job ended well.",
    "job.failed": "A job ended with an error.",
    "job.cancelled": "Somebody cancelled a job.",
    "job.rejected": "A message of another service was no valid job.",
    "model.available": "A model, or another revision of it, is there to be used.",
    "model.corrupted": "A verify found damaged files.",
    "model.missing": "The files of a model in place, or in Ollama, are gone.",
    "model.unavailable": "The folder, or the Ollama, that holds a model is out of reach.",
    "model.removed": "A model's files left.",
    "model.update_available": "Its source has a newer revision.",
    "residency.starting": "A model is on its way into memory.",
    "residency.ready": "A model is in memory and has answered.",
    "residency.active": "A model serves its type from now on.",
    "residency.draining": "A model takes no new requests, and leaves.",
    "residency.asleep": "A model is out of its device's memory, its weights still in the machine's.",
    "residency.idle": "A model left memory, and comes back with the next request.",
    "residency.lost": "The runner of a model died.",
    "residency.crash_loop": "The runner of a model dies again and again.",
    "residency.stopped": "A model left memory.",
    "residency.failed": "A model did not start.",
    "health.healthy": "A model is well again.",
    "health.unhealthy": "A model does not answer as it should.",
    "health.corrupted": "A check found damaged files.",
}
TEST = "webhook.test"
"""Sent where somebody asks for it, whatever the filter says."""
EVERYTHING = "*"
ROTATION_SECONDS = 86_400.0
"""How long the secret before the present one signs, too."""
PREFIX = "whsec_"
_CHECK_DIGITS = 16


def patterns() -> list[str]:
    """What a filter may hold: types, families such as `job.*`, and everything."""
    families = dict.fromkeys(f"{name.partition('.')[0]}.*" for name in EVENTS)
    return [EVERYTHING, *families, *EVENTS]


def wanted(event: str, model_id: str | None, events: Sequence[str], models: Sequence[str]) -> bool:
    """Whether a filter lets an event pass; without models it is for all, and for what concerns none."""
    named = {EVERYTHING, event, f"{event.partition('.')[0]}.*"}
    return not named.isdisjoint(events) and (not models or model_id in models)


def secret(settings: Settings, webhook_id: str, generation: int) -> bytes:
    """The key that a webhook's messages are signed with.

    Raises:
        Invalid: the secret of the installation cannot be read.
    """
    return hmac.digest(installation_secret(settings), f"webhook {webhook_id} {generation}".encode(), "sha256")


def shown(key: bytes) -> str:
    """As receivers are given it."""
    return PREFIX + base64.b64encode(key).decode()


def check(key: bytes) -> str:
    """Tells whether a key is still the one that was shown, and nothing of it."""
    return hashlib.sha256(key).hexdigest()[:_CHECK_DIGITS]


def signed(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one try; of several keys a receiver needs one."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
    return {
        "Content-Type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }  # fmt: skip
