"""Counts and times since this process began; a new process begins at nothing, as Prometheus expects.

One registry per application, so that several in one process do not count each other's.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from api.metrics.names import METRICS
from shared.contracts import KINDS
from shared.states import ENDED

ANSWERED, FAILED, REFUSED, GONE = "answered", "failed", "refused", "gone"
UNKNOWN_KIND = "unknown"
"""Of jobs that were rejected because nobody knows their kind: what senders write there must not make series."""
LENGTHS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Seconds of requests and loads."""
WORK_LENGTHS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400)
"""Seconds of jobs: a swap takes one, a download of a large model hours."""

disable_created_metrics()  # type: ignore[no-untyped-call] # untyped there; ends a second series beside each counter


class Counters:
    """What requests and ended jobs add to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self.counter("modelyard_gateway_requests_total")
        self._times = self._histogram("modelyard_gateway_request_duration_seconds", LENGTHS)
        self._holds = self._histogram("modelyard_gateway_hold_seconds", LENGTHS)
        self.ended = self.counter("modelyard_jobs_ended_total")
        self.work = self._histogram("modelyard_job_duration_seconds", WORK_LENGTHS)
        self.loads = self._histogram("modelyard_model_load_duration_seconds", LENGTHS)
        self.attempts = self.counter("modelyard_job_attempts_total")
        self.retries = self.counter("modelyard_job_retries_total")
        self.lost = self.counter("modelyard_job_lost_workers_total")
        self.bytes = self.counter("modelyard_job_bytes_total")
        self.shared = self.counter("modelyard_shared_bytes_total")
        self.refetched = self.counter("modelyard_refetched_bytes_total")
        self.freed = self.counter("modelyard_cleanup_freed_bytes_total")
        for outcome in (ANSWERED, FAILED, REFUSED, GONE):
            self._requests.labels(outcome)
        for kind in (*KINDS, UNKNOWN_KIND):  # so that the first failure is seen as an increase
            for state in ENDED:
                self.ended.labels(kind, state.value)

    def request(self, outcome: str, seconds: float | None = None) -> None:
        """A request to a model is over; `seconds` where a model answered."""
        self._requests.labels(outcome).inc()
        if seconds is not None:
            self._times.observe(seconds)

    def held(self, seconds: float) -> None:
        """A request had to wait so long until its model was there."""
        self._holds.observe(seconds)

    def counter(self, name: str) -> Any:
        """As `METRICS` describes it."""
        return Counter(name, METRICS[name].help, METRICS[name].labels, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Any:
        return Histogram(name, METRICS[name].help, METRICS[name].labels, registry=self.registry, buckets=buckets)
