"""One client of the events: what waits for it, and the snapshot that it begins with."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from api.events.judge import Event, Order, Told, encode
from shared.errors import TooMany, Unavailable

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


class Topic(NamedTuple):
    """What a stream is about, and whose it is."""

    job_id: str | None
    """The one job that it follows, None for everything."""
    prefixes: tuple[str, ...]
    """Types that it wants."""
    key: str | None
    """Name of the key that it was asked for with."""


class Places:
    """How many streams there may be, of all and of each key.

    Args:
        most: of all.
        of_one: of one key; where nobody has a key, all are anybody's.
    """

    def __init__(self, most: int, of_one: int) -> None:
        self.most = most
        self.of_one = of_one
        self.taken = 0
        self._by_key: Counter[str] = Counter()

    @contextlib.contextmanager
    def take(self, key: str | None) -> Iterator[None]:
        """Raises: Unavailable: `too_many_streams`; TooMany: `too_many_streams_of_key`."""
        if self.taken >= self.most:
            hint = "Close streams that nobody reads, or set MODELYARD_API__MAX_STREAMS."
            raise Unavailable("too_many_streams", f"{self.taken} event streams are open.", hint, None, 5)
        if key is not None and self._by_key[key] >= self.of_one:
            hint = "Close streams that nobody reads, use a key of its own for each program, or set "
            raise TooMany(
                "too_many_streams_of_key", f"{self.of_one} event streams of the key {key!r} are open.",
                f"{hint}MODELYARD_API__STREAMS_PER_KEY.", None, 5,
            )  # fmt: skip
        self.taken += 1
        self._by_key[key or ""] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._by_key[key or ""] -= 1
            self._by_key += Counter()  # forgets who has none any more


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
