"""What is to be loaded of a model, and whether it may be."""

from pathlib import Path

from shared.db import trust
from shared.db.tables import Installation
from shared.states import Holder
from shared.trust import Trust
from workers.job import Services
from workers.store.essentials import check_loadable, files_of
from workers.store.reference import as_seen


def to_load(services: Services, installation: Installation) -> tuple[Path, Trust]:
    """The model's folder, its one file, or its name at Ollama; and what a person allowed of this revision, once its
    files are found to ask for no more than that.

    Raises:
        Conflict: code `model_changed`; it is in place, and other than it was when it was scanned.
        Unsafe, Corrupt, Invalid: see `check_loadable`.
    """
    place, files = _place(services, installation)
    with services.database.reading() as session:
        trusted = trust.grants(session, installation.model_id).of(installation.revision)
    check_loadable(files, trusted)
    return place, trusted


def _place(services: Services, installation: Installation) -> tuple[Path, dict[str, Path]]:
    """Where it is, and its files by name; those that Ollama holds are no business of ours."""
    if installation.holder == Holder.OLLAMA:
        return Path(installation.path), {}
    if installation.holder == Holder.FOLDER:
        return Path(installation.path), as_seen(installation.path, installation.seen or {})
    folder = services.layout.published(installation.model_type, installation.model_id, installation.revision)
    return folder, files_of(folder)
