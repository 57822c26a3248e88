"""What jobs do with models whose bytes are not in our store: each by who holds them."""

from typing import Any

from shared.db import catalog
from shared.db import elsewhere as rows
from shared.db.tables import Installation, Model
from shared.errors import Conflict
from shared.states import Holder, InstallationState, VerifyTier
from workers.elsewhere import in_ollama, in_place
from workers.job import Work


def verify(work: Work, found: Installation, tier: VerifyTier) -> dict[str, Any]:
    """Compare what is there with what is known of it, and record the outcome.

    Raises:
        Unavailable: its disk, or Ollama, is away; nothing is said about the model.
    """
    if found.holder == Holder.OLLAMA:
        with work.services.database.reading() as session:
            model = catalog.get_model(session, found.model_id)
        report, note = in_ollama.verify(work, model, found)
    else:
        report, note = in_place.verify(work, found, tier)
    gone = bool(report.missing) and report.score == 0
    with work.services.database.session() as session:
        if gone:
            rows.mark(session, found.model_id, found.revision, InstallationState.GONE)
        else:
            catalog.record_verify(
                session, found.model_id, found.revision, integrity=report.score, problems=report.findings(),
                full=tier != VerifyTier.STAT,
            )  # fmt: skip
    status = "missing" if gone else "available" if report.ok else "corrupted"
    if not report.ok or tier != VerifyTier.STAT:
        work.services.events.publish("model.state", modelId=found.model_id, status=status, revision=found.revision)
    return {**report.to_dict(), **({"note": note} if note else {})}


def look_before_load(work: Work, found: Installation) -> None:
    """Refuse to load what is other than it was, as far as a look shows; folders are looked at by who loads them.

    Raises:
        Conflict: code `model_gone`, or `model_changed`.
        Unavailable, Failed: Ollama is away, or too old.
    """
    if found.holder == Holder.OLLAMA:
        in_ollama.look(work, found)


def repair(work: Work, found: Installation) -> dict[str, Any]:
    """Have Ollama bring what it lacks; files of the user's are left alone.

    Raises:
        Conflict: code `not_ours`.
    """
    if found.holder != Holder.OLLAMA:
        raise Conflict(
            "not_ours",
            f"The files of {found.model_id!r} are used where you keep them, and are never written to.",
            f"Put the right files at {found.path}, then: modelyard scan.",
        )
    with work.services.database.reading() as session:
        model = catalog.get_model(session, found.model_id)
    return {**in_ollama.pull(work, model, found), "repaired": []}


def delete(work: Work, model: Model, found: Installation | None) -> dict[str, Any]:
    """The part of a remove that is not about our store. Answers what to tell of it.

    Raises:
        Unavailable: Ollama is away.
    """
    if found is None or found.holder == Holder.STORE:
        return {}
    if found.holder == Holder.OLLAMA:
        return {"deletedInOllama": in_ollama.delete(work, model, found)}
    return {"leftInPlace": found.path}
