"""What people call a model: its id, an alias, or a mode of generation for whatever does that."""

import difflib
from collections.abc import Collection, Iterable
from typing import NamedTuple

from sqlalchemy import Boolean, Column, Index, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, delete, func, select

from shared.db.tables import Installation, Model, Residency
from shared.errors import Conflict, NotFound
from shared.states import HELD, InstallationState

NEAR = 0.6
"""How like two names must be for one to be meant by the other, 0 to 1."""
NEAR_LENGTH = 5
"""By how many characters they may differ in length."""
NEAR_LOOKED_AT = 2_000
"""Ids that are compared, at most: comparing is dear, and anybody may ask for what is not there."""


class ModelName(SQLModel, table=True):
    """Another name of a model: an alias, which is its alone, or a mode of generation, which others may have too."""

    __tablename__ = "model_names"
    __table_args__ = (
        Index(
            "ix_model_names_alias", "name", unique=True,
            sqlite_where=text("NOT is_mode"), postgresql_where=text("NOT is_mode"),
        ),
    )  # fmt: skip

    model_id: str = Field(primary_key=True, max_length=96)
    name: str = Field(primary_key=True, index=True, max_length=96)
    is_mode: bool = Field(sa_column=Column(Boolean, nullable=False))


class Names(NamedTuple):
    """Beside its id."""

    aliases: list[str]
    modes: list[str]


NO_NAMES = Names([], [])
"""Of most models; nobody writes to it."""


class Candidate(NamedTuple):
    """A model that does what was asked for."""

    model_id: str
    modes: int
    """How many it does: one that does little else is made for it."""
    serving: bool
    in_memory: bool
    installed: bool


def of_models(session: Session, model_ids: Collection[str]) -> dict[str, Names]:
    """Of a page of models, in one query; those that have none are missing."""
    found: dict[str, Names] = {}
    query = select(ModelName).where(col(ModelName.model_id).in_(model_ids)).order_by(col(ModelName.name))
    for row in session.exec(query).all():
        names = found.setdefault(row.model_id, Names([], []))
        (names.modes if row.is_mode else names.aliases).append(row.name)
    return found


def give(
    session: Session, model_id: str, *, aliases: Iterable[str] | None = None, modes: Iterable[str] | None = None
) -> None:
    """From now on it has these, and no others; None leaves what it has.

    Raises:
        Conflict: code `name_taken`; an alias is the id, the alias or the type of another.
    """
    for is_mode, names in ((False, aliases), (True, modes)):
        if names is None:
            continue
        wanted = sorted({name for name in names if name != model_id})
        mine = (col(ModelName.model_id) == model_id) & (col(ModelName.is_mode) == is_mode)
        session.exec(delete(ModelName).where(mine))
        if not is_mode and (refused := taken(session, model_id, wanted)):
            name, what = next(iter(refused.items()))
            raise Conflict("name_taken", f"{name!r} is {what} already.", "Choose another alias.")
        session.add_all(ModelName(model_id=model_id, name=name, is_mode=is_mode) for name in wanted)
    try:
        session.flush()
    except IntegrityError as error:  # the same alias for another model at the same moment
        raise Conflict("name_taken", "Another model got one of these aliases just now.", "Choose another.") from error


def taken(session: Session, model_id: str, aliases: Collection[str]) -> dict[str, str]:
    """Those of these aliases that the model cannot have, by lower case, with what they are already."""
    lower = [alias.lower() for alias in aliases]
    alias_of = ~col(ModelName.is_mode) & (col(ModelName.model_id) != model_id)
    ids = select(func.lower(Model.id)).where(func.lower(Model.id).in_(lower))
    types = select(Model.type).where(col(Model.type).in_(lower)).distinct()
    others = select(func.lower(ModelName.name)).where(func.lower(ModelName.name).in_(lower), alias_of)
    return {
        name: what
        for query, what in (
            (others, "an alias of another model"), (types, "a type of models"), (ids, "the id of a model"),
        )
        for name in session.exec(query).all()
    }  # fmt: skip


