"""What is to be brought, as rows tell: pages of what is damaged or missing, and how much each matters."""

from collections.abc import Iterator

from shared.db import listing
from shared.db.facts import Facts
from shared.db.session import Database
from shared.order import Policy, Standing, Step, download_order
from shared.refs import SourceKind
from shared.states import Availability, Holder

PAGE = 500


def steps(database: Database, policy: Policy) -> list[Step]:
    """In order, the first first. No page is read in the transaction of another."""
    return download_order(_standings(database), policy) if policy is not Policy.OFF else []


def _standings(database: Database) -> Iterator[Standing]:
    for status in (Availability.CORRUPTED, Availability.MISSING):
        after: str | None = None
        while True:
            with database.reading() as session:
                models = listing.page(session, listing.Wanted(status=status, enabled=True), after, PAGE)
                facts = Facts(session, [model.id for model in models])
            for model in models:
                row, used = facts.installations.get(model.id), facts.usage.get(model.id)
                yield Standing(
                    model.id, facts.availability(model.id), facts.priority(model), facts.uses_per_day(model),
                    enabled=model.enabled, wanted=facts.wanted(model),
                    repairable=row is not None and row.holder != Holder.FOLDER,
                    fetchable=model.source != SourceKind.FILE, last_used_at=used.last_used_at if used else None,
                    size=row.size if row is not None else (model.remote or {}).get("size") or model.file_size,
                )  # fmt: skip
            if len(models) < PAGE:
                break
            after = models[-1].id
