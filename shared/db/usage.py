"""How often models are used, and how long their answers take: counted by day and by length, so that rows stay few."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import ColumnElement, Dialect, case, delete, exists, tuple_
from sqlalchemy import select as columns
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from shared.db.reports import UsageCount
from shared.db.session import now
from shared.db.tables import Model

KEEP_DAYS = 30
DAY_SECONDS = 86_400
STEP = 1.1
"""Between two lengths that are told apart: a percentile is off by a twentieth at most."""
SHORTEST_SECONDS = 0.001


class Use(NamedTuple):
    """One answer of a model."""

    model_id: str
    seconds: float
    """From the request to the last byte, with the wait for the model."""
    failed: bool


@dataclass
class Usage:
    """What is known of a model's uses within some days."""

    uses: int = 0
    failures: int = 0
    seconds: float = 0.0
    last_used_at: float | None = None
    lengths: dict[int, int] = field(default_factory=dict)

    def add(self, other: "Usage") -> None:
        """Count both."""
        self.uses += other.uses
        self.failures += other.failures
        self.seconds += other.seconds
        self.last_used_at = max(self.last_used_at or 0.0, other.last_used_at or 0.0) or None
        for length, uses in other.lengths.items():
            self.lengths[length] = self.lengths.get(length, 0) + uses

    @property
    def mean_seconds(self) -> float | None:
        return self.seconds / self.uses if self.uses else None

    def percentile(self, share: float) -> float | None:
        """Seconds within which this share of the answers was complete; by nearest rank, the middle of its step."""
        if self.uses == 1:
            return max(self.seconds, SHORTEST_SECONDS)
        rank = math.ceil(share * self.uses)
        for length in sorted(self.lengths):
            rank -= self.lengths[length]
            if rank <= 0:
                return float(SHORTEST_SECONDS * STEP ** (length - 0.5)) if length else SHORTEST_SECONDS
        return None


def record(session: Session, uses: Iterable[Use]) -> None:
    """Count these as of now."""
    moment = session.exec(select(now())).one()
    counts: dict[tuple[str, int], list[Use]] = {}
    for use in uses:
        counts.setdefault((use.model_id, _length(use.seconds)), []).append(use)
    for (model_id, length), alike in sorted(
        counts.items()
    ):  # in one order, so that two of these cannot lock each other
        session.exec(_counted(session.get_bind().dialect, UsageCount(
            model_id=model_id, day=int(moment // DAY_SECONDS), length=length, uses=len(alike),
            failures=sum(use.failed for use in alike), seconds=sum(use.seconds for use in alike), last_used_at=moment,
        )))  # fmt: skip


def _counted(dialect: Dialect, row: UsageCount) -> sqlite.Insert | postgresql.Insert:
    insert: sqlite.Insert | postgresql.Insert
    insert = (postgresql if dialect.name == "postgresql" else sqlite).insert(UsageCount).values(**row.model_dump())
    new, old = insert.excluded, UsageCount
    later: ColumnElement[float] = case((new.last_used_at > old.last_used_at, new.last_used_at), else_=old.last_used_at)
    return insert.on_conflict_do_update(
        index_elements=["model_id", "day", "length"],
        set_={
            "uses": old.uses + new.uses, "failures": old.failures + new.failures,
            "seconds": old.seconds + new.seconds, "last_used_at": later,
        },
    )  # fmt: skip


def _length(seconds: float) -> int:
    """0 for the shortest, and one more for each step of a tenth."""
    return max(0, math.ceil(math.log(max(seconds, SHORTEST_SECONDS) / SHORTEST_SECONDS, STEP)))


def since(session: Session, days: int, model_id: str | None = None) -> Mapping[str, dict[int, Usage]]:
    """Of every model, or of one, the days of the last `days` on which it was used; today is one of them.

    A day is counted from 1970, in UTC.
    """
    first = int(session.exec(select(now())).one() // DAY_SECONDS) - days + 1
    query = select(UsageCount).where(col(UsageCount.day) >= first)
    if model_id is not None:
        query = query.where(col(UsageCount.model_id) == model_id)
    found: dict[str, dict[int, Usage]] = {}
    for row in session.exec(query.order_by(col(UsageCount.model_id), col(UsageCount.day))).all():
        found.setdefault(row.model_id, {}).setdefault(row.day, Usage()).add(_of(row))
    return found


def of_models(session: Session, model_ids: Collection[str] | None = None) -> dict[str, Usage]:
    """Of each of these that was used within the days that are kept, or of all: those days as one, without lengths."""
    row, model = UsageCount, col(UsageCount.model_id)
    query = columns(
        model, func.sum(col(row.uses)), func.sum(col(row.failures)), func.sum(col(row.seconds)),
        func.max(col(row.last_used_at)),
    )  # fmt: skip
    query = query.group_by(model).where(col(row.day) > now() / DAY_SECONDS - KEEP_DAYS)
    if model_ids is not None:
        query = query.where(model.in_(model_ids))
    return {found[0]: Usage(*found[1:]) for found in session.connection().execute(query)}


def per_day(uses: int, age: float, days: int = KEEP_DAYS) -> float:
    """Uses a day within the last `days`, or since the model came, `age` seconds ago, where that is less; but one."""
    return uses / min(float(days), max(1.0, age / DAY_SECONDS))


def last_used(session: Session, model_id: str | None = None) -> dict[str, float]:
    """When each model that was ever used, or one, was used last; also where that is longer ago than days are kept."""
    query = select(UsageCount.model_id, func.max(UsageCount.last_used_at)).group_by(col(UsageCount.model_id))
    if model_id is not None:
        query = query.where(col(UsageCount.model_id) == model_id)
    return {name: last for name, last in session.exec(query).all() if last is not None}


def _of(row: UsageCount) -> Usage:
    return Usage(row.uses, row.failures, row.seconds, row.last_used_at, {row.length: row.uses})


def total(days: Iterable[Usage]) -> Usage:
    """Several days as one."""
    whole = Usage()
    for day in days:
        whole.add(day)
    return whole


def prune(session: Session) -> int:
    """Forget what is older than is kept, but for the last use of each model that is known; how many rows that were."""
    oldest = int(session.exec(select(now())).one() // DAY_SECONDS - KEEP_DAYS)
    later = aliased(UsageCount)
    mine, theirs = UsageCount, later
    used_since = exists().where(
        col(theirs.model_id) == col(mine.model_id),
        tuple_(col(theirs.last_used_at), col(theirs.day), col(theirs.length))
        > tuple_(col(mine.last_used_at), col(mine.day), col(mine.length)),
    )
    forgotten = ~exists().where(col(Model.id) == col(mine.model_id))
    gone = session.exec(delete(mine).where(col(mine.day) <= oldest, used_since | forgotten))
    return int(gone.rowcount)
