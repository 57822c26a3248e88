"""What lists of models may be narrowed down to."""

from typing import Annotated

from fastapi import Depends, Query

from shared.db.listing import Wanted
from shared.refs import SourceKind
from shared.states import Availability, Tier


async def filters(
    type: Annotated[str | None, Query(max_length=32, description="Of this type.")] = None,  # noqa: A002 - its public name
    status: Annotated[Availability | None, Query(description="In this state.")] = None,
    tier: Annotated[Tier | None, Query(description="Of this tier.")] = None,
    source: Annotated[SourceKind | None, Query(description="From this source.")] = None,
    enabled: Annotated[bool | None, Query(description="Enabled, or not.")] = None,
    thinking: Annotated[bool | None, Query(description="Able to think before they answer, or not.")] = None,
    mode: Annotated[str | None, Query(max_length=32, description="Of this mode of generation, such as t2v.")] = None,
    text: Annotated[str | None, Query(max_length=100, description="In id or name.")] = None,
) -> Wanted:
    """Only models that fit all of these."""
    return Wanted(type, status, tier, source, enabled, thinking, mode, text)


Filters = Annotated[Wanted, Depends(filters)]
