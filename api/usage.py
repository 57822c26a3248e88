"""How models are used: counted here as their answers end, written down every second, and told."""

import threading
from collections import deque
from datetime import UTC, date, datetime, timedelta

import structlog
from pydantic import Field

from api.views import View
from shared.db import catalog, usage
from shared.db.session import Database
from shared.db.usage import DAY_SECONDS, Usage, Use
from shared.errors import ModelyardError

log = structlog.get_logger()

WRITE_SECONDS = 1.0
CLOSE_SECONDS = 10.0
MOST_WAITING = 100_000
"""Uses that are kept while the database is away; older ones are forgotten."""


class Meter:
    """Counts uses for the database from one thread of its own: no request waits for that.

    What was counted within the last second is lost where this process is killed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[Use] = deque(maxlen=MOST_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def note(self, use: Use) -> None:
        self._waiting.append(use)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write down what still waits."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(WRITE_SECONDS)
            uses = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if uses and not self._written(uses):
                self._waiting.extendleft(reversed(uses))

    def _written(self, uses: list[Use]) -> bool:
        try:
            with self._database.session() as session:
                usage.record(session, uses)
        except ModelyardError as error:
            log.warning("usage.unwritten", code=error.code, uses=len(uses))
            return False
        except Exception:
            log.exception("usage.lost", uses=len(uses))
        return True


class UsageView(View):
    """Of some days; seconds are from the request to the last byte of its answer, with the wait for the model."""

    uses: int
    failures: int = Field(description="Of these, those that ended in an error of the model's runner.")
    uses_per_day: float = Field(
        description="Over the days asked for, or since the model was entered where that is less."
    )
    last_used_at: datetime | None = None
    mean_seconds: float | None = None
    p95_seconds: float | None = Field(None, description="To a twentieth.")


class DayView(View):
    day: date
    uses: int
    failures: int
    mean_seconds: float | None


class ModelUsage(UsageView):
    model_id: str
    model_type: str | None = Field(description="Null of a model that is in the registry no more.")
    history: list[DayView] = Field(description="The days on which it was used, in UTC; the oldest first.")


class UsagePage(View):
    days: int
    models: list[ModelUsage] = Field(description="The most used first.")
    types: dict[str, UsageView]


def told(database: Database, days: int, model_id: str | None = None) -> UsagePage:
    """What was used within these days; of one model also where it was not.

    Raises:
        NotFound: no such model.
    """
    with database.reading() as session:
        if model_id is not None:
            catalog.get_model(session, model_id)
        found = dict(usage.since(session, days, model_id))
        known = catalog.ages(session, [model_id] if model_id is not None else list(found))
    if model_id is not None:
        found.setdefault(model_id, {})
    models: list[ModelUsage] = []
    types: dict[str, list[Usage]] = {}
    for name, by_day in found.items():
        type_, age = known.get(name, (None, None))
        there = age if age is not None else (max(by_day, default=0) - min(by_day, default=0) + 1) * DAY_SECONDS
        whole = usage.total(by_day.values())
        models.append(ModelUsage(
            model_id=name, model_type=type_, history=_history(by_day), **_fields(whole, days, there)
        ))  # fmt: skip
        if type_ is not None:
            types.setdefault(type_, []).append(whole)
    models.sort(key=lambda each: (-each.uses, each.model_id))
    of_types = {
        name: UsageView(**_fields(usage.total(each), days, days * DAY_SECONDS)) for name, each in sorted(types.items())
    }
    return UsagePage(days=days, models=models, types=of_types)


def _fields(whole: Usage, days: int, age: float) -> dict[str, int | float | datetime | None]:
    last = datetime.fromtimestamp(whole.last_used_at, UTC) if whole.last_used_at else None
    return {
        "uses": whole.uses, "failures": whole.failures, "uses_per_day": usage.per_day(whole.uses, age, days),
        "last_used_at": last, "mean_seconds": whole.mean_seconds, "p95_seconds": whole.percentile(0.95),
    }  # fmt: skip


def _history(by_day: dict[int, Usage]) -> list[DayView]:
    return [
        DayView(
            day=date(1970, 1, 1) + timedelta(days=number), uses=day.uses, failures=day.failures,
            mean_seconds=day.mean_seconds,
        )
        for number, day in sorted(by_day.items())
    ]  # fmt: skip
