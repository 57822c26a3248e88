"""Registry and store as rows: models, their installation, and who serves a type."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete, func, select

from shared.db import names, trust
from shared.db.reports import ModelHealth
from shared.db.session import now
from shared.db.tables import FileList, Installation, LockedEntry, Model, Residency
from shared.errors import Conflict, ModelyardError, Unavailable
from shared.states import AWAY, HELD, IN_MEMORY, Holder, InstallationState, ResidencyState, tier_of


def add_model(session: Session, model: Model) -> Model:
    """Raises: Conflict when the id is taken."""
    # Some file systems do not tell A from a, and neither do people.
    if session.exec(select(Model.id).where(func.lower(col(Model.id)) == model.id.lower())).first() is not None:
        raise Conflict(
            "model_exists",
            f"There is already a model {model.id!r}.",
            "Choose another id, or `modelyard rm` that one.",
        )
    clock = session.exec(select(now())).one()
    model.created_at = model.updated_at = clock
    session.add(model)
    try:
        session.flush()
    except IntegrityError as error:  # the same ask at the same moment
        raise Conflict("model_exists", f"There is already a model {model.id!r}.", "Choose another id.") from error
    return model


def change_model(session: Session, model_id: str, **values: Any) -> Model:
    """Its entry with these values from now on.

    Raises:
        NotFound: no such model.
    """
    model = hold_model(session, model_id)
    for name, value in values.items():
        setattr(model, name, value)
    model.updated_at = session.exec(select(now())).one()
    session.add(model)
    session.flush()
    return model


def get_model(session: Session, model_id: str) -> Model:
    """Raises: NotFound, with the id that was probably meant."""
    model = session.get(Model, model_id)
    if model is None:
        raise names.not_found(session, model_id)
    return model


def exists(session: Session, model_id: str) -> bool:
    """Is there such a model?"""
    return session.get(Model, model_id) is not None


def hold_model(session: Session, model_id: str) -> Model:
    """The model's row, locked until the transaction ends: loading and removing take turns at it.

    Raises:
        NotFound
    """
    session.exec(select(Model.id).where(col(Model.id) == model_id).with_for_update()).first()
    return get_model(session, model_id)


def uninstall(session: Session, model_id: str) -> None:
    """From now on there is nothing to load."""
    session.exec(delete(Installation).where(col(Installation.model_id) == model_id))
    session.exec(delete(FileList).where(col(FileList.model_id) == model_id))


def forget_model(session: Session, model_id: str) -> None:
    """Take a model and its installation off the registry."""
    uninstall(session, model_id)
    trust.forget(session, model_id)
    names.forget(session, model_id)
    session.exec(delete(LockedEntry).where(col(LockedEntry.model_id) == model_id))
    session.exec(delete(ModelHealth).where(col(ModelHealth.model_id) == model_id))
    session.exec(delete(Model).where(col(Model.id) == model_id))


def installation(session: Session, model_id: str) -> Installation | None:
    return session.get(Installation, model_id)


def installed(session: Session, model_id: str) -> Installation:
    """The installation that may be loaded.

    Raises:
        Conflict: nothing is installed, it is corrupt or unverified, or Ollama holds it.
        Unavailable: its disk is away.
    """
    found = session.get(Installation, model_id)
    if found is None:
        raise Conflict(
            "model_not_installed",
            f"Model {model_id!r} is not on disk.",
            f"Download it first: modelyard pull {model_id}.",
        )
    if (refusal := _refusal(found)) is not None:
        raise refusal
    allowed = trust.grants(session, model_id).of(found.revision)
    if found.unverified and not allowed.unverified:
        raise Conflict(
            "model_unverified",
            f"The server of {model_id!r} told neither a length nor a digest, so a part of it would look the same.",
            f"Enter it with its checksum and pull it again. {allowed.way(unverified=True)}",
        )
    return found


def _refusal(found: Installation) -> ModelyardError | None:
    """Why what is installed must not be loaded, if so."""
    model_id, in_ollama = found.model_id, found.holder == Holder.OLLAMA
    if found.state == InstallationState.AWAY:
        what, mend = ("Ollama, which", "Start it (ollama serve)") if in_ollama else ("The disk that", "Mount it")
        return Unavailable(
            "model_away", f"{what} holds {model_id!r}{',' if in_ollama else ''} is not there.",
            f"{mend}, then: modelyard scan. Nothing is lost.",
        )  # fmt: skip
    if found.state == InstallationState.GONE:
        mend = f"Put them back at {found.path}, then: modelyard scan."
        return Conflict(
            "model_gone", f"The files of {model_id!r} are not where they were.",
            f"Bring it again: modelyard pull {model_id}." if in_ollama else mend,
        )  # fmt: skip
    if found.state == InstallationState.CORRUPT:
        elsewhere = "Put the right files there, then verify it."
        hint = elsewhere if found.holder == Holder.FOLDER else f"Repair it first: modelyard repair {model_id}."
        return Conflict("model_corrupt", f"Files of {model_id!r} are damaged.", hint)
    return None


def publish(session: Session, row: Installation, *, newest: bool = True) -> None:
    """Record what the store has just published; replaces what was there, which is kept for a rollback.

    Args:
        newest: it is what its source offers now, and not what somebody named.
    """
    row.published_at = row.verified_at = session.exec(select(now())).one()
    before = session.get(Installation, row.model_id)
    row.latest_revision, row.update_checked_at = row.revision, row.published_at
    if before is not None and before.holder == row.holder == Holder.STORE:
        back = row.revision == before.previous_revision  # what its source offers was not asked
        same = before.revision == row.revision
        row.previous_revision = before.previous_revision if same else before.revision
        newest = newest and not back
    if not newest:
        told = (before.latest_revision, before.update_checked_at) if before is not None else (None, None)
        row.latest_revision, row.update_checked_at = told
    session.merge(row)
    session.exec(update(Model).where(col(Model.id) == row.model_id).values(let_go_at=None))
    note_facts(session, row.model_id, row.facts)


def note_facts(session: Session, model_id: str, facts: Mapping[str, Any] | None = None) -> None:
    """What a model's files tell of its tier, and of whether it thinks, where nobody has said it.

    Args:
        facts: None: those of what is installed.
    """
    if facts is None:
        found = session.get(Installation, model_id)
        facts = found.facts if found is not None else {}
    mine = col(Model.id) == model_id
    tier = tier_of(facts.get("parameterCount"))
    session.exec(update(Model).where(mine, ~col(Model.tier_set)).values(tier=tier))
    session.exec(update(Model).where(mine, ~col(Model.thinking_set)).values(thinking=facts.get("thinking")))


def record_verify(
    session: Session, model_id: str, revision: str, *, integrity: float, problems: list[dict[str, Any]], full: bool
) -> None:
    """Keep the outcome of a verify of that revision; problems quarantine the installation.

    Args:
        full: every byte was read. A mere look that found nothing says nothing, and clears no quarantine.
    """
    if not full and not problems:
        return
    state = InstallationState.CORRUPT if problems else InstallationState.PUBLISHED
    proven = {"verified_at": now(), "scrubbed_to": None} if full else {}
    session.exec(
        update(Installation)
        .where(col(Installation.model_id) == model_id, col(Installation.revision) == revision)
        .values(state=state, integrity=integrity, problems=problems, **proven)
    )


def active(session: Session, model_type: str) -> Residency | None:
    """The residency that serves a type, ready or lost."""
    return session.exec(select(Residency).where(col(Residency.model_type) == model_type, col(Residency.active))).first()


def note_remote(session: Session, model_id: str, told: dict[str, Any]) -> None:
    """What its source said of it just now."""
    session.exec(update(Model).where(col(Model.id) == model_id).values(remote=told))


def serving(session: Session) -> frozenset[str]:
    """Models that serve their type."""
    return frozenset(session.exec(select(Residency.model_id).where(col(Residency.active))).all())


def type_counts(session: Session) -> dict[str, int]:
    """How many models there are of each type."""
    return dict(session.exec(select(Model.type, func.count()).group_by(Model.type)).all())


def types(session: Session) -> set[str]:
    """Types of the models in the registry."""
    return set(session.exec(select(Model.type).distinct()).all())


def ages(session: Session, model_ids: list[str]) -> dict[str, tuple[str, float]]:
    """Type of each of these that is in the registry, and for how many seconds it has been."""
    query = select(Model.id, Model.type, now() - col(Model.created_at)).where(col(Model.id).in_(model_ids))
    return {model_id: (type_, age) for model_id, type_, age in session.exec(query).all()}


def residencies(session: Session, model_ids: list[str]) -> list[Residency]:
    """What is, or should be, in memory of these models."""
    query = select(Residency).where(col(Residency.model_id).in_(model_ids), col(Residency.state).in_(HELD))
    return list(session.exec(query).all())


def whole(session: Session) -> list[tuple[Model, Installation]]:
    """Models that are on disk, as far as known undamaged; the newest first."""
    query = (
        select(Model, Installation)
        .join(Installation, col(Installation.model_id) == col(Model.id))
        .where(col(Installation.state) == InstallationState.PUBLISHED)
        .order_by(col(Installation.published_at).desc(), col(Model.id))
    )
    return list(session.exec(query).all())


def loaded(session: Session) -> frozenset[str]:
    """Models that are, or should be, in memory."""
    there = col(Residency.state).in_((*IN_MEMORY, *AWAY))
    return frozenset(session.exec(select(Residency.model_id).where(there)).all())


def in_state(session: Session, state: ResidencyState) -> list[Residency]:
    """Residencies in that state."""
    return list(session.exec(select(Residency).where(col(Residency.state) == state)).all())
