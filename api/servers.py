"""The servers that hold models: who is there, since when, and how many are ready."""

from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from api.views import View
from shared.db import devices, residency
from shared.db.session import Database
from shared.states import AWAY, ResidencyState

FAILED_SECONDS = 3600.0
"""How long a server that did not start is told of."""


class ServerView(View):
    """What holds one model: a runner, which is a child process of ours, or Ollama."""

    model_id: str
    model_type: str
    state: ResidencyState
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


class ServersView(View):
    total_servers: int
    ready_servers: int
    starting_servers: int
    failed_servers: int = Field(description="Failed to start, lost, or in a crash loop.")
    ready: bool = Field(
        description="All that should answer do; one that is idle need not, one that is started anew does."
    )
    servers: list[ServerView]


def servers_now(database: Database) -> ServersView:
    """By model."""
    with database.reading() as session:
        rows, clock = residency.shown(session, FAILED_SECONDS), devices.clock(session)
    states = [row.state for row in rows]
    broken = sum(
        states.count(state) for state in (ResidencyState.FAILED, ResidencyState.LOST, ResidencyState.CRASH_LOOP)
    )
    starting = states.count(ResidencyState.STARTING)
    answering = {row.model_id for row in rows if row.state == ResidencyState.READY}
    awaited = sum(row.state == ResidencyState.STARTING and row.model_id not in answering for row in rows)
    return ServersView(
        total_servers=len(rows), ready_servers=states.count(ResidencyState.READY), starting_servers=starting,
        failed_servers=broken, ready=broken == awaited == 0,
        servers=[
            ServerView(
                model_id=row.model_id, model_type=row.model_type, state=ResidencyState(row.state), active=row.active,
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
