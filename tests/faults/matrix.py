"""The matrix as data: at which point of which work which part is taken away.

A cell is (scenario, point, which time it is reached, fault). Every cell runs on both kinds of database.
"""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens at the point."""

    KILL = "kill -9"
    TERM = "SIGTERM"
    REDIS = "Redis lost"
    REDIS_EMPTIED = "Redis lost with its data"
    DATABASE = "database lost"


DATABASES = ("sqlite", "postgresql")

POINTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "job.received": ("a worker has the message, the ledger does not know yet", ("F-1",)),
    "job.claimed": ("the job is claimed, nothing is done", ("F-1",)),
    "download.resolved": ("the source has told the files", ("F-2",)),
    "download.written": ("bytes are written, not yet journalled", ("F-2",)),
    "download.proven": ("bytes are synced and journalled", ("F-2",)),
    "download.fetched": ("every byte is there", ("F-3",)),
    "download.confirmed": ("the ledger has confirmed the attempt, nothing is published", ("F-3",)),
    "publish.sealed": ("the manifest lies with the files", ("F-5",)),
    "publish.settled": ("real names, synced, read-only; before the rename", ("F-5",)),
    "publish.exchanged": ("the new folder is in the place of the old one", ("F-5",)),
    "publish.moved": ("after the rename", ("F-5",)),
    "download.published": ("published, the registry does not know", ("F-5", "F-54")),
    "download.recorded": ("published and recorded, the job still runs", ("F-5",)),
    "verify.hashed": ("part of the bytes is hashed", ("F-4",)),
    "verify.finished": ("all is hashed, nothing is recorded", ("F-4",)),
    "verify.recorded": ("the verdict is recorded, the job still runs", ("F-4",)),
    "repair.staged": ("what is whole is linked into staging", ()),
    "scrub.proven": ("a file is proven, the next one is not", ("F-4",)),
    "scrub.convicted": ("the damage is recorded, its repair not asked for", ("F-57",)),
    "update.resolved": ("the source has a newer revision", ("F-2",)),
    "stock.tidied": ("the revision before the last one is in the trash", ("F-9",)),
    "rollback.proven": ("the earlier revision is proven, the row not flipped", ("F-5",)),
    "restore.registered": ("the registry knows the model again, its files are in the trash", ("F-54",)),
    "restore.moved": ("the files are back in their place, with their manifest", ("F-5",)),
    "bundle.poured": ("part of a bundle is written, under another name", ()),
    "bundle.written": ("all of it is written, it has not its name", ()),
    "bundle.named": ("it has its name, the job still runs", ()),
    "unbundle.poured": ("part of a bundle is read", ()),
    "unbundle.staged": ("one of its files is proven in staging", ()),
    "unbundle.confirmed": ("all of it is proven, nothing is published", ("F-3",)),
    "unbundle.published": ("its model is published, the registry does not know", ("F-5", "F-54")),
    "remove.taken_off": ("off the registry's list of what is installed, files in place", ("F-9",)),
    "remove.sealed": ("the manifest has joined the files that leave", ("F-9",)),
    "remove.trashed": ("files in the trash, the model still known", ("F-9",)),
    "remove.forgotten": ("the model is forgotten, the job still runs", ("F-9",)),
    "cleanup.planned": ("what may leave is written down, nothing is touched", ("F-9",)),
    "cleanup.taken_off": ("a model is off the list of what is installed, its files in place", ("F-9",)),
    "cleanup.trashed": ("its files are in the trash, the step still open", ("F-9", "F-54")),
    "evict.closed": ("who makes room takes no new request, its type waits", ("F-47",)),
    "evict.drained": ("its last request has ended, it still runs", ("F-47",)),
    "evict.stopped": ("its memory is free, nobody serves the type", ("F-47",)),
    "sleep.dropped": ("a runner has given the device's memory back, no row knows that it sleeps", ("F-8",)),
    "sleep.recorded": ("it sleeps", ("F-8",)),
    "wake.recorded": ("one that sleeps is to be woken, its runner not asked yet", ("F-7",)),
    "runner.started": ("the runner's process is started", ("F-7",)),
    "runner.probed": ("the runner has answered its first inference", ("F-7",)),
    "switch.confirmed": ("ready, the route not moved yet", ("F-8",)),
    "switch.flipped": ("the route has moved", ("F-8",)),
    "load.confirmed": ("ready, nobody knows it yet", ("F-7",)),
    "load.taken_over": ("a fresh runner has the route, the one before still runs", ("F-8",)),
    "unload.closed": ("off its route, its requests not drained", ("F-8",)),
    "residency.drained": ("drained, the runner still runs", ("F-8",)),
    "residency.stopped": ("the old runner is stopped, the job still runs", ("F-8",)),
    "job.carried_out": ("the work is done, its outcome not written", ()),
    "ledger.succeeded": ("the outcome is written, nobody is told", ("F-6",)),
    "submit.committed": ("the API has committed the job, sent nothing", ("F-10",)),
    "ticket.sent": ("the message is sent, the ledger does not know that", ("F-11",)),
    "api.answer": ("everything is done but the answer to the client", ("F-11",)),
}
"""Each point in words, and which cases of the fault list a cell there shows."""

OF_FAULT: dict[Fault, tuple[str, ...]] = {
    Fault.TERM: ("F-26",),
    Fault.REDIS: ("F-14",),
    Fault.REDIS_EMPTIED: ("F-15",),
    Fault.DATABASE: ("F-30", "F-32"),
}


@dataclass(frozen=True)
class Cell:
    """One experiment."""

    scenario: str
    point: str
    fault: Fault
    nth: int = 1

    def __str__(self) -> str:
        which = f"-{self.nth}" if self.nth > 1 else ""
        return f"{self.scenario}-{self.point}{which}-{self.fault.replace(' ', '-')}"

    @property
    def ids(self) -> tuple[str, ...]:
        """Cases of the fault list that it shows."""
        return (*POINTS[self.point][1], *OF_FAULT.get(self.fault, ()))


def _cells(scenario: str, table: dict[str | tuple[str, int], str]) -> list[Cell]:
    """One row per point: a letter for each fault."""
    letters = dict(zip("ktred", Fault, strict=True))
    return [
        Cell(scenario, point, letters[letter], nth)
        for key, faults in table.items()
        for point, nth in [key if isinstance(key, tuple) else (key, 1)]
        for letter in faults
    ]


# k kill -9 · t SIGTERM · r Redis lost · e Redis lost with its data · d database lost
CELLS: list[Cell] = [
    *_cells(
        "download",
        {
            "job.received": "k",
            "job.claimed": "ktrd",
            "download.resolved": "kd",
            "download.written": "kt",
            ("download.written", 10): "ktred",
            ("download.written", 20): "k",
            "download.proven": "kd",
            "download.fetched": "ktrd",
            "download.confirmed": "kd",
            "publish.sealed": "k",
            "publish.settled": "k",
            "publish.moved": "ktr",
            "download.published": "ktd",
            "download.recorded": "k",
            "job.carried_out": "ktred",
            "ledger.succeeded": "kr",
        },
    ),
    *_cells(
        "verify",
        {
            "job.claimed": "k",
            ("verify.hashed", 8): "ktrd",
            "verify.finished": "kd",
            "verify.recorded": "k",
            "job.carried_out": "kd",
        },
    ),
    *_cells(
        "repair",
        {
            "job.claimed": "k",
            ("verify.hashed", 8): "k",
            "repair.staged": "ktd",
            ("download.written", 5): "kr",
            "publish.sealed": "k",
            "publish.exchanged": "kt",
            "publish.moved": "k",
            "download.published": "kd",
            "job.carried_out": "k",
        },
    ),
    *_cells(
        "remove",
        {
            "job.claimed": "kt",
            "remove.taken_off": "ktd",
            "remove.sealed": "k",
            "remove.trashed": "krd",
            "remove.forgotten": "kt",
            "job.carried_out": "kd",
        },
    ),
    *_cells(
        "cleanup",
        {
            "job.claimed": "k",
            "cleanup.planned": "kd",
            "cleanup.taken_off": "ktd",
            "remove.sealed": "k",
            "cleanup.trashed": "krd",
            ("cleanup.trashed", 2): "kt",
            "job.carried_out": "k",
        },
    ),
    *_cells(
        "switch",
        {
            "job.claimed": "k",
            "runner.started": "ktd",
            "runner.probed": "kr",
            "switch.confirmed": "ktd",
            "switch.flipped": "ktred",
            "residency.drained": "ktr",
            "residency.stopped": "k",
            "job.carried_out": "kd",
        },
    ),
    *_cells("scrub", {"scrub.proven": "kt", "scrub.convicted": "kd", "repair.staged": "k"}),
    *_cells(
        "update",
        {
            "update.resolved": "k",
            ("download.written", 3): "kt",
            "download.fetched": "k",
            "publish.moved": "k",
            "download.published": "kd",
            "download.recorded": "k",
            "stock.tidied": "kt",
        },
    ),
    *_cells("rollback", {"verify.hashed": "k", "rollback.proven": "kd", "download.recorded": "k"}),
    *_cells("restore", {"restore.registered": "kd", "restore.moved": "kt", "download.recorded": "k"}),
    *_cells("bundle", {("bundle.poured", 8): "ktd", "bundle.written": "kd", "bundle.named": "k"}),
    *_cells(
        "unbundle",
        {
            ("unbundle.poured", 8): "ktd",
            "unbundle.staged": "k",
            "unbundle.confirmed": "kd",
            "publish.moved": "k",
            "unbundle.published": "kt",
            "download.recorded": "k",
        },
    ),
    *_cells("unload", {"unload.closed": "ktd", "residency.drained": "kr", "residency.stopped": "kd"}),
    *_cells("load", {"runner.started": "kt", "runner.probed": "kd", "switch.flipped": "kr"}),
    *_cells("reload", {"runner.probed": "k", "load.confirmed": "ktd", "load.taken_over": "ktred"}),
    *_cells("swap", {"evict.closed": "kt", "evict.drained": "kr", "evict.stopped": "kd", "runner.probed": "k"}),
    *_cells("room", {"evict.closed": "kr", "evict.stopped": "ktd", "load.confirmed": "kd", "load.taken_over": "k"}),
    *_cells("nap", {"sleep.dropped": "ktd", "sleep.recorded": "kr"}),
    *_cells("wake", {"wake.recorded": "kd", "runner.probed": "kt", "switch.flipped": "kr"}),
    *_cells("ask", {"submit.committed": "kred", "ticket.sent": "krd", "api.answer": "k"}),
]

SHORT: list[tuple[str, Cell]] = [
    ("sqlite", Cell("download", "download.written", Fault.KILL, 10)),
    ("sqlite", Cell("download", "publish.moved", Fault.KILL)),
    ("sqlite", Cell("repair", "publish.exchanged", Fault.KILL)),
    ("sqlite", Cell("remove", "remove.trashed", Fault.KILL)),
    ("sqlite", Cell("cleanup", "cleanup.taken_off", Fault.KILL)),
    ("sqlite", Cell("verify", "verify.hashed", Fault.TERM, 8)),
    ("sqlite", Cell("scrub", "scrub.convicted", Fault.KILL)),
    ("sqlite", Cell("update", "stock.tidied", Fault.KILL)),
    ("sqlite", Cell("rollback", "rollback.proven", Fault.KILL)),
    ("sqlite", Cell("restore", "restore.moved", Fault.KILL)),
    ("sqlite", Cell("bundle", "bundle.poured", Fault.KILL, 8)),
    ("sqlite", Cell("unbundle", "unbundle.poured", Fault.KILL, 8)),
    ("sqlite", Cell("unbundle", "unbundle.published", Fault.KILL)),
    ("sqlite", Cell("ask", "submit.committed", Fault.KILL)),
    ("sqlite", Cell("download", "job.carried_out", Fault.REDIS)),
]
"""What runs with every test run."""
