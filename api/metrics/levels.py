"""How it is at this moment, as families of metrics: what the rows say, what Redis says, what this process knows."""

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Protocol

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from api.events.subscriber import Places
from api.metrics.names import METRICS
from shared.db import metrics
from shared.db.devices import AWAY_SECONDS
from shared.db.metrics import Levels
from shared.db.reports import Device, StoreReport
from shared.db.session import Database
from shared.errors import ModelyardError
from shared.progress import Leases, Workers
from shared.queues import IO, device_lane
from shared.states import IN_MEMORY, Availability, Health, Priority

MODELS_SHOWN = 100
TOLD = {
    "modelyard_device_memory_free_bytes": "memoryFree",
    "modelyard_device_memory_limit_bytes": "memoryLimit",
    "modelyard_device_utilization_ratio": "utilisation",
    "modelyard_device_temperature_celsius": "temperature",
    "modelyard_device_power_watts": "power",
}
"""Where in a device's details a metric is, if its machine tells."""
MEASURED = {
    "modelyard_store_disk_bytes": "diskTotal",
    "modelyard_store_disk_free_bytes": "diskFree",
    "modelyard_store_models_bytes": "modelsSize",
    "modelyard_store_shared_bytes": "sharedBytes",
    "modelyard_store_partials_bytes": "partialsSize",
    "modelyard_store_trash_bytes": "trashSize",
}
Values = Mapping[Any, float]
"""By the values of the labels: several, one alone, or none."""


class Streams(Protocol):
    """What is asked of `EventHub`."""

    places: Places
    heard: int


class Requests(Protocol):
    """What is asked of `Gateway`."""

    @property
    def held(self) -> int: ...


def of_process(hub: Streams, gateway: Requests, most_streams: int) -> Iterator[Family]:
    """What this process knows by itself."""
    yield family("modelyard_build_info", {(version("modelyard"), platform.python_version()): 1})
    yield family("modelyard_event_streams", {(): hub.places.taken})
    yield family("modelyard_event_streams_limit", {(): most_streams})
    yield family("modelyard_events_total", {(): hub.heard})
    yield family("modelyard_gateway_held_requests", {(): gateway.held})


def look(database: Database) -> Levels | None:
    """What the rows say; None where the database does not answer."""
    try:
        with database.reading() as session:
            return metrics.levels(session)
    except ModelyardError:
        return None


def of_redis(found: Levels | None, workers: Workers, leases: Leases) -> Iterator[Family]:
    """Who is at work, and who holds what."""
    held = {row.id: row.device for row in found.residencies if row.state in IN_MEMORY} if found else {}
    try:
        alive, beat = workers.alive(), workers.beat_at()
        counts = leases.counts(list(held)) if held else {}
    except redis.RedisError:
        yield family("modelyard_redis_up", {(): 0})
        return
    yield family("modelyard_redis_up", {(): 1})
    yield family("modelyard_beat_last_seen_timestamp_seconds", {(): beat})
    yield family("modelyard_lane_workers", {lane: alive[lane] for lane in {*alive, *_lanes(found)}})
    by_device = Counter({row.id: 0 for row in found.devices}) if found else Counter[str]()
    for residency_id, count in counts.items():
        by_device[held[residency_id]] += count
    yield family("modelyard_leases", by_device)


def of_rows(found: Levels) -> Iterator[Family]:
    """What the database says."""
    yield family("modelyard_jobs", found.jobs)
    depths = {(lane, priority.name): 0.0 for lane in _lanes(found) for priority in Priority}
    ages = dict(depths)
    for each in found.waiting:
        key = (each.lane, Priority(each.urgency).name)
        depths[key], ages[key] = each.jobs, each.age
    yield family("modelyard_queue_jobs", depths)
    yield family("modelyard_queue_oldest_age_seconds", ages)
    yield family("modelyard_job_bytes_per_second", found.speeds)
    yield family("modelyard_schedule_last_turn_timestamp_seconds", found.turns)
    yield from _devices(found.devices, found.now)
    yield from _residents(found)
    yield from _models(found)
    yield from _stores(found.stores)
    yield family("modelyard_webhook_deliveries", found.deliveries)
    yield family("modelyard_webhook_oldest_pending_age_seconds", {(): found.pending_age})


def family(name: str, values: Values) -> Family:
    """As `METRICS` describes it."""
    described = METRICS[name]
    kind = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
    made = kind(name, described.help, labels=described.labels)
    for key, value in values.items():
        made.add_metric([key] if isinstance(key, str) else [str(part) for part in key], float(value))
    return made


def _lanes(found: Levels | None) -> set[str]:
    """Those that should have a worker."""
    return {IO, *(device_lane(row.id) for row in found.devices)} if found else {IO}


def _devices(rows: list[Device], moment: float) -> Iterator[Family]:
    alive = {(row.id, row.node, row.kind): moment - row.seen_at < AWAY_SECONDS for row in rows}
    yield family("modelyard_device_up", alive)
    yield family("modelyard_device_healthy", {row.id: bool(row.details.get("healthy", True)) for row in rows})
    yield family("modelyard_device_memory_bytes", {row.id: row.memory_total for row in rows})
    for name, key in TOLD.items():
        yield family(name, {row.id: row.details[key] for row in rows if row.details.get(key) is not None})


def _residents(found: Levels) -> Iterator[Family]:
    count, size = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    models, kept = Counter[tuple[str, str, str]](), Counter[str]()
    for row in found.residencies:
        count[row.device, row.state] += 1
        kept[row.device] += row.kept_bytes or 0
        if row.state in IN_MEMORY:
            size[row.device, row.state] += row.memory_bytes or 0
            models[row.device, row.model_id, row.state] += row.memory_bytes or 0
    yield family("modelyard_residencies", count)
    yield family("modelyard_resident_bytes", size)
    yield family("modelyard_kept_bytes", kept)
    yield family("modelyard_resident_model_bytes", dict(models.most_common(MODELS_SHOWN)))


def _models(found: Levels) -> Iterator[Family]:
    models = found.models
    yield family("modelyard_models", {status.value: models.by_status[status] for status in Availability})
    yield family("modelyard_models_enabled", {(): models.enabled})
    yield family("modelyard_models_active", {(): models.active})
    yield family("modelyard_models_outdated", {(): models.updates_available})
    yield family("modelyard_installed_models", {each.value: found.health[each] for each in Health})


def _stores(rows: list[StoreReport]) -> Iterator[Family]:
    yield family("modelyard_store_mounted", {(row.store, row.node): row.there for row in rows})
    measured = {(row.store, row.node): row.measured_at for row in rows}
    yield family("modelyard_store_measured_timestamp_seconds", measured)
    for name, key in MEASURED.items():
        yield family(name, {(row.store, row.node): row.report[key] for row in rows if key in row.report})
