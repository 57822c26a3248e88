"""Downloads, loads, uses, removals, cleanups and the clock in every order that chance brings, and amid each other.

What must hold: nothing that was needed at that moment leaves; bytes that are freed are those that were promised; what
comes back is what it was; no folder without a row and no row without its folder. What is needed is worked out here from
what was done, not asked of the code under test.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.contracts import Cleanup, Verify
from shared.db import locks, retention
from shared.db.tables import LockedEntry
from shared.errors import Conflict, NotFound, Snooze
from shared.states import Priority, StepState
from tests.factories.folders import safetensors
from tests.retention.yard import BEGIN, DAY, Yard
from workers.job import BODIES, Work
from workers.stock import finish_abandoned
from workers.store.manifest import read
from workers.store.trash import empty_trash

FEW = 40
MANY = int(os.environ.get("MODELYARD_INTERLEAVINGS", FEW))
"""Programs that are played; each is an interleaving of its own. The few are the same every time."""
STEPS = 14
NAMES = ("ash", "elm", "oak", "yew")
CONFIG = b'{"model_type": "llama"}'
WEIGHTS = tuple(safetensors((50 * (number + 1), 8)) for number in range(4))
"""Of different sizes; two models may have the same."""
POINTS = ("cleanup.planned", "cleanup.taken_off", "remove.sealed", "cleanup.trashed")

names = st.sampled_from(NAMES)
contents = st.tuples(st.integers(0, len(WEIGHTS) - 1), st.booleans())
"""Which weights, and whether there is a file beside them that is this model's alone."""
WHAT = (
    "fetch", "use", "pin", "prioritise", "need", "lock", "unlock", "load", "unload", "busy", "verify", "remove",
)  # fmt: skip
meddling = st.tuples(st.sampled_from(POINTS), names, st.sampled_from(WHAT), contents)


class Died(BaseException):
    """The worker, at that point."""


@dataclass
class Known:
    """What was done to a model that is in the registry."""

    created_at: float
    came_at: float | None = None
    """None: not installed."""
    files: dict[str, bytes] = field(default_factory=dict)
    pinned: bool = False
    priority: int | None = None
    uses: list[float] = field(default_factory=list)
    loaded: bool = False
    locked: bool = False
    needs: str | None = None
    jobs: list[Work] = field(default_factory=list)


