"""What a worker process does beside its jobs: opens its services, keeps the rescue going, shows signs of life."""

import fcntl
import os
import platform
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis
import structlog

from shared.broker import Broker, make_app
from shared.db import nodes
from shared.db.reports import Node
from shared.db.session import Database
from shared.errors import Conflict, ModelyardError
from shared.jobs import Ledger
from shared.progress import Events, Leases, Workers, connect
from shared.queues import IO, cpu_of, device_lane
from shared.settings import Settings
from workers.job import Services
from workers.rescue import rescue
from workers.store.layout import Layout

log = structlog.get_logger()


def open_services(settings: Settings, name: str) -> Services:
    """Connections and folders of one worker process."""
    database = Database(settings.database)
    client = connect(settings.redis)
    events = Events(client, settings.redis)
    broker = Broker(make_app(settings, publisher=True))
    layout = Layout(settings.store_root)
    layout.ensure()
    ledger = Ledger(database, settings.jobs, broker, events)
    owner = f"{name}@{settings.node}.{platform.node()}/{os.getpid()}"
    return Services(settings, database, broker, events, Leases(client), Workers(client), ledger, layout, owner)


def own_device(settings: Settings, device_id: str) -> int:
    """Be the one worker of a device on this machine, until the process ends. Answers the lock's descriptor.

    Raises:
        Conflict: there is another one.
    """
    folder = settings.data_dir / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / f"device-{device_id}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict("device_taken", f"Another worker serves {device_id}.", "Stop it first.") from error
    return descriptor


class Keeper(threading.Thread):
    """Does chores at an interval, whatever the jobs do: the rescue must run when every slot is taken."""

    def __init__(self, seconds: float, *chores: Callable[[], None]) -> None:
        super().__init__(name="keeper", daemon=True)
        self._seconds = seconds
        self._chores = chores

    def run(self) -> None:
        while True:
            for chore in self._chores:
                self._do(chore)
            time.sleep(self._seconds * random.uniform(0.8, 1.0))

    def _do(self, chore: Callable[[], None]) -> None:
        try:
            chore()
        except ModelyardError as error:
            log.warning("chore.failed", code=error.code, reason=error.message)
        except redis.RedisError as error:
            log.warning("chore.failed", code="redis_unavailable", reason=type(error).__name__)
        except Exception:
            log.exception("chore.crashed")


def rescue_chore(services: Services) -> Callable[[], None]:
    return lambda: rescue(services)


def alive_chore(services: Services, lanes: tuple[str, ...]) -> Callable[[], None]:
    """Tells everybody that these lanes have a worker, and that this machine is there."""

    def tell() -> None:
        with services.database.session() as session:
            nodes.report(session, _this_node(services), io=IO in lanes)
        for lane in lanes:
            services.workers.report(lane, services.owner)

    return tell


def _this_node(services: Services) -> Node:
    """This machine, as the others are to know it."""
    return Node(name=services.settings.node, machine=_boot_id(), store=services.store, seen_at=0.0)


def join(services: Services, lanes: tuple[str, ...]) -> None:
    """Be known before the first job is taken: whose files are where is asked from then on.

    Raises:
        Conflict: another machine bears this name.
    """
    cpu = any(lane == device_lane(cpu_of(services.settings.node)) for lane in lanes)
    with services.database.session() as session:
        nodes.check_name(session, _this_node(services), cpu=cpu)
        nodes.report(session, _this_node(services), io=IO in lanes)


def _boot_id() -> str:
    """The same for all containers of a machine; another one after it was started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
