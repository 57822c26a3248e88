"""Who may ask for what: every route is named here once, with the role that it needs.

One dependency of all routers reads this page. A route that is not on it answers nobody but an admin, and a test fails.
"""

import contextlib

import structlog
from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from api.audit import acting, route_name
from api.keyring import Caller
from api.security import reachable
from shared.db.audit import Change, append
from shared.db.keys import Role
from shared.errors import Forbidden, ModelyardError

log = structlog.get_logger()

OPEN = {
    "pages.dashboard": "a page without data, which asks for the key",
    "system.live": "whether the process answers",
    "system.ready": "ready or not; what is missing is told to those who have a key",
}
"""To everybody, and why."""
OPEN_MOUNTS = {"/dashboard": "the page's own files"}
LOCAL = frozenset({"pages.docs", "pages.openapi"})
"""To everybody of this machine; where others can reach the service, to viewers."""
VIEWER = frozenset(
    (
        "audit.list_audit",
        *("availability.order", "events.events", "events.follow", "events.job_events"),
        *(
            "fit.compatibility",
            "fit.hardware_profile",
            "fit.list_nodes",
            "fit.make_plan",
            "fit.optimization_status",
            "fit.requirements",
        ),
        *("health.shown", "jobs.get_job", "jobs.list_jobs", "keys.own", "lifecycle.active", "lifecycle.servers"),
        *("limits.list_limits", "locks.get_drift", "locks.get_lock", "locks.list_bundles", "locks.plan_lock"),
        *("metrics.metrics", "models.get_model", "models.list_models", "openai.models"),
        *("ollama.ps", "ollama.show", "ollama.tags", "ollama.version"),
        *("profiles.get_profile", "profiles.list_profiles", "retention.get_policy", "retention.recommendations"),
        *("registry.aliases", "registry.all_statuses", "registry.export", "registry.modes", "registry.of_tier"),
        *("registry.one_status", "registry.summarise", "registry.types", "registry.entries"),
        *("schedules.get_schedule", "schedules.list_schedules"),
        *("storage.get_update", "storage.list_trash", "storage.storage_info"),
        *("usage.all_usage", "usage.model_usage"),
    )
)
OPERATOR = frozenset(
    (
        *("availability.check_model", "availability.check_source", "availability.ensure", "availability.request"),
        *("health.look", "jobs.cancel", "jobs.change", "jobs.pause", "jobs.resume", "jobs.retry"),
        *("lifecycle.activate", "lifecycle.deactivate", "lifecycle.load", "lifecycle.pin", "lifecycle.reload"),
        *("lifecycle.run", "lifecycle.switch", "lifecycle.unpin", "locks.export_bundle", "locks.import_bundle"),
        *("models.add_model", "models.change", "models.download", "models.remove", "models.repair", "models.rescan"),
        *("models.verify", "ollama.delete", "ollama.pull"),
        *("openai.chat", "openai.completions", "openai.embeddings", "openai.images", "openai.speech"),
        *("profiles.apply_profile", "retention.clean_up", "schedules.run_schedule"),
        *("storage.check_update", "storage.restore", "storage.rollback", "storage.scrub", "storage.update"),
        "usage.report",
    )
)
ADMIN = frozenset(
    (
        "audit.archive_log",
        *("keys.add_key", "keys.list_keys", "keys.revoke_key", "keys.rotate_key"),
        *("lifecycle.fallback", "limits.clear_limit", "limits.put_limit", "locks.apply_lock"),
        *("profiles.create_profile", "profiles.delete_profile", "profiles.replace_profile", "retention.put_policy"),
        *("registry.set_base", "registry.set_config", "registry.set_enabled", "registry.set_names"),
        *("registry.set_thinking", "registry.set_tier", "registry.take_in", "schedules.change_schedule"),
        *("trust.decide", "usage.prioritise"),
        *("webhooks.add_webhook", "webhooks.change_webhook", "webhooks.remove_webhook", "webhooks.replay"),
        *("webhooks.get_webhook", "webhooks.list_deliveries", "webhooks.list_webhooks", "webhooks.test_webhook"),
    )
)
"""Among them what looks at webhooks: the address of a receiver may itself be a key."""


def needed(name: str, *, local: bool) -> Role | None:
    """The role that a route needs; None: it is open.

    Args:
        local: only this machine can reach the service.
    """
    if name in OPEN or (local and name in LOCAL):
        return None
    if name in VIEWER or name in LOCAL:
        return Role.VIEWER
    return Role.OPERATOR if name in OPERATOR else Role.ADMIN


async def let_in(connection: HTTPConnection) -> None:
    """Who asks is known, and may.

    Raises:
        Unauthenticated, TooMany: see `Keyring.caller`.
        Forbidden: `role_too_low`.
    """
    front = connection.app.state.front
    role = needed(route_name(connection.scope["endpoint"]), local=not reachable(front.settings))
    if role is None:
        return
    caller: Caller = await front.keyring.caller(connection)
    connection.state.caller = caller
    if not caller.role.may(role):
        await _note(connection, caller, role)
        message = f"The key {caller.name!r} is a {caller.role}'s, and this needs {role}."
        hint = f"Ask an admin for one: modelyard key add NAME --role {role}."
        raise Forbidden("role_too_low", message, hint, {"role": caller.role, "needed": role})


async def _note(connection: HTTPConnection, caller: Caller, role: Role) -> None:
    """In the audit log, where it does not come in masses."""
    front, path = connection.app.state.front, connection.url.path
    if front.refused.again(str(caller.name)):
        return
    log.warning("access.refused", key=caller.name, path=path, needed=role)
    change = Change("access.refuse", path, {"method": connection.scope.get("method", "GET"), "needed": str(role)})

    def write() -> None:
        with front.database.transaction() as rows:
            append(rows, change, acting(connection))

    with contextlib.suppress(ModelyardError):  # it is refused whether or not the database answers
        await run_in_threadpool(write)


LET_IN = Depends(let_in)
