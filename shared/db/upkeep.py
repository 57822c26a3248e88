"""What keeps the store in health, as rows: who is to be scrubbed or asked for updates next, and what a store holds."""

from typing import Any

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from shared.contracts import HealthCheck, Repair, Scrub, UpdateCheck
from shared.db import catalog, nodes
from shared.db.jobs import live
from shared.db.reports import StoreReport
from shared.db.session import now
from shared.db.tables import Installation, Job, Model
from shared.errors import Conflict, NotFound, Snooze
from shared.refs import SourceKind
from shared.states import LIVE, Holder, InstallationState, JobState, ResidencyState

HARMLESS = (Scrub.kind, HealthCheck.kind, UpdateCheck.kind)
"""They only look, and find nothing to say about a model that is gone."""


def next_to_scrub(session: Session, seconds: float) -> Installation | None:
    """The whole model of the store that was proven longest ago, if that is `seconds` ago and no scrub is under way."""
    if session.exec(select(Job.id).where(col(Job.kind) == Scrub.kind, col(Job.state).in_(LIVE)).limit(1)).first():
        return None
    query = select(Installation).where(
        col(Installation.holder) == Holder.STORE, col(Installation.state) == InstallationState.PUBLISHED,
        col(Installation.verified_at) < now() - seconds,
    )  # fmt: skip
    return session.exec(query.order_by(col(Installation.verified_at)).limit(1)).first()


def repair_failed(session: Session, model_id: str, seconds: float) -> bool:
    """Was the last repair of the model, within so long, of no use?"""
    query = select(Job.state, now() - col(Job.finished_at)).where(Job.kind == Repair.kind, Job.model_id == model_id)
    last = session.exec(query.order_by(col(Job.created_at).desc()).limit(1)).first()
    return last is not None and last[0] in (JobState.FAILED, JobState.CANCELLED) and last[1] < seconds


def scrubbed_to(session: Session, model_id: str, revision: str, name: str) -> None:
    """A scrub of that revision has proven its files up to this one."""
    session.exec(update(Installation).where(*_of(model_id, revision)).values(scrubbed_to=name))


def scrubbed(session: Session, before: Installation) -> bool:
    """A scrub has proven all of it, since `before` was read. False: a verify has had its own word meanwhile."""
    unchanged = (
        *_of(before.model_id, before.revision), col(Installation.state) == InstallationState.PUBLISHED,
        col(Installation.verified_at) == before.verified_at,
    )  # fmt: skip
    proven = {"integrity": 1.0, "problems": [], "verified_at": now(), "scrubbed_to": None}
    return session.exec(update(Installation).where(*unchanged).values(**proven)).rowcount == 1


def next_to_ask(session: Session, seconds: float) -> Installation | None:
    """The model of the store whose source was asked for a newer revision longest ago, if that is so long ago."""
    asked = col(Installation.update_checked_at)
    query = (
        select(Installation)
        .join(Model, col(Model.id) == col(Installation.model_id))
        .where(
            col(Installation.holder) == Holder.STORE, col(Model.source).in_([SourceKind.HUGGINGFACE, SourceKind.URL]),
            asked.is_(None) | (asked < now() - seconds),
        )
    )  # fmt: skip
    return session.exec(query.order_by(asked.is_not(None), asked).limit(1)).first()


def asked_for_update(session: Session, model_id: str, latest: str) -> None:
    """What its source offers now."""
    session.exec(
        update(Installation)
        .where(col(Installation.model_id) == model_id)
        .values(latest_revision=latest, update_checked_at=now())
    )


def keep_for_rollback(session: Session, model_id: str, revision: str | None) -> None:
    """That revision lies in the store beside the one that serves; None: none does."""
    session.exec(update(Installation).where(col(Installation.model_id) == model_id).values(previous_revision=revision))


def previous(session: Session, model_id: str) -> Installation:
    """The installation of a model that can be rolled back.

    Raises:
        Conflict: `model_not_installed`, `nothing_to_roll_back_to`.
    """
    found = session.get(Installation, model_id)
    if found is None:
        raise Conflict("model_not_installed", f"Model {model_id!r} is not on disk.", f"modelyard pull {model_id}")
    if found.previous_revision is None:
        raise Conflict(
            "nothing_to_roll_back_to", f"No earlier revision of {model_id!r} is kept.",
            "An update keeps one, unless MODELYARD_STORE__KEEP_PREVIOUS is off.",
        )  # fmt: skip
    return found


def kept(session: Session, store: str) -> dict[str, list[tuple[str, str]]]:
    """By model of a store, type and revision of what may lie there: what serves, and what is kept for a rollback."""
    mine = (col(Installation.holder) == Holder.STORE) & nodes.lies_in(store)
    rows = session.exec(select(Installation).where(mine)).all()
    return {
        row.model_id: [(row.model_type, found) for found in (row.revision, row.previous_revision) if found is not None]
        for row in rows
    }


def count_kept(session: Session) -> int:
    """How many models all stores have."""
    return session.exec(select(func.count()).where(col(Installation.holder) == Holder.STORE)).one()


def put_report(session: Session, store: str, node: str, report: dict[str, Any]) -> None:
    """What was found in a store just now."""
    clock = session.exec(select(now())).one()
    session.merge(StoreReport(store=store, node=node, there=True, report=report, measured_at=clock))


def report_away(session: Session, node: str) -> None:
    """The disk of this machine's store is not there; what was known of it stays."""
    session.exec(update(StoreReport).where(col(StoreReport.node) == node).values(there=False))


def reports(session: Session) -> list[StoreReport]:
    """The last report of every store."""
    return list(session.exec(select(StoreReport).order_by(col(StoreReport.measured_at).desc())).all())


def disk_free(session: Session) -> int | None:
    """Bytes left on a store's disk, of several the emptiest; None before a worker has looked."""
    return max((row.report["diskFree"] for row in reports(session) if "diskFree" in row.report), default=None)


def store_of_trash(session: Session, name: str) -> str | None:
    """The store whose trash has something of that name, as the last reports tell."""
    holds = (row.store for row in reports(session) for entry in row.report.get("trashed", []) if entry["id"] == name)
    return next(holds, None)


def trash_entry(session: Session, name: str) -> dict[str, Any]:
    """Something in a store's trash, as the last report has it.

    Raises:
        NotFound
        Conflict: code `not_restorable`.
    """
    for row in reports(session):
        for entry in row.report.get("trashed", []):
            if entry["id"] == name:
                if not entry["restorable"]:
                    raise Conflict(
                        "not_restorable", "This folder was replaced by a repaired one of the same revision.",
                        "It goes when its grace time ends.",
                    )  # fmt: skip
                return dict(entry)
    raise NotFound("trash_not_found", "There is no such thing in the trash.", "`modelyard trash` lists it.")


def _of(model_id: str, revision: str) -> tuple[Any, Any]:
    return col(Installation.model_id) == model_id, col(Installation.revision) == revision


def refuse_if_used(session: Session, model_id: str, job_id: str) -> None:
    """A model can be removed by that job.

    Raises:
        Conflict: it is in memory.
        Snooze: another job works on it.
    """
    if any(row.state != ResidencyState.ASLEEP for row in catalog.residencies(session, [model_id])):
        raise Conflict("model_in_use", "The model is in memory.", f"First: modelyard unload {model_id}.")
    others = [job.id for job in live(session, [model_id]) if job.id != job_id and job.kind not in HARMLESS]
    if others:
        raise Snooze(2, f"waits for job {others[0]} of the same model")
