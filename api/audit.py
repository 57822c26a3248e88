"""Which requests the audit log keeps: each route that changes something is named here once, or said why not."""

import json
from typing import Any

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from api.keyring import Caller
from shared.db.audit import ACTING, Acting, Actor, Change

ACTIONS = {
    "audit.archive_log": "audit.archive",
    "jobs.cancel": "job.cancel",
    "jobs.change": "job.priority",
    "jobs.pause": "job.pause",
    "jobs.resume": "job.resume",
    "jobs.retry": "job.retry",
    "keys.add_key": "key.add",
    "keys.revoke_key": "key.revoke",
    "keys.rotate_key": "key.rotate",
    "lifecycle.fallback": "model.fallback",
    "lifecycle.pin": "model.pin",
    "lifecycle.unpin": "model.unpin",
    "limits.clear_limit": "limit.clear",
    "limits.put_limit": "limit.set",
    "locks.apply_lock": "lock.apply",
    "models.add_model": "model.add",
    "models.change": "model.change",
    "ollama.pull": "model.add",
    "profiles.create_profile": "profile.create",
    "profiles.delete_profile": "profile.delete",
    "profiles.replace_profile": "profile.replace",
    "registry.set_base": "model.base",
    "registry.set_config": "model.config",
    "registry.set_enabled": "model.enabled",
    "registry.set_names": "model.names",
    "registry.set_thinking": "model.thinking",
    "registry.set_tier": "model.tier",
    "registry.take_in": "registry.import",
    "retention.put_policy": "retention.set",
    "schedules.change_schedule": "schedule.change",
    "schedules.run_schedule": "schedule.run",
    "trust.decide": "model.trust",
    "usage.prioritise": "model.priority",
    "webhooks.add_webhook": "webhook.add",
    "webhooks.change_webhook": "webhook.change",
    "webhooks.remove_webhook": "webhook.remove",
    "webhooks.replay": "webhook.replay",
}
"""By module and name of a route: what its row is called, written in the transaction of the change."""

BY_JOBS = frozenset(
    (
        *("lifecycle.activate", "lifecycle.switch", "lifecycle.load", "lifecycle.reload", "lifecycle.deactivate"),
        *("availability.ensure", "availability.request"),
        *("models.rescan", "models.download", "models.repair", "models.remove", "ollama.delete"),
        "profiles.apply_profile",
        *("storage.restore", "storage.update", "storage.rollback", "locks.export_bundle", "locks.import_bundle"),
        "retention.clean_up",
    )
)
"""These submit a job and change nothing else: the ledger writes the row with the job, as for jobs of other services."""

CHANGE_NOTHING = {
    "availability.check_model": "it asks a source",
    "availability.check_source": "it asks a source",
    "fit.make_plan": "it looks",
    "health.look": "it looks, and asks a model",
    "lifecycle.run": "it asks a model",
    "locks.get_drift": "it looks",
    "locks.plan_lock": "it looks",
    "models.verify": "it reads files",
    "ollama.show": "it looks",
    "openai.chat": "it asks a model",
    "openai.completions": "it asks a model",
    "openai.embeddings": "it asks a model",
    "openai.images": "it asks a model",
    "openai.speech": "it asks a model",
    "storage.check_update": "it asks a source",
    "storage.scrub": "it reads files",
    "webhooks.test_webhook": "it tells a receiver",
    "usage.report": "it counts, as every request to a model does",
}
"""Routes of other methods than GET that the log leaves out, and why."""

READS = ("GET", "HEAD", "OPTIONS")
NAMES = ("model_id", "modelId", "name", "model")
"""Fields that say what a request is on, where its path does not."""


def route_name(endpoint: Any) -> str:
    """`limits.put_limit`: module and name of a route's function."""
    return f"{endpoint.__module__.rpartition('.')[2]}.{endpoint.__name__}"


async def note_who_asks(connection: HTTPConnection) -> None:
    """Who sends this request, and what it is about to change, for whatever transaction changes it."""
    if not isinstance(connection, Request) or connection.method in READS:
        return
    action = ACTIONS.get(route_name(connection.scope["endpoint"]))
    change = None if action is None else Change(action, *await _about(connection))
    ACTING.set(Acting(acting(connection), change))


async def _about(request: Request) -> tuple[str | None, dict[str, Any]]:
    """What the request is on, and what it says: of a key that comes twice in its JSON the last, as everywhere."""
    try:
        told = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        told = {}  # refused before anything changes
    body = told if isinstance(told, dict) else {}
    path = dict(request.path_params)
    named = [*path.values(), *map(body.get, NAMES)]
    target = next((str(name) for name in named if name is not None), None)
    return target, {**dict(list(path.items())[1:]), **request.query_params, **body}


def acting(connection: HTTPConnection) -> Actor:
    """Who sends this request, as the log has it."""
    caller: Caller = connection.state.caller
    return Actor(
        origin="rest",
        role="open" if caller.name is None else caller.role,
        key=caller.shown,
        address=connection.client.host[:64] if connection.client is not None else None,
    )


WHO_ASKS = Depends(note_who_asks)
