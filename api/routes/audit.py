"""The audit log: who changed what, in rows that carry the hash of the one before."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, Field

from api.bodies import Body
from api.cursor import Cursor, decode_cursor, encode_cursor
from api.deps import FrontDep
from api.views import View
from shared.contract import Sha256
from shared.db import audit

router = APIRouter(tags=["audit"])


class AuditRow(View):
    seq: int
    at: str = Field(description="RFC 3339, with six digits.")
    action: str
    target: str | None
    origin: str
    role: str | None = Field(description="Of the key; `open`: nobody has one; null: it was no request.")
    key: str | None = Field(description="Name of the key, and the beginning of its sha256.")
    address: str | None
    details: dict[str, Any]
    previous: str = Field(description="Hash of the row before; 64 zeros in the first.")
    hash: str = Field(description="sha256 of this row's JSON without `hash`: keys sorted, no spaces, UTF-8.")

    @classmethod
    def of(cls, entry: audit.AuditEntry) -> Self:
        return cls(**audit.told(entry), hash=entry.hash)


class AuditPage(View):
    entries: list[AuditRow]
    next_cursor: str | None = None


class ArchiveBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"hash": "0" * 64}]})

    hash: Annotated[Sha256, Field(description="Of the last row that may go: whoever has that one has those before it.")]


class Archived(View):
    removed: int


@router.get("/audit", summary="Who changed what")
def list_audit(
    front: FrontDep,
    action: Annotated[
        str | None, Query(max_length=64, description="Such as `model.remove`, or `limit` for all of limits.")
    ] = None,
    target: Annotated[str | None, Query(max_length=255, description="A model's id, a limit's name.")] = None,
    origin: Annotated[str | None, Query(max_length=32, description="`rest`, `foreign`, `schedule`.")] = None,
    forward: Annotated[bool, Query(description="From the first row on, to check the chain.")] = False,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AuditPage:
    """Newest first. `modelyard audit verify` checks that no row was changed, added or taken away."""
    beyond = decode_cursor(cursor, int)[0] if cursor else None
    with front.database.reading() as session:
        found = audit.entries(
            session, action=action, target=target, origin=origin, beyond=beyond, forward=forward, limit=limit
        )
    more = encode_cursor(found[-1].seq) if len(found) == limit else None
    return AuditPage(entries=[AuditRow.of(entry) for entry in found], next_cursor=more)


@router.post("/audit/{seq}/archive", summary="Take exported rows out of the audit log")
def archive_log(front: FrontDep, seq: Annotated[int, Path(ge=1, lt=2**63)], body: ArchiveBody) -> Archived:
    """All up to this one, whose hash shows that they were exported. The log goes on from that hash, and says so."""
    with front.database.session() as session:
        return Archived(removed=audit.archive(session, seq, body.hash))
