"""Who makes room for whom, as a plan says it; and what a change of who serves does to the rows."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlmodel import col, select

from shared import fit
from shared.db import catalog, residency, sleep
from shared.db.placement import Occupant, Plan, free_bytes, plan
from shared.db.reports import Device
from shared.db.tables import Installation, Model, Residency
from shared.errors import Conflict
from shared.jobs import Ledger
from shared.states import ResidencyState

GB = 10**9
SETTING = fit.Setting("llamacpp", "gpu", 4096)
NEED = fit.Need(4 * GB, 0, 0, 4 * GB, 0, fit.Basis.MEASURED)
NEW = Installation(
    model_id="new", model_type="llm", revision="1", state="published", path="/", size=4 * GB, files=1, integrity=1.0,
    published_at=0.0, verified_at=0.0,
)  # fmt: skip


def row(
    name: str, *, type_: str = "llm", active: bool = False, state: ResidencyState = ResidencyState.READY
) -> Residency:
    return Residency(
        id=name, model_id=name, model_type=type_, revision="1", device="gpu", runtime="llamacpp", state=state,
        active=active, memory_bytes=2 * GB, started_at=0.0,
    )  # fmt: skip


def there(name: str, *, unused: float = 0.0, age: float = 100.0, pinned: bool = False, **more: object) -> Occupant:
    return Occupant(row(name, **more), pinned, age, unused)  # type: ignore[arg-type] # as `row` takes them


def made(residents: Sequence[Occupant], *, free: int | None = 0, stay: float = 0.0) -> Plan:
    return plan(NEW, "gpu", SETTING, NEED, free, residents, stay)


def leaving(residents: Sequence[Occupant], *, free: int | None = 0, stay: float = 0.0) -> list[str]:
    return [one.model_id for one in made(residents, free=free, stay=stay).evictions]


def test_nobody_leaves_where_there_is_room() -> None:
    assert leaving([there("a")], free=4 * GB) == []
    assert leaving([there("a")], free=None) == [], "the device does not tell"


def test_the_longest_unused_leaves_first_and_who_serves_last() -> None:
    residents = [there("serves", unused=90, active=True), there("new", unused=1), there("old", unused=50)]
    assert leaving(residents, free=2 * GB) == ["old"]
    assert leaving(residents) == ["old", "new"]
    assert leaving(residents[:2]) == ["new", "serves"]


@pytest.mark.parametrize(
    ("stays", "hint"),
    [
        (there("other", type_="embedding", active=True), "Unload other: 2.0 GB."),
        (there("pinned", pinned=True), "Unpin pinned: 2.0 GB."),
        (there("serves", pinned=True, active=True), "Unpin serves: 2.0 GB."),
        (there("young", age=5), "Unload young: 2.0 GB."),
    ],
    ids=lambda given: given.row.model_id if isinstance(given, Occupant) else "",
)
def test_some_stay(stays: Occupant, hint: str) -> None:
    assert leaving([stays, there("a"), there("b")], stay=10) == ["a", "b"]
    with pytest.raises(Conflict) as refused:
        made([stays, there("a")], stay=10)
    assert refused.value.code == "will_not_fit"
    assert hint in refused.value.hint


def test_a_pin_keeps_a_model_and_not_its_runner() -> None:
    assert leaving([there("new", pinned=True), there("a")]) == ["new", "a"]


LARGE = Installation(
    **{**NEW.model_dump(), "facts": {"format": "transformers", "weightBytes": 70 * GB, "quantization": "BF16"}}
)
ON_GPU = fit.Setting("torch", "gpu", 4096)
WEIGHTS = fit.Need(70 * GB, 0, 0, 70 * GB, 0, fit.Basis.MEASURED)


@pytest.mark.parametrize(
    ("free", "piece_by_piece"), [(80 * GB, False), (64 * GB, True), (None, False)], ids=["room", "little", "unknown"]
)
def test_what_the_host_has_no_room_for_goes_to_the_gpu_piece_by_piece(free: int | None, piece_by_piece: bool) -> None:
    found = plan(LARGE, "gpu", ON_GPU, WEIGHTS, 100 * GB, [], host_free=free)
    assert found.piece_by_piece is piece_by_piece
    assert (found.host_bytes < GB) is piece_by_piece


def test_what_the_host_has_no_room_for_at_all_is_refused_with_its_numbers() -> None:
    on_cpu = ON_GPU._replace(lowered=fit.Lowered(on_cpu=True))
    for setting, free in ((ON_GPU, 100_000_000), (on_cpu, 64 * GB)):
        with pytest.raises(Conflict) as refused:
            plan(LARGE, "gpu", setting, WEIGHTS, 100 * GB, [], host_free=free)
        assert refused.value.code == "will_not_fit"
        assert refused.value.details["hostNeedBytes"] > refused.value.details["hostFreeBytes"] == free
    assert plan(LARGE, "gpu", on_cpu, NEED, 100 * GB, [], host_free=80 * GB).host_bytes > 70 * GB


def test_nobody_leaves_a_gpu_who_has_nothing_of_it() -> None:
    beside = there("beside", unused=99)
    beside.row.memory_bytes = 0
    assert leaving([beside, there("a"), there("b")]) == ["a", "b"]


def test_what_drains_gives_room_to_nobody_yet() -> None:
    with pytest.raises(Conflict):
        made([there("a"), there("b", state=ResidencyState.DRAINING)])


def test_a_plan_is_another_one_where_others_leave() -> None:
    first, then = [there("a", unused=2), there("b", unused=1)], [there("a", unused=1), there("b", unused=2)]
    assert made(first, free=2 * GB).id != made(then, free=2 * GB).id
    assert made(first, free=2 * GB).id == made(first, free=2 * GB + 1).id


def installed(model_id: str) -> Installation:
    return Installation(
        model_id=model_id, model_type="llm", revision="1", state="published", path="/", size=GB, files=1,
        integrity=1.0, published_at=0.0, verified_at=0.0,
    )  # fmt: skip


def test_what_sleeps_is_free_all_the_same() -> None:
    """On a GPU that is what its process takes there."""
    on_cpu, on_gpu = row("a"), row("b")
    on_cpu.device, on_gpu.runtime = "cpu", "torch"
    process = fit.RUNTIME_BYTES["torch", "gpu"]
    assert free_bytes(GB, None, [], [on_cpu]) == 3 * GB
    assert free_bytes(GB, None, [], [on_gpu, on_gpu]) == GB + 2 * process
    assert free_bytes(GB, 2 * GB, [], [on_cpu]) == 2 * GB, "within what models may take"
    assert free_bytes(None, None, [], [on_cpu]) is None
    assert leaving([there("a")], free=free_bytes(NEED.total - process, None, [], [on_gpu])) == []
    assert leaving([], free=free_bytes(NEED.total - process, None, [], [on_gpu])) == [], "it fits"


class TestRows:
    """What a change of who serves does, in one transaction."""

    @pytest.fixture(autouse=True)
    def _types(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def _put(self, *rows: Residency) -> None:
        with self.ledger.database.session() as session:
            session.add_all(rows)

    def _now(self) -> dict[str, tuple[str, bool]]:
        with self.ledger.database.reading() as session:
            rows = session.exec(select(Residency).order_by(col(Residency.id))).all()
            return {one.id: (one.state, one.active) for one in rows}

    def _pin(self, model_id: str) -> None:
        with self.ledger.database.session() as session:
            model = session.get(Model, model_id)
            assert model is not None
            model.pinned = True
            session.add(model)

    @pytest.mark.parametrize(
        ("before", "after"), [("ready", "draining"), ("lost", "stopped"), ("idle", "stopped"), ("draining", "draining")]
    )
    def test_who_served_makes_way(self, before: str, after: str) -> None:
        self._put(row("one", active=True, state=ResidencyState(before)), row("two"))
        with self.ledger.database.session() as session:
            residency.flip(session, row("two"))
        assert self._now() == {"one": (after, False), "two": ("ready", True)}

    def test_who_is_pinned_stays_in_memory(self) -> None:
        self._put(row("one", active=True), row("two"))
        self._pin("one")
        with self.ledger.database.session() as session:
            residency.flip(session, row("two"))
        assert self._now() == {"one": ("ready", False), "two": ("ready", True)}

    def test_who_is_pinned_and_lost_comes_back_to_memory_and_not_to_its_type(self) -> None:
        self._put(row("one", active=True, state=ResidencyState.LOST), row("two"))
        self._pin("one")
        with self.ledger.database.session() as session:
            residency.flip(session, row("two"))
            assert [one.model_id for one in residency.lost(session, "gpu")] == ["one"]
        assert self._now() == {"one": ("lost", False), "two": ("ready", True)}

    @pytest.mark.parametrize("change", [residency.flip, residency.take_over])
    def test_who_has_come_back_is_lost_no_more(self, change: Callable[..., object]) -> None:
        new = row("fresh")
        new.model_id = "one"
        self._put(row("one", state=ResidencyState.LOST), new)
        self._pin("one")
        with self.ledger.database.session() as session:
            change(session, new)
        assert self._now()["one"] == ("stopped", False)

    @pytest.mark.parametrize("pinned", [False, True])
    @pytest.mark.parametrize(
        ("before", "active", "after"),
        [
            ("ready", False, "draining"),
            ("lost", False, "stopped"),
            ("ready", True, "draining"),
            ("idle", True, "stopped"),
        ],
    )
    def test_a_runner_started_anew_takes_over(self, before: str, active: bool, after: str, pinned: bool) -> None:
        """Also where the model is pinned: that keeps it in memory, not its first runner."""
        new = row("fresh")
        old = row("one", active=active, state=ResidencyState(before))
        new.model_id = "one"
        self._put(old, new)
        if pinned:
            self._pin("one")
        with self.ledger.database.session() as session:
            going = residency.take_over(session, new)
            assert [one.id for one in going] == (["one"] if before == "ready" else [])
        assert self._now() == {"fresh": ("ready", active), "one": (after, False)}

    def test_who_is_idle_on_a_device_that_is_away_is_taken_over_all_the_same(self) -> None:
        """Else its type would be asked for again and again, and never be served."""
        old, new = row("one", active=True, state=ResidencyState.IDLE), row("fresh")
        new.model_id, new.device = "one", "another"
        self._put(old, new)
        with self.ledger.database.session() as session:
            assert residency.take_over(session, new) == []
        assert self._now() == {"fresh": ("ready", True), "one": ("stopped", False)}

    def test_a_switch_leaves_no_earlier_runner_of_its_model_behind(self) -> None:
        old, new = row("one"), row("two")
        new.model_id, new.revision, new.started_at = "one", "2", 1.0
        self._put(old, new)
        with self.ledger.database.reading() as session:
            newest = residency.resident(session, "one", "gpu")
        assert newest is not None
        assert newest.id == "two"
        with self.ledger.database.session() as session:
            residency.flip(session, new)
        assert self._now() == {"one": ("draining", False), "two": ("ready", True)}

    def test_the_first_load_changes_nothing_for_others(self) -> None:
        self._put(row("one", active=True), row("two"))
        with self.ledger.database.session() as session:
            assert residency.take_over(session, row("two")) == []
        assert self._now() == {"one": ("ready", True), "two": ("ready", False)}

    @pytest.mark.parametrize("serves", [True, False])
    def test_who_falls_asleep_serves_nothing_and_its_type_goes_on_waiting(self, serves: bool) -> None:
        old = row("one", active=serves, state=ResidencyState.DRAINING)
        old.device = "cpu"
        self._put(old)
        with self.ledger.database.session() as session:
            fell, in_its_place = sleep.fall_asleep(session, old, ResidencyState.IDLE, GB)
        rows = self._now()
        assert fell
        assert rows.pop("one") == ("asleep", False)
        assert rows == ({in_its_place: ("idle", True)} if serves else {})
        with self.ledger.database.session() as session:
            assert [one.id for one in sleep.asleep(session, "cpu")] == ["one"]
            assert sleep.bytes_of_node(session, "local") == GB
            assert [one.id for one in sleep.outdated(session, "cpu")] == ["one"], "nothing is installed"
            session.add(installed("one"))
        with self.ledger.database.session() as session:
            assert sleep.outdated(session, "cpu") == []
            assert sleep.wake_up(session, old)
            assert not sleep.put_out(session, old), "it is awake"
        with self.ledger.database.session() as session:
            assert not sleep.wake_up(session, old), "it is awake"
            assert sleep.fall_asleep(session, old, ResidencyState.IDLE, GB) == (False, None), "it does not drain"
        assert self._now()["one"] == ("starting", False)

    def test_two_devices_are_not_promised_the_same_room(self) -> None:
        """Whoever asks meanwhile waits until it is known whether the first one sleeps."""
        first, started = row("one", state=ResidencyState.DRAINING), Event()
        self._put(first)

        def ask() -> list[Residency] | None:
            started.set()
            with self.ledger.database.session() as session:
                return sleep.make_room(session, "local", "cpu", GB, GB)

        with ThreadPoolExecutor(1) as second:
            with self.ledger.database.session() as session:
                session.add(Device(id="gpu", kind="gpu", name="", node="local", memory_total=1, seen_at=0.0))
                assert sleep.make_room(session, "local", "gpu", GB, GB) == []
                answer = second.submit(ask)
                assert started.wait(30)
                assert sleep.fall_asleep(session, first, ResidencyState.IDLE, GB)[0]
            assert answer.result(30) is None

    def test_set_aside_only_who_serves_is_waited_for(self) -> None:
        self._put(row("one", active=True), row("two"))
        with self.ledger.database.session() as session:
            residency.lose(session, residency.of_ids(["one", "two"]), ResidencyState.IDLE)
            residency.lose(session, residency.of_device("gpu"))
        assert self._now() == {"one": ("idle", True), "two": ("stopped", False)}, "a restart loads nothing unasked"

    @pytest.mark.parametrize(
        ("before", "after"),
        [("ready", "lost"), ("draining", "lost"), ("starting", "stopped"), ("asleep", "stopped"), ("lost", "lost")],
    )
    def test_who_is_pinned_is_waited_for_if_it_was_in_memory(self, before: str, after: str) -> None:
        """And no more once nobody wants it to stay. A job that starts it is tried again by itself."""
        self._put(row("one", state=ResidencyState(before)), row("two"))
        self._pin("one")
        with self.ledger.database.session() as session:
            residency.lose(session, residency.of_device("gpu"))
            residency.stop_unpinned(session, "gpu")
            assert [one.model_id for one in residency.lost(session, "gpu")] == (["one"] if after == "lost" else [])
        assert self._now() == {"one": (after, False), "two": ("stopped", False)}
        with self.ledger.database.session() as session:
            catalog.change_model(session, "one", pinned=False)
            residency.stop_unpinned(session, "gpu")
        assert self._now()["one"] == ("stopped", False)
