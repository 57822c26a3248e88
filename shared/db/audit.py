"""Who changed what: a chain of rows, each with the hash of the one before it, written with the change itself.

A row's hash is sha256 over its JSON as `told` has it: without `hash`, keys sorted, no spaces, UTF-8.
"""

import hashlib
import json
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import structlog
from sqlalchemy import BigInteger, Column, Connection, Float, Index, insert
from sqlmodel import Field, Session, SQLModel, col, delete, select

from shared.contract import Contract
from shared.db.redaction import redacted
from shared.db.session import now, serialise
from shared.db.tables import json_column
from shared.errors import Conflict

log = structlog.get_logger()

START = "0" * 64
"""What the first row of all carries as the hash of the one before it."""
ARCHIVE = "audit.archive"
"""Action of the row that lets rows up to its target leave the table; triggers keep all others."""
BY_ITSELF = frozenset({"request", "idle", "recovery", "switch", "scrub", "health"})
"""Origins of jobs that follow from how things are set, with nobody behind them: the ledger has them."""


class AuditEntry(SQLModel, table=True):
    """One change. Rows come and never change."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_target", "target", "seq"), Index("ix_audit_log_action", "action", "seq"))

    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    """From 1, without a gap."""
    at: float = Field(sa_column=Column(Float(53), nullable=False))
    action: str = Field(max_length=64)
    target: str | None = Field(default=None, max_length=255)
    origin: str = Field(max_length=32)
    """How it was asked for: `rest`, `foreign`, `schedule`."""
    role: str | None = Field(default=None, max_length=32)
    """`admin`, `operator`, `viewer`; `open`: nobody has a key. None where it was no request."""
    key: str | None = Field(default=None, max_length=80)
    """Its name and the beginning of its sha256, which tells one of that name from the next, and nothing of it."""
    address: str | None = Field(default=None, max_length=64)
    details: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    previous: str = Field(max_length=64)
    hash: str = Field(max_length=64)


_TABLE = SQLModel.metadata.tables[str(AuditEntry.__tablename__)]


class Actor(NamedTuple):
    """Who asks."""

    origin: str
    role: str | None = None
    key: str | None = None
    address: str | None = None


class Change(NamedTuple):
    """What is changed; the target is a model's id, a limit's name, a job's id."""

    action: str
    target: str | None
    details: dict[str, Any]

    @classmethod
    def of_job(cls, contract: Contract, job_id: str) -> Self:
        """What a job that is submitted will change."""
        args = contract.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return cls(contract.kind, contract.subject, {**args, "job_id": job_id})


@dataclass
class Acting:
    """A request while it is answered."""

    actor: Actor
    change: Change | None = None
    """To be written with the first change of a row that the request makes; None where jobs say it, or nobody needs to
    know."""
    written: list[str] = field(default_factory=list)


ACTING: ContextVar[Acting | None] = ContextVar("acting", default=None)


def actor(origin: str) -> Actor:
    """Who asks for a job: whoever sent the request that is being answered, if one is."""
    acting = ACTING.get()
    return acting.actor if acting is not None and origin == "rest" else Actor(origin)


def waits() -> bool:
    """The request that is being answered has a change that is not written yet."""
    acting = ACTING.get()
    return acting is not None and acting.change is not None and not acting.written


def about(target: str) -> None:
    """What the request that is being answered is on, where only its answer says so."""
    acting = ACTING.get()
    if acting is not None and acting.change is not None:
        acting.change = acting.change._replace(target=target)


def witness(connection: Connection) -> None:
    """Call last in a transaction that has changed something: what the request is about is written with it, once."""
    acting = ACTING.get()
    if acting is not None and acting.change is not None and not acting.written:
        acting.written.append(append(connection, acting.change, acting.actor))


def append(connection: Connection, change: Change, who: Actor) -> str:
    """Add a row in the caller's transaction, at its very end: until that is over nobody else adds one. Its hash."""
    serialise(connection, "audit")
    last = connection.execute(select(_TABLE.c.seq, _TABLE.c.hash).order_by(_TABLE.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq + 1, last.hash) if last is not None else (1, START)
    entry = AuditEntry(
        seq=seq, at=connection.execute(select(now())).scalar_one(), action=change.action[:64],
        target=None if change.target is None else change.target[:255], origin=who.origin, role=who.role, key=who.key,
        address=who.address, details=redacted(change.details), previous=previous, hash="",
    )  # fmt: skip
    entry.hash = digest(told(entry))
    connection.execute(insert(_TABLE).values(**entry.model_dump()))
    log.info("audit", seq=seq, action=entry.action, target=entry.target, hash=entry.hash)
    return entry.hash


def told(entry: AuditEntry) -> dict[str, Any]:
    """A row as people read it, and as it is hashed; `at` is RFC 3339 with six digits."""
    moment = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "seq": entry.seq, "at": moment, "action": entry.action, "target": entry.target, "origin": entry.origin,
        "role": entry.role, "key": entry.key, "address": entry.address, "details": entry.details,
        "previous": entry.previous,
    }  # fmt: skip


