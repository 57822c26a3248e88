"""`python -m workers io | device | beat | …`: one process each, for containers and `modelyard up`."""

import argparse
import gc
import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from shared import tracing
from shared.errors import Invalid, ModelyardError
from shared.logs import configure
from shared.queues import IO, cpu_of, device_lane, store_lane
from shared.settings import Settings, load
from workers.devices import inventory
from workers.devices.base import Device

if TYPE_CHECKING:
    from celery import Celery

DEVICE_SLOTS = 2
"""One job changes what is in the device's memory, one more may wait for it without keeping others from being seen."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers")
    roles = parser.add_subparsers(dest="role", required=True)
    io = roles.add_parser("io", help="downloads, verifications, repairs")
    io.add_argument("--urgent", action="store_true", help="a reserved slot: CRITICAL and HIGH only")
    device = roles.add_parser("device", help="owns the runners of one device")
    device.add_argument("--device", default=None, help="its id, as `python -m workers devices` prints it")
    roles.add_parser("beat", help="the schedule")
    roles.add_parser("devices", help="print the ids of this machine's devices as JSON")
    roles.add_parser("migrate", help="bring the database's schema up to date")
    move = roles.add_parser("move-database", help="copy everything into an empty database")
    move.add_argument("url", help="postgresql+psycopg://…, or - to read it from standard input, where no `ps` sees it")
    options = parser.parse_args()
    gc.disable()  # nothing that is loaded from here on is garbage: looking for it takes a fifth of the start
    try:
        return _run(load(), options)
    except ModelyardError as error:
        sys.stderr.write(f"{error.message} {error.hint}\n")
        return 1


def _run(settings: Settings, options: argparse.Namespace) -> int:
    if options.role == "devices":
        sys.stdout.write(json.dumps([device.id for device in _served()]) + "\n")
    elif options.role == "migrate":
        from shared.db.schema import migrate

        migrate(settings)
    elif options.role == "move-database":
        _move(settings, options.url)
    elif options.role == "beat":
        configure(settings, "beat")
        from workers.beat import make_beat_app

        beat = make_beat_app(settings).Beat(scheduler="celery.beat:Scheduler")
        _assembled()
        beat.run()
    elif options.role == "io":
        return _run_io(settings, urgent=options.urgent)
    else:
        return _run_device(settings, options.device)
    return 0


def _move(settings: Settings, url: str) -> None:
    from shared.db.transfer import shown, transfer

    url = sys.stdin.readline().strip() if url == "-" else url
    counts = transfer(settings, url)
    for table, rows in counts.items():
        sys.stdout.write(f"{rows:>9}  {table}\n")
    sys.stdout.write(f"{sum(counts.values()):>9}  rows are in {shown(url)}, too\n")


def _served() -> list[Device]:
    """The devices that get a worker: every GPU, or the CPU where there is none."""
    found, _ = inventory.devices()
    return [device for device in found if device.kind == "gpu"] or found[:1]


def _run_io(settings: Settings, *, urgent: bool) -> int:
    name = "io-urgent" if urgent else "io"
    configure(settings, name)
    tracing.configure(os.environ, name)
    from workers.app import make_worker_app
    from workers.courier import LOOK_SECONDS, courier_chore
    from workers.lifecycle import Keeper, alive_chore, join, open_services, rescue_chore
    from workers.residency.failover import Failover
    from workers.upkeep import schedule_chore, start_chore

    services = open_services(settings, name)
    lanes = (IO, store_lane(services.store))
    join(services, lanes)
    Keeper(LOOK_SECONDS, courier_chore(services)).start()
    chores = (
        alive_chore(services, lanes), rescue_chore(services), Failover(services), schedule_chore(services),
        start_chore(services),
    )  # fmt: skip
    keeper = Keeper(settings.jobs.rescue_seconds, *chores)
    slots = 1 if urgent else settings.jobs.io_slots
    app = make_worker_app(services, lanes, keeper, slots=slots, urgent=urgent)
    return _work(app, services.owner, slots)


def _run_device(settings: Settings, device_id: str | None) -> int:
    device_id = device_id or _served()[0].id
    inventory.pin(device_id)  # before anything can import a CUDA library
    found = next((found for found in inventory.devices()[0] if found.id == device_id), None)
    if found is None:
        raise Invalid(
            "unknown_device", f"There is no device {device_id!r} here.", "`python -m workers devices` lists them."
        )
    device = replace(found, id=cpu_of(settings.node)) if found.kind == "cpu" else found
    name = f"device-{device.id}"
    configure(settings, name)
    tracing.configure(os.environ, name)
    from workers.app import make_worker_app
    from workers.lifecycle import Keeper, alive_chore, join, open_services, own_device, rescue_chore
    from workers.residency.details import report_chore
    from workers.residency.failover import Failover
    from workers.residency.manager import Manager

    own_device(settings, device.id)
    services = open_services(settings, name)
    lanes = (device_lane(device.id),)
    join(services, lanes)
    services.manager = manager = Manager(services, device)
    report = report_chore(services, device, manager.runtimes, manager.spares)
    report()
    manager.recover()
    chores = (
        alive_chore(services, lanes), rescue_chore(services), Failover(services), report, manager.end_given_up
    )  # fmt: skip
    app = make_worker_app(services, lanes, Keeper(settings.jobs.rescue_seconds, *chores), slots=DEVICE_SLOTS)
    try:
        return _work(app, services.owner, DEVICE_SLOTS)
    finally:
        manager.close()


def _work(app: "Celery", owner: str, slots: int) -> int:
    """Serve until a signal ends it; the exit status.

    Celery's own command does the same, and takes a second more, because it loads the commands of its plugins first.
    """
    worker = app.Worker(
        hostname=owner.partition("/")[0],  # the same after a restart, so that Flower shows one worker
        concurrency=slots,
        loglevel="INFO",
        # Gossip and mingle share revokes and clocks between workers; the ledger needs neither.
        without_gossip=True,
        without_mingle=True,
    )
    _assembled()
    worker.start()
    return int(worker.exitcode or 0)


def _assembled() -> None:
    """From now on garbage is collected, without looking at what the process is made of each time."""
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())
