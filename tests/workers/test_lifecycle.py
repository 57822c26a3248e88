"""Chores of a worker process."""

from pathlib import Path

from shared.jobs import Ledger
from shared.progress import Leases, Workers
from shared.settings import Settings, StoreSettings
from workers.job import Services
from workers.lifecycle import alive_chore
from workers.store.layout import Layout
from workers.upkeep import keep_schedules


def services(ledger: Ledger, settings: Settings, root: Path, *, trash_days: float) -> Services:
    settings = settings.model_copy(update={"store": StoreSettings(trash_days=trash_days)})
    client = ledger.events.client
    layout = Layout(root)
    layout.ensure()
    return Services(
        settings, ledger.database, ledger.broker, ledger.events, Leases(client), Workers(client), ledger, layout,
        "me@test",
    )  # fmt: skip


def test_the_trash_is_emptied_after_its_grace_time_once_an_hour(
    ledger: Ledger, settings: Settings, tmp_path: Path
) -> None:
    mine = services(ledger, settings, tmp_path / "store", trash_days=7)
    fresh, old = mine.layout.trash("one", "r1"), tmp_path / "store" / "trash" / "1000-one-r1-0123abcd"
    for entry in (fresh, old):
        entry.mkdir(parents=True)
    keep_schedules(mine)
    assert (fresh.exists(), old.exists()) == (True, False)
    old.mkdir()
    keep_schedules(mine)
    assert old.exists(), "another process, the same hour"


def test_a_worker_shows_that_it_is_alive(ledger: Ledger, settings: Settings, tmp_path: Path) -> None:
    mine = services(ledger, settings, tmp_path / "store", trash_days=7)
    assert mine.workers.lanes() == set()
    alive_chore(mine, ("device.cpu",))()
    assert mine.workers.lanes() == {"device.cpu"}
