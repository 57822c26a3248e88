"""The answer to a scrape: made by one thread at a time, and for all who ask within a second only once."""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from api.metrics.counters import Counters
from api.metrics.levels import Requests, Streams, family, look, of_process, of_redis, of_rows
from api.metrics.tally import Tally
from shared.db.session import Database
from shared.errors import ModelyardError
from shared.progress import Leases, Workers

FRESH_SECONDS = 1.0
TYPE = CONTENT_TYPE_LATEST


class Page(Collector):
    """Everything that one API process tells of itself and of the service."""

    def __init__(self, database: Database, workers: Workers, leases: Leases, counters: Counters) -> None:
        self._database = database
        self._workers = workers
        self._leases = leases
        self._counters = counters
        self._tally = Tally(counters)
        self._tally.begin(database)
        ProcessCollector(registry=counters.registry)
        GCCollector(registry=counters.registry)
        self._making = threading.Lock()
        self._families: list[Family] = []
        self._text, self._made_at = b"", -FRESH_SECONDS

    def text(self, hub: Streams, gateway: Requests, most_streams: int) -> bytes:
        """In Prometheus' text format. What does not answer is told as down, and what it would tell is left out."""
        with self._making:
            began = time.monotonic()
            if began - self._made_at >= FRESH_SECONDS:
                self._families = [*of_process(hub, gateway, most_streams), *self._shared(), *self._counted()]
                took = family("modelyard_scrape_duration_seconds", {(): time.monotonic() - began})
                self._families.append(took)
                self._text, self._made_at = generate_latest(self), time.monotonic()
            return self._text

    def collect(self) -> Iterable[Family]:
        """For `generate_latest`."""
        return self._families

    def _shared(self) -> Iterable[Family]:
        found = look(self._database)
        yield family("modelyard_database_up", {(): found is not None})
        if found is not None:
            yield from of_rows(found)
        yield from of_redis(found, self._workers, self._leases)

    def _counted(self) -> Iterable[Family]:
        with suppress(ModelyardError):  # counted at the next look
            self._tally.catch_up(self._database)
        return self._counters.registry.collect()
