"""The retention policy and what it lets go, as they go over the wire."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, Self

from pydantic import ConfigDict, Field, model_validator

from api.bodies import Body, Node
from api.cursor import encode_cursor
from api.views import PriorityName, View
from shared.contract import ModelId
from shared.retention import Decision, Hold, Policy, Reason, Verdict

Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]


class RetentionBody(Body):
    """What is to count in place of the settings (MODELYARD_RETENTION__…); what is left out counts as they say."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"maxUnusedDays": 14, "automatic": True}]})

    max_unused_days: Annotated[Days, Field(description="Nobody has used it for so long.")] | None = None
    max_storage_usage_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    min_usage_frequency: Annotated[float, Field(ge=0, le=1e6, description="Uses a day.")] | None = None
    preserve_recently_downloaded: bool | None = None
    recent_days: Annotated[float, Field(ge=0, le=36_500)] | None = None
    preserve_high_priority: bool | None = None
    automatic: Annotated[bool, Field(description="The scheduled look cleans up.")] | None = None

    def changes(self) -> dict[str, Any]:
        """By the names of `Policy`; numbers as it takes them."""
        told = self.model_dump(exclude_none=True)
        return {name: value if isinstance(value, bool) else float(value) for name, value in told.items()}


class RetentionView(View):
    """What counts now."""

    max_unused_days: float
    max_storage_usage_percent: float
    min_usage_frequency: float
    preserve_recently_downloaded: bool
    recent_days: float
    preserve_high_priority: bool
    automatic: bool
    changed: list[str] = Field(description="Of these, what somebody set here; the others are as the settings say.")
    check_days: float = Field(description="Days between two scheduled looks (MODELYARD_RETENTION__CHECK_DAYS).")


class CleanupBody(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"dryRun": True}, {"models": ["qwen3-0.6b"]}]})

    dry_run: Annotated[bool, Field(description="Only say what the same cleanup would do now.")] = False
    models: Annotated[
        list[ModelId], Field(min_length=1, max_length=1000, description="None but these.")
    ] | None = None  # fmt: skip
    node: Node | None = None


class DiskView(View):
    """Of the store, in bytes, as a worker last saw it."""

    total: int
    used: int
    leaves_with_trash: int = Field(description="What lies in the trash, and is counted as free already.")
    over: int = Field(description="Above the share of the disk that the policy allows.")
    used_after: int = Field(description="Once what is recommended has left and the trash is empty.")


class StoredView(View):
    """A model of the store as the policy sees it."""

    model_id: str
    model_type: str
    revision: str
    size: int
    came_at: datetime
    last_used_at: datetime | None
    uses_per_day: float = Field(description="Within thirty days.")
    idle_days: float = Field(description="Since it was used, or came.")
    priority: PriorityName
    fetch_seconds: float = Field(description="What it would cost to have it again.")
    value: float | None = Field(
        description="fetchSeconds / (idleDays × GiB): the least goes first. Null where it takes no room."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_seconds(cls, told: dict[str, Any]) -> dict[str, Any]:
        """Times are seconds in what a decision tells."""
        times = {name: told[name] for name in ("cameAt", "lastUsedAt")}
        return told | {
            name: None if at is None else datetime.fromtimestamp(at, UTC) for name, at in times.items()
        }  # fmt: skip


class RecommendedView(StoredView):
    reason: Reason = Field(description="unused: for as long as the policy says; storage: the disk is too full.")
    frees: int = Field(description="Bytes that go with it once those before it are gone.")


class KeptView(StoredView):
    holds: list[Hold] = Field(description="Why it stays.")


class CleanupView(View):
    """What a cleanup would do now, and what it would not."""

    policy: dict[str, Any]
    disk: DiskView | None = Field(description="Null before a worker has looked.")
    frees: int = Field(description="Bytes that are free once all of these have left and the trash is empty.")
    recommendations: list[RecommendedView] = Field(description="What is worth least goes first.")
    kept: list[KeptView] = Field(description="What would leave, but for what holds it; after all recommendations.")
    total_recommendations: int = Field(description="On all pages.")
    total_kept: int = Field(description="On all pages.")
    next_cursor: str | None = None


def view_policy(policy: Policy, changed: dict[str, Any], check_days: float) -> RetentionView:
    told = policy.model_dump()
    return RetentionView(**told, changed=sorted(RetentionView.model_fields[name].alias or name for name in changed),
                         check_days=check_days)  # fmt: skip


class Place(NamedTuple):
    """Where a page of a cleanup ended, and the moment that all pages are of: what a model is worth falls by time."""

    at: float
    """Seconds since 1970."""
    kept: int
    """0: among the recommendations; 1: among those that stay."""
    value: float
    model_id: str

    @classmethod
    def of(cls, at: float, kept: int, verdict: Verdict) -> Self:
        return cls(at, kept, min(verdict.value, sys.float_info.max), verdict.model.model_id)


def view_decision(decision: Decision, at: float, after: Place | None, limit: int) -> CleanupView:
    """A page of it.

    Args:
        at: seconds since 1970, for which it was decided.
    """
    told = decision.to_dict()
    leaving = [
        (Place.of(at, 0, each.verdict), shown)
        for each, shown in zip(decision.leave, told["recommendations"], strict=True)
    ]
    staying = [(Place.of(at, 1, each), shown) for each, shown in zip(decision.kept, told["kept"], strict=True)]
    page = [one for one in (*leaving, *staying) if after is None or one[0] > after][:limit]
    lists = [[shown for place, shown in page if place.kept == kept] for kept in (0, 1)]
    return CleanupView.model_validate({
        **told, "recommendations": lists[0], "kept": lists[1], "totalRecommendations": len(leaving),
        "totalKept": len(staying), "nextCursor": encode_cursor(*page[-1][0]) if len(page) == limit else None,
    })  # fmt: skip
