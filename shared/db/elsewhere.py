"""Rows of models whose bytes are not in our store: those in folders of the user's, and those in Ollama."""

from sqlalchemy import update
from sqlmodel import Session, col, func, select

from shared.db import nodes
from shared.db.catalog import add_model, exists, installation, note_facts
from shared.db.session import now
from shared.db.tables import Installation, Model
from shared.refs import RESERVED_IDS, SourceKind
from shared.states import Holder, InstallationState


def below(session: Session, path: str, store: str) -> dict[str, Installation]:
    """Installations in place, by path: that path itself, and what lies below it, on the machines of a store."""
    query = select(Installation).where(col(Installation.holder) == Holder.FOLDER, nodes.lies_in(store))
    prefix = f"{path.rstrip('/')}/"
    rows = session.exec(query.where(col(Installation.path).startswith(prefix[:-1], autoescape=True))).all()
    return {row.path: row for row in rows if row.path == path or row.path.startswith(prefix)}


def expected_at(session: Session, path: str) -> Model | None:
    """An entry of the registry that names this path and that nothing was found for yet."""
    installed = select(Installation.model_id).where(col(Installation.model_id) == col(Model.id))
    query = select(Model).where(
        col(Model.source) == SourceKind.FILE, col(Model.source_url) == path, ~installed.exists()
    )
    return session.exec(query.order_by(col(Model.id)).limit(1)).first()


def of_ollama(session: Session, store: str) -> list[tuple[Model, Installation]]:
    """What we know of the models of the Ollama that machines of a store speak to."""
    query = select(Model, Installation).where(
        col(Model.id) == col(Installation.model_id), col(Installation.holder) == Holder.OLLAMA, nodes.lies_in(store)
    )
    return list(session.exec(query.order_by(col(Model.id))).all())


def is_shared(session: Session, model: Model) -> bool:
    """Does another entry stand for the same model of the same source, and have it?"""
    query = select(Model.id).where(
        col(Model.id) == col(Installation.model_id), col(Model.id) != model.id,
        col(Model.source) == model.source, col(Model.source_url) == model.source_url,
    )  # fmt: skip
    return session.exec(query.limit(1)).first() is not None


def enter(session: Session, model: Model, row: Installation, store: str) -> Model:
    """Record a model that was found, under an id that is free."""
    model.id = row.model_id = _free_id(session, model.id)
    add_model(session, model)
    _record(session, row, store)
    return model


def update_found(session: Session, row: Installation, store: str) -> bool:
    """Record what machines of a store found of a model that is in the registry. False: it was removed meanwhile."""
    if not exists(session, row.model_id):
        return False
    _record(session, row, store)
    session.exec(update(Model).where(col(Model.id) == row.model_id).values(file_size=row.size, updated_at=now()))
    return True


def mark(session: Session, model_id: str, revision: str, state: InstallationState) -> bool:
    """Say what became of that revision. False: it is so already, or another one is there."""
    found = installation(session, model_id)
    if found is not None and found.problems and state == InstallationState.PUBLISHED:
        state = InstallationState.CORRUPT  # its disk came back; what a verify found is still so
    if found is None or found.revision != revision or found.state == state:
        return False
    found.state = state
    session.add(found)
    return True


def _record(session: Session, row: Installation, store: str) -> None:
    row.store = store
    row.published_at = session.exec(select(now())).one()
    session.merge(row)
    note_facts(session, row.model_id, row.facts)


def _free_id(session: Session, wanted: str) -> str:
    """The wanted id, or the first of `wanted-2`, `wanted-3`, … that is free."""
    base = f"model-{wanted}" if wanted in RESERVED_IDS else wanted
    number, name = 1, base
    while session.exec(select(Model.id).where(func.lower(col(Model.id)) == name.lower())).first() is not None:
        number += 1
        name = f"{base[:90].rstrip('-._')}-{number}"
    return name
