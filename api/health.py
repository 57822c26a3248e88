"""How a model is, as its checks have left it: states, scores with their age, and what to do."""

import statistics
from datetime import datetime
from typing import Literal

from pydantic import Field

from api.views import View, moment, view_model
from shared import health as policy
from shared.db import catalog
from shared.db.facts import Facts
from shared.db.reports import ModelHealth
from shared.db.session import Database
from shared.db.tables import Installation, Model
from shared.states import Health, HealthLevel


class CheckView(View):
    """When it was last looked at so closely."""

    at: datetime | None
    age_seconds: float | None


class AdviceView(View):
    code: str
    message: str
    command: str = Field(description="What to type.")


class ReasonView(View):
    code: str
    message: str
    hint: str = ""


class HealthView(View):
    """What is known without looking; `POST` looks."""

    model_id: str
    health: Health
    since: datetime | None = Field(None, description="When its checks brought it there.")
    corrupted: bool = Field(description="Its files are not what was published; it is not loaded until repaired.")
    integrity: float | None = Field(None, description="Proven bytes / expected bytes at the last verify.")
    performance: float | None = Field(
        None, description="How fast it is beside how fast it usually is, 0 to 1; null before anything was measured."
    )
    load_state: str | None = Field(None, description="As in the model.")
    checks: dict[HealthLevel, CheckView]
    reasons: list[ReasonView] = Field(description="What its last check found wrong.")
    recommendations: list[AdviceView] = Field(description="The most urgent first.")
    recent: list[Literal["well", "failed"]] = Field(description="Its last answers; the newest last.")
    usual_answer_seconds: float | None = Field(None, description="To the tiny question of a live check.")
    last_answer_seconds: float | None = None
    usual_load_seconds: float | None = None
    last_load_seconds: float | None = None


def health_now(database: Database, model_id: str) -> HealthView:
    """Raises: NotFound."""
    with database.reading() as session:
        model = catalog.get_model(session, model_id)
        facts = Facts(session, [model_id])
    known, row, health = view_model(model, facts), facts.checks_of(model_id), facts.health(model_id)
    checked, asked = (row.checked_at, row.live_at) if row else (None, None)
    proven = known.verified_at.timestamp() if known.verified_at else None
    return HealthView(
        model_id=model_id, health=health, since=moment(row.since) if row else None,
        corrupted=health is Health.CORRUPTED, integrity=known.integrity,
        performance=facts.performance(model_id), load_state=known.load_state,
        checks={
            HealthLevel.CHEAP: _check(max(checked or 0.0, proven or 0.0) or None, facts.at),
            HealthLevel.DEEP: _check(proven, facts.at), HealthLevel.LIVE: _check(asked, facts.at),
        },
        reasons=[ReasonView.model_validate(each) for each in (row.reasons if row else [])],
        recommendations=[AdviceView(**each._asdict()) for each in _advice(model, facts, proven)],
        recent=["well" if each else "failed" for each in (row.outcomes if row else [])],
        **_times(row),
    )  # fmt: skip


def _check(at: float | None, now: float) -> CheckView:
    return CheckView(at=moment(at), age_seconds=None if at is None else max(0.0, now - at))


def _times(row: ModelHealth | None) -> dict[str, float]:
    if row is None:
        return {}
    usual = {"usual_answer_seconds": row.answers, "usual_load_seconds": row.loads}
    last = {"last_answer_seconds": row.latest, "last_load_seconds": row.loads}
    return {
        **{name: statistics.median(each) for name, each in usual.items() if each},
        **{name: each[-1] for name, each in last.items() if each},
    }


def _advice(model: Model, facts: Facts, proven: float | None) -> list[policy.Advice]:
    installation: Installation | None = facts.installations.get(model.id)
    if installation is None:
        return [policy.Advice("not_installed", "It is not on disk.", f"modelyard pull {model.id}")]
    row, used = facts.checks_of(model.id), facts.usage.get(model.id)
    latest = installation.latest_revision
    return policy.advise(policy.Seen(
        model_id=model.id, health=facts.health(model.id), ours=installation.owned, findings=len(installation.problems),
        reasons=row.reasons if row else [], proven=None if proven is None else facts.at - proven,
        performance=facts.performance(model.id), uses=used.uses if used else 0, failures=used.failures if used else 0,
        unverified=installation.unverified, newer=latest not in (None, installation.revision),
    ))  # fmt: skip
