"""Every metric by its name, for the answer, for docs/metrics.md, and for those who check dashboards and rules."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A family of series. Its name ends in its unit, that of a counter in `_total` as well."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    help: str

    def series(self) -> tuple[str, ...]:
        """The names under which its values are stored and asked for."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{suffix}" for suffix in ("bucket", "sum", "count"))


G: Literal["gauge"] = "gauge"
C: Literal["counter"] = "counter"
H: Literal["histogram"] = "histogram"
STORE = ("store", "node")

METRICS = {
    each.name: each
    for each in (
        # -- this process, and what it stands on
        Metric("modelyard_build_info", G, ("version", "python"), "Always 1."),
        Metric("modelyard_database_up", G, (), "1: the database answers. At 0 most other metrics are missing."),
        Metric("modelyard_redis_up", G, (), "1: Redis answers."),
        Metric("modelyard_scrape_duration_seconds", G, (), "How long this answer took to make."),
        # -- jobs
        Metric("modelyard_jobs", G, ("kind", "state"), "Jobs that have not ended: queued, running, paused."),
        Metric("modelyard_queue_jobs", G, ("lane", "priority"), "Queued jobs, also those whose time is to come."),
        Metric("modelyard_queue_oldest_age_seconds", G, ("lane", "priority"),
               "How long the oldest queued job that could start has waited; 0: there is none."),
        Metric("modelyard_lane_workers", G, ("lane",), "Workers that gave a sign of life within half a minute."),
        Metric("modelyard_job_bytes_per_second", G, ("kind",), "What the running jobs fetch, or read, together."),
        Metric("modelyard_jobs_ended_total", C, ("kind", "outcome"), "Jobs that ended, by how."),
        Metric("modelyard_job_duration_seconds", H, ("kind",),
               "From the last claim to the end of jobs that succeeded; of `model.switch` it is how long a swap takes."),
        Metric("modelyard_job_attempts_total", C, ("kind",), "Claims by workers, counted when the job ends."),
        Metric("modelyard_job_retries_total", C, ("kind",), "Attempts after an error, counted when the job ends."),
        Metric("modelyard_job_lost_workers_total", C, ("kind",),
               "Workers that died under a job, counted when the job ends."),
        Metric("modelyard_job_bytes_total", C, ("kind",),
               "Bytes that jobs had gone through when they ended; of a download also what was there already."),
        Metric("modelyard_shared_bytes_total", C, (), "Bytes that downloads did not fetch: an equal file was there."),
        Metric("modelyard_refetched_bytes_total", C, (), "Bytes that were fetched again, being damaged or unproven."),
        Metric("modelyard_cleanup_freed_bytes_total", C, (), "Bytes that cleanups have put into the trash."),
        # -- the clock
        Metric("modelyard_beat_last_seen_timestamp_seconds", G, (),
               "When a worker last heard of beat, since 1970; 0: not within a day."),
        Metric("modelyard_schedule_last_turn_timestamp_seconds", G, ("schedule",), "Its last turn, since 1970."),
        # -- devices and what is in their memory
        Metric("modelyard_device_up", G, ("device", "node", "kind"), "1: its worker was there within a minute."),
        Metric("modelyard_device_healthy", G, ("device",), "0: its driver does not show it, or reports errors."),
        Metric("modelyard_device_memory_bytes", G, ("device",), "All of its memory."),
        Metric("modelyard_device_memory_free_bytes", G, ("device",), "As the driver tells, whoever uses the rest."),
        Metric("modelyard_device_memory_limit_bytes", G, ("device",), "What models may take together, where limited."),
        Metric("modelyard_device_utilization_ratio", G, ("device",), "0 to 1, where the driver tells."),
        Metric("modelyard_device_temperature_celsius", G, ("device",), "Where the driver tells."),
        Metric("modelyard_device_power_watts", G, ("device",), "Where the driver tells."),
        Metric("modelyard_residencies", G, ("device", "state"), "Models in memory, or meant to be."),
        Metric("modelyard_resident_bytes", G, ("device", "state"), "Memory of the device that these take."),
        Metric("modelyard_kept_bytes", G, ("device",), "Weights that are kept in the machine's memory for sleepers."),
        Metric("modelyard_resident_model_bytes", G, ("device", "model", "state"),
               "The same by model: of those in memory only, the 100 largest."),
        Metric("modelyard_model_load_duration_seconds", H, ("runtime",),
               "From the start of a runner to its first real answer, of loads and switches that succeeded."),
        Metric("modelyard_leases", G, ("device",), "Requests that hold a model now."),
        # -- models and stores
        Metric("modelyard_models", G, ("status",), "Models of the registry by availability."),
        Metric("modelyard_models_enabled", G, (), "Models of the registry that are enabled."),
        Metric("modelyard_models_active", G, (), "Models that serve a type."),
        Metric("modelyard_models_outdated", G, (), "Installed models whose source has a newer revision."),
        Metric("modelyard_installed_models", G, ("health",), "Installed models by health."),
        Metric("modelyard_store_mounted", G, STORE, "0: its disk is not there; the others tell of before."),
        Metric("modelyard_store_measured_timestamp_seconds", G, STORE, "When a worker last looked, since 1970."),
        Metric("modelyard_store_disk_bytes", G, STORE, "Size of its disk."),
        Metric("modelyard_store_disk_free_bytes", G, STORE, "Free on its disk."),
        Metric("modelyard_store_models_bytes", G, STORE, "Models; what several share counts once."),
        Metric("modelyard_store_shared_bytes", G, STORE, "Saved because equal files are kept once."),
        Metric("modelyard_store_partials_bytes", G, STORE, "Downloads that are not whole yet."),
        Metric("modelyard_store_trash_bytes", G, STORE, "What may come back until its grace time ends."),
        # -- requests, events, webhooks
        Metric("modelyard_gateway_requests_total", C, ("outcome",),
               "Requests to models: answered, failed (by the model), refused (by us or by the model), gone."),
        Metric("modelyard_gateway_request_duration_seconds", H, (),
               "From a request to the last byte of its answer, with the wait for the model."),
        Metric("modelyard_gateway_hold_seconds", H, (), "How long those were held whose model was not there yet."),
        Metric("modelyard_gateway_held_requests", G, (), "Requests that wait for their model now."),
        Metric("modelyard_event_streams", G, (), "Clients that follow events."),
        Metric("modelyard_event_streams_limit", G, (), "So many may."),
        Metric("modelyard_events_total", C, (), "Events that this process has told on."),
        Metric("modelyard_webhook_deliveries", G, ("state",), "Deliveries that are kept: pending, delivered, dead."),
        Metric("modelyard_webhook_oldest_pending_age_seconds", G, (), "How long the oldest of them has waited."),
    )
}  # fmt: skip
