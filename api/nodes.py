"""The machines of the installation, as they go over the wire."""

from datetime import UTC, datetime

from pydantic import Field

from api.views import View
from shared.db import devices, lanes, nodes
from shared.db.session import Database


class NodeView(View):
    """A machine whose workers have reported."""

    node: str
    alive: bool = Field(description="One of its workers has given a sign of life within a minute.")
    seen_at: datetime
    io_worker: bool = Field(description="A worker for downloads and the like has.")
    store: str = Field(description="The id of the store that it works on; machines that share one have the same.")
    devices: list[str] = Field(description="Those that a worker there has ever served.")
    models: int = Field(description="Installed in its store.")
    waiting_jobs: int = Field(description="That wait for a worker of this machine which is away.")


class NodesView(View):
    nodes: list[NodeView]
    stores: int = Field(description="One: every machine reaches every model. More: each those of its own.")


def view_nodes(database: Database) -> NodesView:
    """Every machine, by name."""
    with database.reading() as session:
        machines, clock = nodes.known(session), devices.clock(session)
        there = [(device.id, device.node) for device in devices.all_of(session)]
        models, waiting = nodes.models(session), lanes.waiting_counts(session)
    found = [
        NodeView(
            node=each.name, alive=clock - each.seen_at < devices.AWAY_SECONDS,
            seen_at=datetime.fromtimestamp(each.seen_at, UTC),
            io_worker=clock - each.io_seen_at < devices.AWAY_SECONDS, store=each.store,
            devices=[device for device, node in there if node == each.name], models=models[each.store],
            waiting_jobs=waiting[each.name],
        )
        for each in machines
    ]  # fmt: skip
    return NodesView(nodes=found, stores=len({each.store for each in machines}))
