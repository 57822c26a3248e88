"""Entries that come in bulk: of catalogues, which are followed as they change, and of registries of other systems."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlmodel import Session, col, delete, func, select

from shared.db import catalog, names
from shared.db.session import now, serialise
from shared.db.tables import Installation, Model, ScheduleRun

CATALOGUE, REGISTRY = "catalogue", "registry"
DIGEST_BITS = 62
"""So that it is a number of 64 bits, whatever its sign."""


class Entry(NamedTuple):
    """A model as somebody wrote it down."""

    model: Model
    told: dict[str, Any]
    """What was written, by column; all else is a default, and takes nothing from what is there."""
    aliases: list[str] | None = None
    modes: list[str] | None = None

    def digest(self) -> int:
        """The same for the same words."""
        words = json.dumps([self.model.id, self.told, self.aliases, self.modes], sort_keys=True, default=str)
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> (64 - DIGEST_BITS)


class Taken(NamedTuple):
    """What became of entries, by id."""

    added: list[str]
    changed: list[str]
    kept: list[str]
    """They were there already, and stay as they are."""


def follow(session: Session, entries: Iterable[Entry], source: str = CATALOGUE) -> list[str]:
    """Enter each model once in the life of this database: one that was removed does not come back.

    One that the catalogue has entered, and that nobody removed, changes where its words do. An alias that somebody gave
    to another is left to that one.

    Args:
        source: of the entries; each goes by what it has entered itself.

    Returns:
        Ids of those that are new.
    """
    serialise(session, CATALOGUE)
    new: list[str] = []
    for entry in entries:
        mark = f"{source} {entry.model.id}"
        marks = session.exec(select(ScheduleRun.slot).where(col(ScheduleRun.name) == mark)).all()
        if entry.digest() in marks:
            continue
        session.exec(delete(ScheduleRun).where(col(ScheduleRun.name) == mark))
        session.add(ScheduleRun(name=mark, slot=entry.digest(), ran_at=session.exec(select(now())).one()))
        alike = func.lower(Model.id) == entry.model.id.lower()
        there = session.exec(select(Model).where(alike)).first()
        refused = names.taken(session, entry.model.id, entry.aliases or [])
        fitting = entry._replace(aliases=[each for each in entry.aliases or [] if each.lower() not in refused])
        if there is None and not marks:
            add(session, fitting)
            new.append(entry.model.id)
        elif there is not None and there.from_catalogue and marks and source == CATALOGUE:
            _change(session, fitting)
    return new


def take_in(session: Session, entries: Iterable[Entry], *, replace: bool) -> Taken:
    """Enter what is not there; what is there stays, or has what was written from now on.

    Raises:
        Conflict: `model_exists`, an id differs from another in capital letters only; `name_taken`, of an alias.
    """
    serialise(session, CATALOGUE)
    taken = Taken([], [], [])
    for entry in entries:
        there = session.get(Model, entry.model.id)
        if there is None:
            add(session, entry)
            taken.added.append(entry.model.id)
        elif replace and _differs(session, there, entry):
            _change(session, entry)
            taken.changed.append(entry.model.id)
        else:
            taken.kept.append(entry.model.id)
    return taken


def add(session: Session, entry: Entry) -> Model:
    """Enter one model.

    Raises:
        Conflict: `model_exists`, `name_taken`.
    """
    model = catalog.add_model(session, entry.model)
    names.give(session, model.id, aliases=entry.aliases, modes=entry.modes)
    return model


def _change(session: Session, entry: Entry) -> None:
    catalog.change_model(session, entry.model.id, **entry.told)
    names.give(session, entry.model.id, aliases=entry.aliases, modes=entry.modes)


def _differs(session: Session, there: Model, entry: Entry) -> bool:
    mine = names.of_models(session, [there.id]).get(there.id, names.NO_NAMES)
    for told, has in ((entry.aliases, mine.aliases), (entry.modes, mine.modes)):
        if told is not None and sorted(told) != has:
            return True
    return any(getattr(there, column) != value for column, value in entry.told.items())


class Whole(NamedTuple):
    """All of the registry."""

    models: list[Model]
    installations: dict[str, Installation]
    names: dict[str, names.Names]


def everything(session: Session, after: str | None = None, limit: int | None = None) -> Whole:
    """Every model, by id, in three queries; or so many of them that come after that id."""
    query = select(Model).order_by(col(Model.id)).limit(limit)
    models = list(session.exec(query if after is None else query.where(col(Model.id) > after)).all())
    # All of them are not named one by one: a statement has room for some thousands.
    mine: Any = select(Model.id) if limit is None else [model.id for model in models]
    rows = session.exec(select(Installation).where(col(Installation.model_id).in_(mine))).all()
    return Whole(models, {row.model_id: row for row in rows}, names.of_models(session, mine))
