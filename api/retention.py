"""The retention policy and what it lets go, as they go over the wire."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from api.bodies import Body
from api.views import PriorityName, View
from shared.contract import ModelId
from shared.retention import Decision, Hold, Policy, Reason

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
    kept: list[KeptView] = Field(description="What would leave, but for what holds it.")


def view_policy(policy: Policy, changed: dict[str, Any], check_days: float) -> RetentionView:
    told = policy.model_dump()
    return RetentionView(**told, changed=sorted(RetentionView.model_fields[name].alias or name for name in changed),
                         check_days=check_days)  # fmt: skip


def view_decision(decision: Decision) -> CleanupView:
    return CleanupView.model_validate(decision.to_dict())
