"""Several worker processes' governors, on a real database and a real Redis."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import redis

from shared.contracts import Download
from shared.db import limits
from shared.db.session import Database
from shared.jobs import Ledger
from shared.limits import Limit
from shared.progress import connect
from shared.refs import SourceKind
from shared.settings import Settings
from shared.states import Priority
from tests.conftest import RealRedis, until
from workers.governor import Governor
from workers.governor.flows import Flows
from workers.sources.transfer import Throttle

MB = 10**6


@pytest.fixture
def client(settings: Settings) -> Iterator["redis.Redis"]:
    with connect(settings.redis) as client:
        yield client


def governor(database: Database, client: "redis.Redis") -> Governor:
    return Governor(database, Flows(client))


def put(database: Database, *wanted: Limit) -> None:
    with database.session() as session:
        for limit in wanted:
            limits.put(session, limit)


@contextmanager
def flows(*wanted: tuple[Governor, str]) -> Iterator[list[Throttle]]:
    with ExitStack() as stack:
        yield [stack.enter_context(one.flow(job_id, SourceKind.URL)) for one, job_id in wanted]


def settle(throttles: list[Throttle], *rates: float) -> None:
    until(lambda: [one.rate for one in throttles] == pytest.approx(rates), 20, f"rates {rates}")


def test_processes_share_a_limit_that_comes_changes_and_goes(ledger: Ledger, client: "redis.Redis") -> None:
    database = ledger.database
    one, two = governor(database, client), governor(database, client)
    low = ledger.submit(Download(model_id="one"), origin="test", priority=Priority.LOW).job.id
    other = ledger.submit(Download(model_id="two"), origin="test", priority=Priority.LOW).job.id
    with flows((one, low), (two, other)) as throttles:
        assert [throttle.rate for throttle in throttles] == [math.inf, math.inf]
        put(database, Limit("all", bytes_per_second=9 * MB))
        # nothing is read here, so that each uses the least and is left a little of it
        until(lambda: sum(throttle.rate for throttle in throttles) <= 9 * MB, 20, "the limit")
        ledger.reprioritise(other, Priority.CRITICAL)
        put(database, Limit("all", bytes_per_second=9000))
        settle(throttles, 1000, 8000)
        with database.session() as session:
            limits.clear(session, "all")
        settle(throttles, math.inf, math.inf)


def test_what_ends_is_the_others_at_once(ledger: Ledger, client: "redis.Redis") -> None:
    put(ledger.database, Limit("all", bytes_per_second=1000))
    one, two = governor(ledger.database, client), governor(ledger.database, client)
    with flows((one, "stays")) as stays:
        with flows((two, "ends")):
            settle(stays, 500)
        settle(stays, 1000)


def test_without_redis_a_share_stays_as_it_was(ledger: Ledger, client: "redis.Redis", redis_server: RealRedis) -> None:
    put(ledger.database, Limit("all", bytes_per_second=1000))
    one, two = governor(ledger.database, client), governor(ledger.database, client)
    with flows((one, "a"), (two, "b")) as throttles:
        settle(throttles, 500, 500)
        redis_server.stop()
        try:
            put(ledger.database, Limit("all", bytes_per_second=600))
            settle(throttles, 300, 300)
        finally:
            redis_server.start()
        settle(throttles, 300, 300)
