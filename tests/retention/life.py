"""Sixty days in the life of forty models, in fast-forward, and a table of them that a person can check by hand.

Each day has its hours: at 8 models come and people do things, at 12 models are used, at 20 the schedule has its look,
at 22 the trash is emptied of what has lain there for seven days. Until day 45 the policy only recommends, from then on
it cleans up. On day 50 the disk becomes too small by 6 MiB.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.contracts import Cleanup
from shared.db import catalog, locks, retention, usage
from shared.db.facts import Facts
from shared.db.tables import Installation
from shared.retention import judge
from shared.schedules import SCHEDULES
from shared.states import Availability, Holder, InstallationState, Priority
from tests.factories.folders import safetensors
from tests.retention.yard import BEGIN, DAY, Yard
from workers.stock import take_stock
from workers.store.trash import empty_trash

DAYS, AUTOMATIC, TIGHT = 60, 45, 50
HOUR = 3600.0
MIB = 1024**2
TOO_MUCH = 6 * MIB

Uses = Callable[[int], int]


@dataclass(frozen=True)
class Role:
    """What a model is in the story."""

    name: str
    size: float
    """MiB."""
    story: str
    uses: Uses
    """On a day."""
    comes: int = 0


@dataclass
class Fate:
    """What became of it."""

    status: str = ""
    priority: str = ""
    uses_per_day: float = 0.0
    idle_days: float = 0.0
    recommended: int | None = None
    """Day on which it was first recommended."""
    left: int | None = None
    reason: str = ""
    frees: int = 0
    holds: tuple[str, ...] = ()


@dataclass
class Look:
    """What was found on a day, where anything was; bytes as they are afterwards."""

    day: int
    what: str
    names: list[str]
    frees: int
    used: int
    trash: int


def _never(_: int) -> int:
    return 0


def _roles() -> list[Role]:
    every_third: Uses = lambda day: int(day % 3 == 0)  # noqa: E731 - a name for what is said three times
    return [
        *(Role(f"daily-{n}", 1, "3 uses a day", lambda _: 3) for n in range(1, 7)),
        *(Role(f"third-{n}", 1, "1 use every 3rd day", every_third) for n in range(1, 6)),
        *(Role(f"rare-{n}", n, "1 use every 15th day", lambda day: int(day % 15 == 0)) for n in range(1, 6)),
        *(Role(f"tried-{n}", n, "used until day 5", lambda day: int(day <= 5)) for n in range(1, 8)),
        *(Role(f"never-{n}", 2 * n, "never used", _never) for n in range(1, 4)),
        *(Role(f"pinned-{n}", 2, "never used, pinned", _never) for n in range(1, 3)),
        Role("wanted", 1, "never used, priority HIGH", _never),
        Role("fallback", 1, "never used, daily-1 falls back to it", _never),
        Role("locked", 1, "never used, in the applied lock", _never),
        Role("loaded", 1, "never used, in memory", _never),
        Role("twin-1", 3.5, "never used, 3 MiB are twin-2's too", _never),
        Role("twin-2", 3, "never used, pinned", _never),
        Role("boxed", 3, "never used, came in a bundle", _never),
        Role("in-place", 1, "never used, in a folder of somebody's", _never),
        Role("new-1", 1, "came on day 55", _never, 55),
        Role("new-2", 1, "came on day 55", _never, 55),
        Role("undone", 2, "cleaned up on day 32, back on day 37 and used", lambda day: int(day > 37 and day % 3 == 0)),
        Role("damaged", 1, "1 use every 3rd day, damaged on day 58", every_third),
    ]  # fmt: skip


class Life:
    """Plays it. `fates` and `looks` are what came of it."""

    def __init__(self, yard: Yard, elsewhere: Path) -> None:
        self.yard = yard
        self.roles = _roles()
        self.fates = {role.name: Fate() for role in self.roles}
        self.looks: list[Look] = []
        self.elsewhere = elsewhere

    def play(self) -> None:
        for day in range(DAYS + 1):
            self._at(day, 8)
            for role in self.roles:
                if role.comes == day:
                    self._comes(role)
            self._people(day)
            self._at(day, 12)
            there = self.yard.installed()
            for role in self.roles:
                if role.name in there and role.uses(day):
                    self.yard.use(role.name, role.uses(day))
            self._at(day, 20)
            self._look(day)
            self._at(day, 22)
            empty_trash(self.yard.layout, 7 * DAY, self.yard.clock)
        self._at(DAYS, 20)
        self._end()

    def _at(self, day: int, hour: int) -> None:
        self.yard.clock = BEGIN + day * DAY + hour * HOUR

    def _comes(self, role: Role) -> None:
        self.yard.add(role.name)
        if role.name == "in-place":
            self._lies_elsewhere(role)
            return
        files = {"config.json": json.dumps({"model_type": "llama", "name": role.name}).encode()}
        twins = role.name.startswith("twin")
        files["model.safetensors"] = _weights("twin" if twins else role.name, 3 if twins else role.size)
        if role.name == "twin-1":
            files["notes.txt"] = b"n" * (MIB // 2)
        self.yard.fetch(role.name, files, "r1", came_from="box.tar" if role.name == "boxed" else None)

    def _lies_elsewhere(self, role: Role) -> None:
        self.elsewhere.mkdir()
        (self.elsewhere / "model.safetensors").write_bytes(_weights(role.name, role.size))
        with self.yard.database.session() as session:
            catalog.publish(session, Installation(
                model_id=role.name, model_type="llm", revision="seen", state=InstallationState.PUBLISHED,
                holder=Holder.FOLDER, owned=False, path=str(self.elsewhere), size=MIB, files=1, integrity=1.0,
                published_at=0.0, verified_at=0.0,
            ))  # fmt: skip

    def _people(self, day: int) -> None:
        """What people do at 8."""
        if day == 0:
            for name in ("pinned-1", "pinned-2", "twin-2"):
                self.yard.change(name, pinned=True)
            self.yard.change("wanted", priority=int(Priority.HIGH))
            self.yard.change("daily-1", fallback=[{"model": "fallback"}])
            self.yard.load("loaded")
            with self.yard.database.session() as session:
                locks.demand(session, locks.entry_of(locks.standings(session, ["locked"])[0]))
        elif day == 32:
            told = self.yard.cleanup(models=["undone"])
            self._note_left(day, "left, asked for by name", told)
            (self.entry,) = told["removed"][0]["entries"]
        elif day == 37:
            self.yard.restore("undone", self.entry)
            self._note(day, "came back", ["undone"], 0)
        elif day == AUTOMATIC:
            with self.yard.database.session() as session:
                retention.change(session, {"automatic": True})
        elif day == TIGHT:
            allowed = self.yard.used() - self.yard.only_in_trash() - TOO_MUCH
            self.yard.disk_total = allowed * 100 // 80
        elif day == 58:
            self._damage("damaged")

    def _damage(self, name: str) -> None:
        with self.yard.database.session() as session:
            catalog.record_verify(session, name, "r1", integrity=0.5, problems=[{"code": "file_corrupted"}], full=True)

    def _look(self, day: int) -> None:
        """The schedule asks for a job, if there is anything to say; a worker carries it out."""
        take_stock(self.yard.services)  # as every minute
        asks = SCHEDULES["cleanup"].asks
        assert asks is not None
        with self.yard.database.reading() as session:
            wanted = asks(session, self.yard.services.settings, DAY)
        for contract in wanted:
            assert isinstance(contract, Cleanup)
            told = self.yard.carry_out(contract)
            named = [each["modelId"] for each in told["recommendations" if contract.dry_run else "removed"]]
            for name in named:
                fate = self.fates[name]
                fate.recommended = day if fate.recommended is None else fate.recommended
            if contract.dry_run:
                self._note(day, "may leave", named, told["frees"])
            else:
                self._note_left(day, "left", told)

    def _note(self, day: int, what: str, names: list[str], frees: int) -> None:
        self.looks.append(Look(day, what, names, frees, self.yard.used(), self.yard.only_in_trash()))

    def _note_left(self, day: int, what: str, told: dict[str, Any]) -> None:
        assert told["left"] == []
        for each in told["removed"]:
            fate = self.fates[each["modelId"]]
            fate.left, fate.reason, fate.frees = day, each["reason"], each["frees"]
        self._note(day, what, [each["modelId"] for each in told["removed"]], told["frees"])

    def _end(self) -> None:
        """How everything stands at 20 on the last day."""
        with self.yard.database.reading() as session:
            facts = Facts(session, list(self.fates))
            policy = retention.policy(session, self.yard.services.settings.retention)
            world = retention.look(session)
            last = usage.last_used(session)
            for role in self.roles:
                fate, model = self.fates[role.name], catalog.get_model(session, role.name)
                fate.status, fate.priority = facts.availability(role.name), facts.priority(model).name
                fate.uses_per_day = facts.uses_per_day(model)
                since = max(last.get(role.name, 0.0), BEGIN + role.comes * DAY + 8 * HOUR)
                fate.idle_days = (self.yard.clock - since) / DAY
        for stored in world.models:
            self.fates[stored.model_id].holds = judge(policy, world.now, stored).holds


def _weights(name: str, size: float) -> bytes:
    """A safetensors file of so many MiB, unlike any other's."""
    data = bytearray(safetensors((int(size * MIB) // 16, 8)))
    data[-32:] = name.encode().ljust(32)
    return bytes(data)


def table(life: Life) -> str:
    """All of it, for a person."""
    head = f"{'model':<11}{'MiB':>5}  {'story':<46}{'status':<11}{'priority':<9}{'uses/d':>7}{'idle d':>7}"
    lines = [f"{head}  what became of it", *(_line(role, life.fates[role.name]) for role in life.roles), ""]
    lines.append(f"{'day':<5}{'frees MiB':>9}{'disk MiB':>10}{'in trash':>10}  ")
    before: tuple[str, list[str]] = "", []
    for look in life.looks:
        if (look.what, look.names) != before:
            frees, used, trash = (f"{size / MIB:.1f}" for size in (look.frees, look.used, look.trash))
            lines.append(f"{look.day:<5}{frees:>9}{used:>10}{trash:>10}  {look.what}: {', '.join(look.names)}")
        before = look.what, look.names
    return "\n".join(lines)


def _line(role: Role, fate: Fate) -> str:
    if fate.left is not None:
        end = f"left on day {fate.left}: {fate.reason}, {fate.frees / MIB:.1f} MiB"
        end += f" (recommended since day {fate.recommended})" if fate.recommended not in (None, fate.left) else ""
        end += "; back" if fate.status != Availability.MISSING else ""
    else:
        end = f"kept: {', '.join(fate.holds)}" if fate.holds else "stays"
    numbers = f"{fate.uses_per_day:>7.3f}{fate.idle_days:>7.1f}"
    return f"{role.name:<11}{role.size:>5g}  {role.story:<46}{fate.status:<11}{fate.priority:<9}{numbers}  {end}"
