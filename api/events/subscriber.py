"""One client of the events: what waits for it, and the snapshot that it begins with."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from api.events.judge import Event, Order, Told, encode

QUEUE_LENGTH = 1000
"""Events that wait for one client at most."""
NOWHERE = (0, 0)


@dataclass
class Snapshot:
    """What is watched, as the ledger had it. Events up to `begun` are in it, and progress up to `made`."""

    begun: Order
    made: Order
    last: bool
    fields: Event
    _encoded: dict[str, Told] = field(default_factory=dict)

    def told(self, kind: str) -> Told:
        if kind not in self._encoded:
            order = self.begun if self.begun > NOWHERE else None
            wire = encode(kind, {"type": kind, "id": None, **self.fields}, order)
            self._encoded[kind] = Told(self.made, kind, None, self.last, wire)
        return self._encoded[kind]


class Client:
    """One stream's share: a bounded queue that loses progress first, and knows when it has lost more.

    Args:
        job_id: the one job that it follows, None for everything.
        prefixes: types that it wants.
    """

    def __init__(self, job_id: str | None = None, prefixes: tuple[str, ...] = ("",)) -> None:
        self.job_id = job_id
        self.lost = False
        self.gone = False
        self.silent = True
        self.writing_since: float | None = None
        self.drop: Callable[[], object] = lambda: None
        self._prefixes = prefixes
        self._waiting: list[Told] = []
        self._wake = asyncio.Event()

    def wants(self, told: Told) -> bool:
        return told.type.startswith(self._prefixes) and self.job_id in (None, told.job_id)

    def offer(self, told: Told) -> None:
        self.silent = False
        if len(self._waiting) >= QUEUE_LENGTH:
            self._waiting = [each for each in self._waiting if each.type != "job.progress"]
            if len(self._waiting) >= QUEUE_LENGTH:
                self.lose()
        if not self.lost:
            self._waiting.append(told)
            self._wake.set()

    def lose(self) -> None:
        """What comes next for it is a new snapshot."""
        self._waiting.clear()
        self.lost = True
        self._wake.set()

    def leave(self) -> None:
        """Its connection is gone."""
        self.gone = True
        self._wake.set()

    def forget(self, snapshot: Snapshot) -> None:
        """Leave out what the snapshot holds already."""
        self._waiting = [
            each for each in self._waiting
            if each.order > (snapshot.made if each.type == "job.progress" else snapshot.begun)
        ]  # fmt: skip

    async def take(self) -> list[Told]:
        """All that waits, as soon as there is any; nothing where it was lost, or the client is gone."""
        await self._wake.wait()
        self._wake.clear()
        taken, self._waiting = self._waiting, []
        return taken
