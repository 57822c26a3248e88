"""The servers that hold models: who is there, since when, and how many are ready."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from api.views import View
from shared.db import devices, profiles, residency
from shared.db.session import Database
from shared.db.tables import Residency
from shared.db.wishes import ProfileRow
from shared.profiles import Profile
from shared.states import AWAY, ResidencyState

ServerStatus = Literal["starting", "ready", "failed", "stopped", "crash_loop"]
FAILED_SECONDS = 3600.0
"""How long a server that did not start is told of."""


STATUS: dict[str, ServerStatus] = {
    ResidencyState.STARTING: "starting",
    ResidencyState.READY: "ready",
    ResidencyState.DRAINING: "ready",
    ResidencyState.LOST: "failed",
    ResidencyState.FAILED: "failed",
    ResidencyState.CRASH_LOOP: "crash_loop",
}
"""In fewer words than its state; of others it is stopped. What drains still answers the requests that it has."""


class ServerView(View):
    """What holds one model: a runner, which is a child process of ours, or Ollama."""

    model_id: str
    model_type: str
    status: ServerStatus
    state: ResidencyState = Field(description="The same in more words.")
    active: bool = Field(description="It serves its type.")
    runtime: str
    device: str
    pid: int | None = Field(None, description="Of a runner.")
    port: int | None = None
    memory_bytes: int | None = None
    offloaded_bytes: int | None = Field(
        None, description="What lies in the host's memory though its device is a GPU, which makes it slow."
    )
    load_seconds: float | None = None
    context_length: int | None = Field(None, description="Tokens that it serves with.")
    lowered: dict[str, Any] = Field({}, description="What it has less of: gpuLayers, device (cpu), precision.")
    fallback_for: list[str] = Field([], description="Models that it answers for as their fallback.")
    started_at: datetime
    uptime_seconds: float | None = Field(None, description="Of one that runs.")


class FleetView(View):
    """The servers of the profile that was applied last."""

    profile: str
    ready: bool = Field(description="Every model that it loads answers, itself or by a fallback.")
    wanted_servers: int
    ready_servers: int
    missing: list[str] = Field(description="Models that it loads and that do not answer.")


class ServersView(View):
    total_servers: int
    ready_servers: int
    starting_servers: int
    failed_servers: int = Field(description="Failed to start, lost, or in a crash loop.")
    ready: bool = Field(
        description="All that should answer do; one that is idle need not, one that is started anew does."
    )
    fleet: FleetView | None = Field(None, description="Null where no profile was applied.")
    servers: list[ServerView]


def servers_now(database: Database) -> ServersView:
    """By model."""
    with database.reading() as session:
        rows, clock = residency.shown(session, FAILED_SECONDS), devices.clock(session)
        profile = profiles.active(session)
    states = [row.state for row in rows]
    broken = sum(
        states.count(state) for state in (ResidencyState.FAILED, ResidencyState.LOST, ResidencyState.CRASH_LOOP)
    )
    starting = states.count(ResidencyState.STARTING)
    answering = {row.model_id for row in rows if row.state == ResidencyState.READY}
    awaited = sum(row.state == ResidencyState.STARTING and row.model_id not in answering for row in rows)
    return ServersView(
        total_servers=len(rows), ready_servers=states.count(ResidencyState.READY), starting_servers=starting,
        failed_servers=broken, ready=broken == awaited == 0, fleet=None if profile is None else _fleet(profile, rows),
        servers=[
            ServerView(
                model_id=row.model_id, model_type=row.model_type, status=STATUS.get(row.state, "stopped"),
                state=ResidencyState(row.state), active=row.active,
                runtime=row.runtime, device=row.device, pid=row.pid,
                port=int(row.url.rpartition(":")[2]) if row.url else None, memory_bytes=row.memory_bytes,
                offloaded_bytes=row.offloaded_bytes,
                load_seconds=row.load_seconds, context_length=row.context_length, lowered=row.lowered,
                fallback_for=row.fallback_for,
                started_at=datetime.fromtimestamp(row.started_at, UTC),
                uptime_seconds=None if row.state in (*AWAY, ResidencyState.FAILED) else clock - row.started_at,
            )
            for row in rows
        ],
    )  # fmt: skip


def _fleet(row: ProfileRow, there: Sequence[Residency]) -> FleetView:
    profile = Profile.model_validate(row.content)
    wanted = [name for name in profile.enabled_models if profile.of(name).load]
    answering = {
        name for one in there if one.state == ResidencyState.READY for name in (one.model_id, *one.fallback_for)
    }
    missing = [name for name in wanted if name not in answering]
    return FleetView(
        profile=row.name, ready=not missing, wanted_servers=len(wanted), ready_servers=len(wanted) - len(missing),
        missing=missing,
    )  # fmt: skip
