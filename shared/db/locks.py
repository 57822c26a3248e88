"""Locks and rows: what is installed as an entry of a lock, and what the lock that was applied last demands."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import update
from sqlmodel import Session, col, func, select

from shared.db.catalog import add_model, exists
from shared.db.session import now
from shared.db.tables import FileList, Installation, LockedEntry, Model
from shared.errors import Conflict, ModelyardError
from shared.lock import LOCKABLE, SETTINGS, LockedModel
from shared.refs import SourceKind
from shared.states import Holder

COLUMNS = {"asked_revision": "revision"}
"""Settings of an entry that have another name in the registry."""


class Standing(NamedTuple):
    """What is known of one model: its registry entry, what is installed of it, and the files of that."""

    model: Model
    installation: Installation | None
    files: FileList | None

    @property
    def listed(self) -> FileList | None:
        """The files, if they are those of the installed revision."""
        same = self.files is not None and self.installation and self.files.revision == self.installation.revision
        return self.files if same else None


def standings(session: Session, model_ids: Collection[str] | None = None) -> list[Standing]:
    """Of these models, or of all, by id; those that only capital letters tell from one of these are among them."""
    query = select(Model, Installation, FileList).join(
        Installation, col(Installation.model_id) == col(Model.id), isouter=True
    )
    query = query.join(FileList, col(FileList.model_id) == col(Model.id), isouter=True)
    if model_ids is not None:
        query = query.where(func.lower(col(Model.id)).in_([model_id.lower() for model_id in model_ids]))
    return [Standing(*row) for row in session.exec(query.order_by(col(Model.id))).all()]


def entry_of(standing: Standing) -> LockedModel:
    """What a lock says of an installed model.

    Raises:
        Conflict: it cannot be locked; says why, and what to do.
    """
    model, installation, listed = standing.model, standing.installation, standing.listed
    if installation is None or listed is None or installation.holder != Holder.STORE:
        raise _left_out(model, installation)
    try:
        return LockedModel.model_validate(
            {
                **settings_of(model), "model_id": model.id, "model_type": model.type,
                "source": model.source, "source_url": model.source_url, "revision": installation.revision,
                "facts": installation.facts, "files": listed.files,
            }
        )  # fmt: skip
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        message = f"{model.id!r} does not fit into a lock: {where}: {fault['msg']}."
        raise Conflict("not_lockable", message, "Change that, then lock it again.") from error


def settings_of(model: Model) -> dict[str, Any]:
    """What people chose for a model, by the names that a lock has."""
    return {name: getattr(model, COLUMNS.get(name, name)) for name in SETTINGS}


def model_of(entry: LockedModel) -> Model:
    """The registry entry that an entry of a lock makes."""
    return Model(
        id=entry.model_id, type=entry.model_type, source=entry.source, source_url=entry.source_url,
        created_at=0.0, updated_at=0.0, **_columns(entry),
    )  # fmt: skip


def settle(session: Session, entry: LockedModel) -> bool:
    """Have the registry know the model with the settings of the entry. Answers whether it is new there.

    Raises:
        Conflict: code `model_exists`; another one is told from it by capital letters only.
    """
    if not exists(session, entry.model_id):
        add_model(session, model_of(entry))
        return True
    values = {**_columns(entry), "updated_at": now()}
    session.exec(update(Model).where(col(Model.id) == entry.model_id).values(**values))
    return False


def check_same(entry: LockedModel, standing: Standing | None) -> None:
    """Make sure that the id of an entry stands for the same model here, or for none yet.

    Raises:
        Conflict: code `other_model`.
    """
    if standing is None:
        return
    model, installation = standing.model, standing.installation
    elsewhere = installation is not None and installation.holder != Holder.STORE
    if (model.id, model.type, model.source, model.source_url) == (entry.model_id, *entry.stands_for) and not elsewhere:
        return
    raise Conflict(
        "other_model",
        f"{model.id!r} stands for another model here: {model.type}, {model.source}:{model.source_url}.",
        f"Remove that one first (modelyard rm {model.id}), or leave {entry.model_id!r} out of the lock or bundle.",
        {"modelId": model.id},
    )


def demand(session: Session, entry: LockedModel) -> str:
    """From now on a download of this digest, which is answered, is held to the entry; an earlier one ends."""
    digest, clock = entry.digest(), session.exec(select(now())).one()
    session.merge(LockedEntry(model_id=entry.model_id, digest=digest, entry=entry.to_dict(), applied_at=clock))
    return digest


def demanded(session: Session, model_id: str, digest: str) -> LockedModel:
    """The entry that a download is held to.

    Raises:
        Conflict: code `lock_superseded`; another lock was applied since, or the model is another one by now.
    """
    row, model = session.get(LockedEntry, model_id), session.get(Model, model_id)
    entry = LockedModel.model_validate(row.entry) if row is not None and row.digest == digest else None
    if entry is None or model is None or entry.stands_for != (model.type, model.source, model.source_url):
        raise Conflict(
            "lock_superseded", f"The lock that asked for this download of {model_id!r} counts no longer.",
            "Apply the lock that should: modelyard lock apply models.lock.",
        )  # fmt: skip
    return entry


def put_files(session: Session, model_id: str, revision: str, files: Iterable[tuple[str, int, str]]) -> None:
    """Write down the files of what is installed: name, size and sha256 of each."""
    listed = [{"name": name, "size": size, "sha256": sha256} for name, size, sha256 in sorted(files)]
    session.merge(FileList(model_id=model_id, revision=revision, files=listed))


def unlisted(session: Session) -> list[tuple[str, str]]:
    """Model and revision of what is installed in a store and was published before its files were written down."""
    same = (FileList.model_id == Installation.model_id) & (FileList.revision == Installation.revision)
    query = select(Installation.model_id, Installation.revision).where(
        col(Installation.holder) == Holder.STORE, ~select(FileList.model_id).where(same).exists()
    )
    return list(session.exec(query).all())


def _columns(entry: LockedModel) -> dict[str, Any]:
    return {COLUMNS.get(name, name): value for name, value in entry.settings.items()}


def _left_out(model: Model, installation: Installation | None) -> ModelyardError:
    if installation is None:
        way = f"Download it first: modelyard pull {model.id}."
        return Conflict("model_not_installed", f"Model {model.id!r} is not on disk.", way)
    if installation.holder == Holder.STORE and model.source in LOCKABLE:
        why = f"The files of {model.id!r} are not written down yet."
        return Conflict("files_unlisted", why, "A worker does it within a minute; then ask again.")
    by_ollama = model.source == SourceKind.OLLAMA
    keeper = "Ollama, which fetches what a name stands for at that moment" if by_ollama else "a folder of yours"
    way = "To have it in a lock, pull the same model from hf:owner/name or a URL."
    return Conflict("not_in_store", f"The files of {model.id!r} are kept by {keeper}.", way)
