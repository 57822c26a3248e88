"""What people allowed their models to bring along, as rows."""

from sqlalchemy import Boolean, Column, Float, false
from sqlmodel import Field, Session, SQLModel, col, delete, select

from shared.db.session import now
from shared.trust import Grants, Trust


class TrustGrant(SQLModel, table=True):
    """What a person allowed one revision of a model to bring along; see `shared/trust.py`."""

    __tablename__ = "trust_grants"

    model_id: str = Field(primary_key=True, max_length=96)
    revision: str = Field(primary_key=True, max_length=200)
    allow_pickle: bool
    allow_remote_code: bool
    allow_unverified: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    granted_by: str
    """Where the request came from, and whether it carried the key."""
    granted_at: float = Field(sa_column=Column(Float(53), nullable=False))


def grants(session: Session, model_id: str) -> Grants:
    """Everything that is allowed for a model now."""
    rows = session.exec(select(TrustGrant).where(col(TrustGrant.model_id) == model_id)).all()
    return Grants(
        model_id,
        {
            row.revision: Trust(model_id, row.revision, row.allow_pickle, row.allow_remote_code, row.allow_unverified)
            for row in rows
        },
    )


def of_models(session: Session, model_ids: list[str]) -> dict[str, list[TrustGrant]]:
    """The rows of a page of models, newest first, by model."""
    query = (
        select(TrustGrant).where(col(TrustGrant.model_id).in_(model_ids)).order_by(col(TrustGrant.granted_at).desc())
    )
    found: dict[str, list[TrustGrant]] = {}
    for row in session.exec(query).all():
        found.setdefault(row.model_id, []).append(row)
    return found


def decide(session: Session, trust: Trust, granted_by: str) -> None:
    """From now on this much is allowed for that revision; nothing takes the row away."""
    of_revision = (col(TrustGrant.model_id) == trust.model_id, col(TrustGrant.revision) == trust.revision)
    session.exec(delete(TrustGrant).where(*of_revision))
    if trust.pickle or trust.remote_code or trust.unverified:
        session.add(
            TrustGrant(
                model_id=trust.model_id, revision=trust.revision, granted_by=granted_by,
                allow_pickle=trust.pickle, allow_remote_code=trust.remote_code,
                allow_unverified=trust.unverified,
                granted_at=session.exec(select(now())).one(),
            )
        )  # fmt: skip


def forget(session: Session, model_id: str) -> None:
    """A model that comes again under the same id is another one."""
    session.exec(delete(TrustGrant).where(col(TrustGrant.model_id) == model_id))
