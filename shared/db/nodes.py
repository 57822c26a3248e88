"""Machines, with the store that each works on."""

from collections import Counter
from typing import NamedTuple

from sqlalchemy import ColumnElement, true
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, delete, func, select

from shared.db import devices
from shared.db.devices import AWAY_SECONDS
from shared.db.reports import Node, StoreReport
from shared.db.session import now
from shared.db.tables import Installation
from shared.errors import Conflict
from shared.states import Holder

FORGOTTEN_SECONDS = 30 * 86_400
"""A machine that was silent so long, and whose store holds nothing that is known, is forgotten."""


def check_name(session: Session, node: Node, *, cpu: bool) -> None:
    """Refuse a name that another machine bears now, where things of both would be taken for one.

    Args:
        cpu: its CPU is to be a device.

    Raises:
        Conflict: code `node_taken`.
    """
    other = session.get(Node, node.name)
    if other is None or other.machine == node.machine or not (cpu or other.store != node.store):
        return
    if session.exec(select(now())).one() - other.seen_at < AWAY_SECONDS:
        raise Conflict(
            "node_taken", f"Another machine calls itself {node.name!r}, and was here within a minute.",
            "Give each machine a name of its own with MODELYARD_NODE.",
        )  # fmt: skip


def report(session: Session, node: Node, *, io: bool) -> None:
    """A worker of that machine is alive, now.

    Args:
        io: it is one that works on the files of its store.
    """
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    told = {"machine": node.machine, "store": node.store, "seen_at": now(), **({"io_seen_at": now()} if io else {})}
    statement = insert(Node).values(**{"name": node.name, "io_seen_at": 0.0, **told})
    session.exec(statement.on_conflict_do_update(index_elements=["name"], set_=told))


def known(session: Session) -> list[Node]:
    """Every machine that has reported, by name."""
    return list(session.exec(select(Node).order_by(col(Node.name))).all())


def one_of_each(session: Session) -> list[str | None]:
    """A machine of each store; None alone where there is one store, which need not be named."""
    found = {node.store: node.name for node in known(session)}
    return list(found.values()) if len(found) > 1 else [None]


def forget(session: Session) -> int:
    """Forget machines that are gone for good; answers how many."""
    used = select(Installation.store).where(col(Installation.store).is_not(None))
    gone = col(Node.seen_at) < now() - FORGOTTEN_SECONDS
    return int(session.exec(delete(Node).where(gone, col(Node.store).not_in(used))).rowcount)


def stores(session: Session) -> set[str]:
    """The stores that machines work on."""
    return set(session.exec(select(Node.store).distinct()).all())


def models(session: Session) -> Counter[str]:
    """How many are installed in each store."""
    query = select(Installation.store, func.count()).where(col(Installation.store).is_not(None))
    return Counter({str(store): count for store, count in session.exec(query.group_by(col(Installation.store))).all()})


def lies_in(store: str) -> ColumnElement[bool]:
    """Of installations: their files are in that store, or in one that no machine has any more."""
    others = select(Node.store).where(col(Node.store) != store)
    return func.coalesce(col(Installation.store), store).not_in(others)


class Away(NamedTuple):
    """Stores that are out of reach."""

    stores: frozenset[str] = frozenset()
    is_all: bool = False
    """There is no other one."""

    def __bool__(self) -> bool:
        return bool(self.stores)

    def hold(self, holder: str, store: str | None) -> bool:
        """Is what these hold in one of them?"""
        return holder == Holder.STORE and (self.is_all or store in self.stores)

    def of_installations(self) -> ColumnElement[bool]:
        """The same in SQL."""
        in_it = true() if self.is_all else func.coalesce(col(Installation.store), "").in_(self.stores)
        return (col(Installation.holder) == Holder.STORE) & in_it


def away(session: Session) -> Away:
    """Stores whose disk is not there; and of several those that no living machine has."""
    there = dict(session.exec(select(StoreReport.store, StoreReport.there)).all())
    machines = known(session)
    if len({node.store for node in machines}) > 1:
        clock = devices.clock(session)
        living = {node.store for node in machines if clock - node.seen_at < AWAY_SECONDS}
        there |= {node.store: there.get(node.store, True) and node.store in living for node in machines}
    gone = frozenset(store for store, is_there in there.items() if not is_there)
    return Away(gone, bool(gone) and len(gone) == len(there))
