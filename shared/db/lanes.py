"""Where a job goes: to a worker that reaches its files, and rather to one that lives."""

from collections import Counter
from collections.abc import Collection

from sqlmodel import Session, col, select

from shared.contract import Contract
from shared.contracts import Bundle, Restore
from shared.db import devices, nodes, upkeep
from shared.db.devices import AWAY_SECONDS
from shared.db.reports import Device, Node
from shared.db.tables import Installation, Job
from shared.errors import Conflict, NotFound, Unavailable
from shared.queues import DEVICE, IO, device_lane, store_lane
from shared.states import JobState

NODE_AWAY = "node_away"


def lane_of(session: Session, contract: Contract, here: Collection[str] = ()) -> str:
    """Where a job for this is to be done.

    Args:
        here: the lanes of a worker that has it, and may keep what can be done anywhere.

    Raises:
        Unavailable: no device worker has ever reported here.
        NotFound: code `unknown_node`.
        Conflict: code `model_elsewhere`, `models_apart`.
    """
    if contract.lane == DEVICE:
        return devices.place(session, str(contract.subject))
    machines = nodes.known(session) if contract.of_store else []
    named = _named(machines, contract.wanted_node) if machines else None
    if len({node.store for node in machines}) < 2:  # noqa: PLR2004 - of one everybody reads the lane of all
        return IO
    held = _held(session, contract) & {node.store for node in machines}
    if len(held) > 1:
        raise Conflict(
            "models_apart", "These models are in the stores of several machines.", "Name those of one at a time."
        )
    for store in held:
        if named is not None and named.store != store:
            raise _elsewhere(str(contract.subject), next(node.name for node in machines if node.store == store))
        return store_lane(store)
    if named is not None:
        return store_lane(named.store)
    mine = next((lane for lane in here if lane != IO), None)
    return mine or store_lane(_usual(session, machines))


def _named(machines: list[Node], name: str | None) -> Node | None:
    found = next((node for node in machines if node.name == name), None)
    if name is not None and found is None:
        names = ", ".join(node.name for node in machines)
        raise NotFound("unknown_node", f"No machine {name!r} has reported.", f"There are: {names}.")
    return found


def _held(session: Session, contract: Contract) -> set[str]:
    """The stores that have what the job is about."""
    ids = contract.models if isinstance(contract, Bundle) else [contract.subject]
    query = select(Installation.store).where(col(Installation.model_id).in_(ids))
    found = {store for store in session.exec(query).all() if store is not None}
    if isinstance(contract, Restore):
        trashed = upkeep.store_of_trash(session, contract.entry)
        found = found or ({trashed} if trashed is not None else set())
    return found


def _usual(session: Session, machines: list[Node]) -> str:
    """Where what is nowhere yet goes: beside the best device, rather to a machine whose io workers live."""
    clock = devices.clock(session)
    best = devices.best(session)
    order = sorted(machines, key=lambda node: (
        clock - node.io_seen_at >= AWAY_SECONDS, best is None or node.name != best.node, node.name,
    ))  # fmt: skip
    return order[0].store


def _elsewhere(model_id: str, node: str) -> Conflict:
    return Conflict(
        "model_elsewhere", f"{model_id!r} is in the store of {node!r}, and a model is in one store at a time.",
        f"Leave the machine out, or remove it there first: modelyard rm {model_id}.",
    )  # fmt: skip


def silent_lanes(session: Session) -> dict[str, str]:
    """Lanes that no living worker reads, with the machine that each waits for."""
    clock, machines = devices.clock(session), nodes.known(session)
    gone = session.exec(select(Device).where(col(Device.seen_at) < clock - AWAY_SECONDS)).all()
    found = {device_lane(device.id): device.node for device in gone}
    living = {node.store for node in machines if clock - node.io_seen_at < AWAY_SECONDS}
    return found | {store_lane(node.store): node.name for node in machines if node.store not in living}


def waiting_counts(session: Session) -> Counter[str]:
    """How many jobs wait for each machine that is away."""
    silent = silent_lanes(session)
    return Counter(silent[job.lane] for job in waiting_in(session, list(silent))) if silent else Counter()


def waiting_in(session: Session, lanes: list[str]) -> list[Job]:
    """Jobs that wait in these lanes."""
    query = select(Job).where(col(Job.state) == JobState.QUEUED, col(Job.lane).in_(lanes))
    return list(session.exec(query.order_by(col(Job.priority), col(Job.created_at)).limit(500)).all())


def check_reach(session: Session, model_id: str) -> None:
    """Make sure, where there are several machines, that a device which lives could have the model, now or soon.

    Raises:
        Unavailable: code `node_away`, or `no_device_worker`.
    """
    device = devices.placed(session, model_id)
    if len(nodes.known(session)) > 1 and devices.is_away(session, device.id):
        raise node_away(device.node, device.id)


def node_away(node: str, what: str) -> Unavailable:
    """What to say of work that only a machine which is away can do."""
    return Unavailable(
        NODE_AWAY, f"It waits for the worker of {what} on {node!r}, which has given no sign of life for a minute.",
        f"Start the workers of {node!r} again; it goes on by itself. `modelyard nodes` shows the machines.",
    )  # fmt: skip