def digest(row: dict[str, Any]) -> str:
    """The hash that a row must have, whether or not it shows one."""
    plain = {name: value for name, value in row.items() if name != "hash"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Chain:
    """Walks the rows in order, and says where they break."""

    def __init__(self) -> None:
        self.rows = 0
        self.seq = 0
        self.hash = START
        self.first: dict[str, Any] | None = None
        self.archived: dict[int, str] = {}
        """By the last row of an archive, its hash, as a later row has it."""

    def fault(self, row: dict[str, Any]) -> str | None:
        """Take the next row. Why it is not the one that was written there, or None where it is."""
        if self.first is None:
            self.first, self.seq, self.hash = row, row["seq"] - 1, row["previous"]
        if row["seq"] != self.seq + 1:
            return f"rows {self.seq + 1} to {row['seq'] - 1} are missing"
        if row["previous"] != self.hash:
            return "it does not carry the hash of the row before it"
        if digest(row) != row["hash"]:
            return "its content does not have its hash"
        if row["action"] == ARCHIVE:
            self.archived[int(row["target"])] = row["details"]["hash"]
        self.rows, self.seq, self.hash = self.rows + 1, row["seq"], row["hash"]
        return None

    def start_fault(self) -> str | None:
        """After the last row: why the rows before the first one are not there, if nothing accounts for it."""
        if self.first is None:
            return None
        before, anchor = self.first["seq"] - 1, self.first["previous"]
        if before == 0:
            return None if anchor == START else "it is the first row, and names one before it"
        if self.archived.get(before) == anchor:
            return None
        return f"rows 1 to {before} are missing, and no archive has them"


def entries(
    session: Session, *, action: str | None = None, target: str | None = None, origin: str | None = None,
    beyond: int | None = None, forward: bool = False, limit: int = 100,
) -> list[AuditEntry]:  # fmt: skip
    """Newest first, or forward from the first; `beyond` is the last `seq` seen. `limit` finds all of `limit.*`."""
    seq = col(AuditEntry.seq)
    query = select(AuditEntry).order_by(seq if forward else seq.desc()).limit(limit)
    if beyond is not None:
        query = query.where(seq > beyond if forward else seq < beyond)
    if action is not None:
        named = col(AuditEntry.action)
        query = query.where((named == action) | named.startswith(f"{action}.", autoescape=True))
    if target is not None:
        query = query.where(col(AuditEntry.target) == target)
    if origin is not None:
        query = query.where(col(AuditEntry.origin) == origin)
    return list(session.exec(query).all())


def archive(session: Session, seq: int, hash_: str) -> int:
    """Let the rows up to that one go, for whoever has them and shows it by the last one's hash. How many went.

    Raises:
        Conflict: `audit_not_archived`.
    """
    serialise(session, "audit")
    last = session.get(AuditEntry, seq)
    newest = session.exec(select(AuditEntry.seq).order_by(col(AuditEntry.seq).desc()).limit(1)).first()
    if last is None or last.hash != hash_ or seq == newest:
        raise Conflict(
            "audit_not_archived", f"Row {seq} has another hash, is gone already, or is the newest.",
            "Export the log again, and name a row of it that has one after it.",
        )  # fmt: skip
    witness(session.connection())  # the triggers let go of nothing before this row is there
    return int(session.exec(delete(AuditEntry).where(col(AuditEntry.seq) <= seq)).rowcount)


def broken(rows: Iterable[dict[str, Any]], chain: Chain) -> tuple[int, str] | None:
    """The first row that is not as it was written, by its `seq`, and why."""
    for row in rows:
        if (fault := chain.fault(row)) is not None:
            return row["seq"], fault
    if chain.first is not None and (fault := chain.start_fault()) is not None:
        return chain.first["seq"], fault
    return None