def meant(session: Session, name: str) -> str | None:
    """The model that an alias or a mode stands for now; None: the name is none."""
    rows = session.exec(select(ModelName).where(col(ModelName.name) == name)).all()
    alias = next((row.model_id for row in rows if not row.is_mode), None)
    if alias is not None or not rows:
        return alias
    chosen = best(_candidates(session, [row.model_id for row in rows]))
    return chosen.model_id if chosen is not None else None


def called(session: Session, name: str) -> Model | None:
    """The model of that id, else that alias, else the one that a mode stands for now."""
    found = session.get(Model, name)
    if found is None and (model_id := meant(session, name)) is not None:
        found = session.get(Model, model_id)
    return found


def resolved(session: Session, name: str) -> str:
    """The id of the model that is called so; the name itself where none is."""
    found = called(session, name)
    return found.id if found is not None else name


def best(candidates: Iterable[Candidate]) -> Candidate | None:
    """Who does it: what serves its type, else what is in memory, else on disk; of equals what does least else."""
    return min(
        candidates,
        key=lambda one: (not one.serving, not one.in_memory, not one.installed, one.modes, one.model_id),
        default=None,
    )


def _candidates(session: Session, model_ids: list[str]) -> list[Candidate]:
    """Those of these models that are enabled."""
    enabled = session.exec(select(Model.id).where(col(Model.id).in_(model_ids), col(Model.enabled))).all()
    held = select(Residency).where(col(Residency.model_id).in_(enabled), col(Residency.state).in_(HELD))
    residencies = session.exec(held).all()
    whole = col(Installation.state) == InstallationState.PUBLISHED
    installed = session.exec(select(Installation.model_id).where(col(Installation.model_id).in_(enabled), whole)).all()
    names = of_models(session, enabled)
    return [
        Candidate(
            model_id, len(names[model_id].modes),
            serving=any(row.active for row in residencies if row.model_id == model_id),
            in_memory=any(row.model_id == model_id for row in residencies), installed=model_id in installed,
        )
        for model_id in enabled
    ]  # fmt: skip


def aliases(session: Session) -> dict[str, str]:
    """Every alias, and whose it is."""
    rows = session.exec(select(ModelName).where(~col(ModelName.is_mode)).order_by(col(ModelName.name))).all()
    return {row.name: row.model_id for row in rows}


def modes(session: Session) -> dict[str, list[str]]:
    """Every mode, and the models that do it."""
    rows = session.exec(select(ModelName).where(col(ModelName.is_mode)).order_by(ModelName.name, ModelName.model_id))
    found: dict[str, list[str]] = {}
    for row in rows.all():
        found.setdefault(row.name, []).append(row.model_id)
    return found


def near(session: Session, name: str) -> str | None:
    """The id or alias that was probably meant by one that nobody has."""
    like = func.length(Model.id).between(len(name) - NEAR_LENGTH, len(name) + NEAR_LENGTH)
    ids = select(Model.id).where(like, func.lower(func.substr(Model.id, 1, 1)) == name[:1].lower())
    ids = ids.limit(NEAR_LOOKED_AT)
    aliases = select(ModelName.name).where(~col(ModelName.is_mode)).limit(NEAR_LOOKED_AT)
    known = {each.lower(): each for query in (ids, aliases) for each in session.exec(query).all()}
    found = difflib.get_close_matches(name.lower(), known, 1, NEAR)
    return known[found[0]] if found else None


def not_found(session: Session, name: str) -> NotFound:
    """There is no such model; says which one was probably meant."""
    guess = near(session, name)
    ways = "`modelyard ls` lists them (GET /api/v1/models); `modelyard pull REF` adds one."
    hint = f"Did you mean {guess!r}? {ways}" if guess is not None else ways
    return NotFound("model_not_found", f"There is no model {name!r}.", hint)


def forget(session: Session, model_id: str) -> None:
    """A model leaves the registry, and its names are free."""
    session.exec(delete(ModelName).where(col(ModelName.model_id) == model_id))
