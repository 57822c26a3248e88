"""A drain counts the requests of a residency, whatever Redis does meanwhile."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from shared import queues
from shared.jobs import Ledger
from shared.progress import LEASE_SECONDS, RENEW_SCRIPT, USED_SECONDS, Leases, Workers, connect
from shared.settings import RedisSettings, Settings
from tests.conftest import RealRedis, until
from workers.devices.base import Device
from workers.job import Services
from workers.residency import leaving, manager
from workers.store.layout import Layout

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

BACK_SECONDS = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealRedis]:
    (tmp_path / "redis").mkdir()
    server = RealRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def drain(
    settings: Settings, ledger: Ledger, server: RealRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], "Future[None]"]]:
    """Starts the drain of the residency `old`."""
    monkeypatch.setattr(leaving, "LEASES_BACK_SECONDS", BACK_SECONDS)
    with connect(RedisSettings(url=server.url)) as client, ThreadPoolExecutor(1) as thread:
        services = Services(
            settings, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger,
            Layout(tmp_path / "store"), "worker@test",
        )  # fmt: skip
        device = Device(id="cpu", kind="cpu", name="test", memory_total=1, memory_free=1)
        owner = manager.Manager(services, device)
        yield lambda: thread.submit(owner.leaving.drain, "old")
        owner.stop_waiting()


def renew(server: RealRedis, lease: str) -> None:
    """What the gateway does for every request that it serves."""
    with redis.Redis(port=server.port) as client:
        keys = (queues.leases_key("old"), queues.used_key("old"))
        client.eval(RENEW_SCRIPT, 2, *keys, lease, LEASE_SECONDS, USED_SECONDS)


def give_back(server: RealRedis, lease: str) -> None:
    with redis.Redis(port=server.port) as client:
        client.zrem(queues.leases_key("old"), lease)


def closed(server: RealRedis) -> bool:
    with redis.Redis(port=server.port) as client:
        return bool(client.exists(queues.closed_key("old")))


def test_it_ends_with_the_last_request(server: RealRedis, drain: Callable[[], "Future[None]"]) -> None:
    renew(server, "one")
    draining = drain()
    until(lambda: closed(server))
    with pytest.raises(TimeoutError):
        draining.result(0.3)
    give_back(server, "one")
    draining.result(10)


@pytest.mark.fault("F-15", "F-16")
@pytest.mark.parametrize("lost", ["away", "emptied"])
def test_it_waits_for_requests_that_redis_does_not_know(
    server: RealRedis, drain: Callable[[], "Future[None]"], lost: str
) -> None:
    """They had no lease, or lost it, and take one as soon as they can."""
    if lost == "away":
        server.stop()
        draining = drain()
        with pytest.raises(TimeoutError):
            draining.result(0.3)
        server.start()
    else:
        renew(server, "one")
        draining = drain()
        until(lambda: closed(server))
        with redis.Redis(port=server.port) as client:
            client.flushall()
    until(lambda: closed(server))
    renew(server, "one")
    with pytest.raises(TimeoutError):
        draining.result(BACK_SECONDS * 2)
    give_back(server, "one")
    draining.result(10)