class World(RuleBasedStateMachine):
    """The yard, and what was done to it."""

    yard: ClassVar[Yard]
    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.yard.clear()
        self.models: dict[str, Known] = {}
        self.numbers = iter(range(1, 10_000))
        self.cut_off: Work | None = None
        self.seen["programs"] += 1

    # -- what people and programs do ------------------------------------------------------------------------

    @initialize(files=st.lists(contents, min_size=3, max_size=3), days=st.sampled_from([5, 31, 60]))
    def begin(self, files: list[tuple[int, bool]], days: float) -> None:
        """Three models came so many days ago."""
        for name, mine in zip(NAMES, files, strict=False):
            self.fetch(name, mine)
        self.wait(days)

    @rule(days=st.sampled_from([0.5, 3, 8, 20, 31, 45]))
    def wait(self, days: float) -> None:
        self.yard.clock += days * DAY

    @rule(things=st.lists(st.tuples(names, st.sampled_from(WHAT), contents), min_size=1, max_size=4))
    def do(self, things: list[tuple[str, str, tuple[int, bool]]]) -> None:
        """What people and programs do, one after the other."""
        for each in things:
            self._do(*each)

    def _do(self, name: str, what: str, files: tuple[int, bool]) -> None:
        amid, self.yard.reached = self.yard.reached, lambda _: None
        try:
            if what == "fetch":
                self.fetch(name, files)
            else:
                getattr(self, what)(name)
        except Snooze:
            self.seen["waited"] += 1
        finally:
            self.yard.reached = amid
        self.seen["did"] += 1

    def fetch(self, name: str, files: tuple[int, bool]) -> None:
        if name not in self.models:
            self.yard.add(name)
            self.models[name] = Known(self.yard.clock)
        model = self.models[name]
        before = dict(model.files) if model.came_at is not None else None
        number, notes = files
        model.files = {"config.json": CONFIG, "model.safetensors": WEIGHTS[number]}
        if notes:
            model.files["notes.txt"] = f"of {name} alone".encode() * 20
        if model.files != before:
            self.yard.fetch(name, model.files, f"r{next(self.numbers)}")
            model.came_at = self.yard.clock
            self.seen["fetched"] += 1

    def use(self, name: str, times: int = 3) -> None:
        if name in self.models:
            self.yard.use(name, times)
            self.models[name].uses += [self.yard.clock] * times

    def pin(self, name: str) -> None:
        if name in self.models:
            self.models[name].pinned = not self.models[name].pinned
            self.yard.change(name, pinned=self.models[name].pinned)

    def prioritise(self, name: str) -> None:
        if name in self.models:
            priority = Priority.HIGH if self.models[name].priority is None else None
            self.models[name].priority = priority
            self.yard.change(name, priority=priority)

    def need(self, name: str, other: str = "oak") -> None:
        if name in self.models and name != other:
            wanted = None if self.models[name].needs else other
            self.models[name].needs = wanted
            self.yard.change(name, fallback=[{"model": wanted}] if wanted else [])

    def lock(self, name: str) -> None:
        if (model := self.models.get(name)) is not None and model.came_at is not None and not model.locked:
            with self.yard.database.session() as session:
                locks.demand(session, locks.entry_of(locks.standings(session, [name])[0]))
            model.locked = True

    def unlock(self, name: str) -> None:
        with self.yard.database.session() as session:
            if (row := session.get(LockedEntry, name)) is not None:
                session.delete(row)
        if name in self.models:
            self.models[name].locked = False

    def load(self, name: str) -> None:
        if name in self.models:
            try:
                self.yard.load(name)
                self.models[name].loaded = True
                self.seen["loaded"] += 1
            except Conflict:
                assert self.models[name].came_at is None

    def unload(self, name: str) -> None:
        if name in self.models:
            self.yard.unload(name)
            self.models[name].loaded = False

    def busy(self, name: str) -> None:
        """A job works on it, or has ended."""
        if (model := self.models.get(name)) is not None:
            if model.jobs:
                self.yard.ended(model.jobs.pop())
            else:
                model.jobs.append(self.yard.work(Verify(model_id=name)))

    def verify(self, name: str) -> None:
        """From its begin to its end."""
        if (model := self.models.get(name)) is not None and model.came_at is not None:
            try:
                assert self.yard.carry_out(Verify(model_id=name))["ok"]
            except Snooze:
                self.seen["waited"] += 1

    def remove(self, name: str) -> None:
        told = self._refused(name)
        if told is None:
            model = self.models.pop(name)
            assert (model.loaded, model.pinned, model.jobs) == (False, False, [])
            self.seen["removed"] += 1
        elif told != "waiting":
            model = self.models.get(name)
            assert told == "model_not_found" if model is None else "model_in_use" if model.loaded else "model_needed"

    def _refused(self, name: str) -> str | None:
        try:
            self.yard.remove(name)
        except (NotFound, Conflict, Snooze) as refused:
            return refused.code
        return None

    # -- cleanups -------------------------------------------------------------------------------------------

    @rule(percent=st.sampled_from([0, 20, 60, 100]))
    def disk(self, percent: int) -> None:
        """It is that full by now, of what the store holds."""
        self.yard.disk_total = max(1, self.yard.used() * 100 // percent) if percent else 2**40

    @rule()
    def clean_up(self) -> None:
        """Alone: exactly what the dry run says."""
        dry = self.yard.cleanup(dry_run=True)
        before, disk = self.yard.only_in_trash(), self.yard.used()
        self._watched(self.yard.cleanup, dry)
        assert self.yard.only_in_trash() - before == dry["frees"], "bytes freed are bytes promised"
        assert self.yard.used() == disk, "nothing is deleted"
        self.seen["cleaned up"] += 1

    @rule(meddlings=st.lists(meddling, min_size=1, max_size=3))
    def clean_up_in_the_midst_of_others(self, meddlings: list[tuple[str, str, str, tuple[int, bool]]]) -> None:
        """Others do at the points of it what they like."""
        left = list(meddlings)

        def meddle(point: str) -> None:
            for each in [one for one in left if one[0] == point]:
                left.remove(each)
                self._do(*each[1:])

        self._watched(self.yard.cleanup, None, meddle)
        self.seen["meddled with"] += len(meddlings) - len(left)

    @precondition(lambda self: self.cut_off is None)
    @rule(point=st.sampled_from(POINTS), nth=st.integers(1, 2))
    def clean_up_and_die(self, point: str, nth: int) -> None:
        """The worker dies at a point."""
        work, count = self.yard.work(Cleanup()), 0

        def die(reached: str) -> None:
            nonlocal count
            count += reached == point
            if reached == point and count == nth:
                raise Died

        try:
            self._watched(lambda: BODIES["model.cleanup"](Cleanup(), work), None, die)
            self.yard.ended(work)
        except Died:
            self.cut_off = work
            self.seen["cut off"] += 1

    @precondition(lambda self: self.cut_off is not None)
    @rule()
    def go_on(self) -> None:
        assert self.cut_off is not None
        work, self.cut_off = self.yard.again(self.cut_off), None
        self._watched(lambda: self.yard.carry_out(Cleanup(), work), None, resumed=True)
        self.seen["went on"] += 1

    @precondition(lambda self: self.cut_off is not None)
    @rule()
    def give_up(self) -> None:
        assert self.cut_off is not None
        self.yard.ended(self.cut_off)
        self.cut_off = None
        finish_abandoned(self.yard.services)

    def _watched(
        self, act: Any, dry: dict[str, Any] | None, meddle: Any = lambda _: None, *, resumed: bool = False
    ) -> None:
        """A cleanup, each of whose removals is judged at its moment."""

        def look(point: str) -> None:
            if point == "cleanup.taken_off":
                self._judge()
            meddle(point)

        self.yard.reached = look
        try:
            result = act()
        finally:
            self.yard.reached = lambda _: None
        if dry is not None:
            told = [(each["modelId"], each["revision"], each["frees"]) for each in dry["recommendations"]]
            assert [(each["modelId"], each["revision"], each["frees"]) for each in result["removed"]] == told
            assert (result["left"], result["promised"], result["frees"]) == ([], dry["frees"], dry["frees"])
        for each in result["removed"]:
            self.seen["left"] += 1
            if not resumed:  # what the attempt before had put there may have come back since
                assert all((self.yard.layout.trash_root / entry).is_dir() for entry in each["entries"])

    def _judge(self) -> None:
        """Who has just been taken off the list was needed by nobody."""
        there = self.yard.installed()
        (name,) = [each for each, model in self.models.items() if model.came_at is not None and each not in there]
        model, now = self.models[name], self.yard.clock
        recent = [at for at in model.uses if at // DAY > now // DAY - 30]
        per_day = len(recent) / min(30.0, max(1.0, (now - model.created_at) / DAY))
        idle = (now - max([model.came_at or 0.0, *model.uses])) / DAY
        held = {
            "pinned": model.pinned, "loaded": model.loaded, "busy": bool(model.jobs), "locked": model.locked,
            "needed": any(each.needs == name for each in self.models.values()),
            "new": now - (model.came_at or 0.0) < 7 * DAY, "used": per_day >= 0.1,
            "high": (model.priority if model.priority is not None else Priority.LOW) <= Priority.HIGH or per_day > 1,
            "not unused, and the disk has room": idle < 30 and self.yard.used() <= 0.8 * self.yard.disk_total,
        }  # fmt: skip
        assert not [why for why, holds in held.items() if holds], name
        model.came_at = None

    # -- undo, and the end ----------------------------------------------------------------------------------

    @rule(choice=st.integers(0, 5))
    def undo(self, choice: int) -> None:
        """Something comes back from the trash, whole, to where nothing is installed."""
        entries = [entry for entry in self.yard.trash() if self._of(entry) in NAMES]
        if not entries:
            return
        entry = entries[choice % len(entries)]
        name = self._of(entry)
        manifest = read(self.yard.layout.trash_root / entry / ".modelyard-manifest.json")
        there = {file.name: (self.yard.layout.trash_root / entry / file.name).read_bytes() for file in manifest.files}
        if name in self.models and (self.models[name].came_at is not None or self.models[name].jobs):
            return
        try:
            assert self.yard.restore(name, entry)["ok"]
        except Snooze:
            return
        model = self.models.setdefault(name, Known(self.yard.clock))
        model.came_at, model.files = self.yard.clock, there
        model.pinned = self._pinned(name)
        folder = Path(self.yard.installed()[name].path)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == there
        self.seen["undone"] += 1

    @staticmethod
    def _of(entry: str) -> str:
        return entry.split("-")[1]

    def _pinned(self, name: str) -> bool:
        from shared.db import catalog

        with self.yard.database.reading() as session:
            return catalog.get_model(session, name).pinned

    @rule()
    def empty(self) -> None:
        free, before = self.yard.only_in_trash(), self.yard.used()
        empty_trash(self.yard.layout, -1, 2**40)
        assert before - self.yard.used() == free

    @invariant()
    def rows_and_folders_agree(self) -> None:
        there = self.yard.installed()
        assert set(there) == {name for name, model in self.models.items() if model.came_at is not None}
        for name, row in there.items():
            found = {path.name: path.read_bytes() for path in Path(row.path).iterdir()}
            assert found == self.models[name].files, name
        rows = {Path(row.path) for row in there.values()}
        rows |= {Path(row.path).with_name(row.previous_revision) for row in there.values() if row.previous_revision}
        folders = set(self.yard.layout.models_root.glob("*/*/*"))
        assert rows <= folders
        rows |= self.yard.were_in_memory()  # newer ones came; these go when the store is next put in order
        assert all(folder.parent.name in self._leaving() for folder in folders - rows), folders - rows

    def _leaving(self) -> set[str]:
        """Models that a cleanup which was cut off has taken off the list."""
        if self.cut_off is None:
            return set()
        with self.yard.database.reading() as session:
            steps = retention.steps(session, self.cut_off.job_id)
        return {step.model_id for step in steps if step.state == StepState.LEAVING}


@pytest.fixture
def yard(tmp_path: Path, fresh_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    yard = Yard(tmp_path, fresh_sqlite, monkeypatch)
    yield yard
    yard.close()


@pytest.mark.fault("F-9", "F-50", "F-51", "F-52", "F-53", "F-54")
@pytest.mark.timeout(3000)
def test_nothing_that_is_needed_ever_leaves(yard: Yard) -> None:
    World.yard, World.seen = yard, Counter()
    assert yard.clock == BEGIN
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=MANY, stateful_step_count=STEPS, deadline=None, database=None,
            phases=(Phase.generate, Phase.shrink), derandomize=MANY == FEW,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    print(dict(World.seen))
    assert World.seen["programs"] >= MANY
    assert min(World.seen[what] for what in ("cleaned up", "left", "meddled with", "cut off", "undone")) > 0
