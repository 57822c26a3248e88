"""All models and the machine in figures."""

import threading
import time
from datetime import UTC, datetime

from pydantic import Field

from api.hardware import DeviceView, OptimizationView, optimization, profile
from api.servers import servers_now
from api.storage import TOTALS
from api.views import View
from shared.db import devices, jobs, listing, upkeep
from shared.db.listing import Counts
from shared.db.reports import StoreReport
from shared.db.session import Database
from shared.errors import Unavailable
from shared.states import Availability, JobState, Tier

FAILED_WITHIN = 86_400.0
"""Seconds: jobs that failed longer ago are not counted any more."""
FRESH_SECONDS = 1.0
"""So old may a summary be: what is counted over the whole registry is counted once, however many pages ask."""


class StorageSummary(View):
    """Of all stores together, as workers last saw them. Bytes; GET /models/storage/info tells more."""

    disk_total: int
    disk_used: int
    disk_free: int
    models_size: int
    partials_size: int
    trash_size: int
    there: bool = Field(description="The disks of all stores are mounted.")


class ServerSummary(View):
    total_servers: int
    ready_servers: int
    failed_servers: int
    ready: bool


class JobSummary(View):
    queued: int
    running: int
    paused: int
    failed: int = Field(description="Within a day.")


class HealthSummary(View):
    """GET /models/status tells it of each model."""

    corrupted_models: int
    unhealthy_models: int = Field(description="Whole, and their last answers were none, or came far too late.")
    lowest_integrity: float | None = Field(description="Of what is installed, at its last verify.")


class Summary(View):
    """What nobody has reported yet is null."""

    at: datetime
    total_models: int
    available_models: int
    enabled_models: int
    loaded_models: int = Field(description="In memory, or meant to be.")
    active_models: int = Field(description="Each serves a type.")
    updates_available: int
    installed_bytes: int = Field(description="As the files are long; what models share is counted for each.")
    by_status: dict[Availability, int]
    by_type: dict[str, int]
    by_tier: dict[Tier, int]
    jobs: JobSummary
    servers: ServerSummary
    health: HealthSummary
    storage: StorageSummary | None
    devices: list[DeviceView]
    optimization: list[OptimizationView]


class Summaries:
    """The summary as it was within `FRESH_SECONDS`; `at` says when."""

    def __init__(self, database: Database, context_length: int) -> None:
        self._database = database
        self._context_length = context_length
        self._counting = threading.Lock()
        self._last: Summary | None = None
        self._counted_at = 0.0

    def latest(self) -> Summary:
        """Whoever asks while it is being counted waits for that, and counts nothing."""
        with self._counting:
            began = time.monotonic()
            if self._last is None or began - self._counted_at >= FRESH_SECONDS:
                self._last, self._counted_at = summary(self._database, self._context_length), began
            return self._last


def summary(database: Database, context_length: int) -> Summary:
    """A bounded number of queries, however many models there are."""
    with database.reading() as session:
        counted, reports, clock = listing.counts(session), upkeep.reports(session), devices.clock(session)
        working = jobs.counts(session, FAILED_WITHIN)
    servers = servers_now(database)
    try:
        machine, settings = profile(database).devices, optimization(database, context_length).devices
    except Unavailable:  # no device worker has reported yet
        machine, settings = [], []
    return Summary(
        at=datetime.fromtimestamp(clock, UTC), **_models(counted),
        jobs=JobSummary(**{state.value: working[state] for state in SHOWN}),
        servers=ServerSummary.model_validate(servers, from_attributes=True), storage=_storage(reports),
        health=HealthSummary(
            corrupted_models=counted.by_status[Availability.CORRUPTED], unhealthy_models=counted.unhealthy,
            lowest_integrity=counted.lowest_integrity,
        ),
        devices=machine, optimization=settings,
    )  # fmt: skip


SHOWN = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.FAILED)


def _models(counted: Counts) -> dict[str, object]:
    usable = counted.by_status[Availability.AVAILABLE] + counted.by_status[Availability.UPDATING]
    return {
        "total_models": counted.models, "available_models": usable, "enabled_models": counted.enabled,
        "loaded_models": counted.in_memory, "active_models": counted.active,
        "updates_available": counted.updates_available, "installed_bytes": counted.installed_bytes,
        "by_status": {status: counted.by_status[status] for status in Availability},
        "by_type": dict(counted.by_type), "by_tier": {tier: counted.by_tier[tier] for tier in Tier},
    }  # fmt: skip


def _storage(reports: list[StoreReport]) -> StorageSummary | None:
    if not reports:
        return None
    totals = {name: sum(row.report.get(name, 0) for row in reports) for name in TOTALS}
    return StorageSummary.model_validate({**totals, "there": all(row.there for row in reports)})
