"""What left the store comes back whole, with its registry entry, or not at all."""

import time

import pytest

from shared.contracts import Remove, Restore, Rollback, Update, Verify
from shared.db import catalog, upkeep
from shared.db.reports import StoreReport
from shared.errors import Cancelled, Conflict, Corrupt, NotFound
from tests.factories.repository import make_repository, weights
from tests.workers.jobs.conftest import Place
from workers.job import BODIES
from workers.stock import take_stock
from workers.store import trash

MIB = 1024**2
REPO = "tiny/oak"


@pytest.fixture
def oak(place: Place) -> Place:
    make_repository(place.repositories / REPO, model=MIB)
    place.pull("oak", REPO)
    return place


def report(place: Place) -> StoreReport:
    with place.services.database.reading() as session:
        (found,) = upkeep.reports(session)
    return found


def removed(place: Place) -> str:
    place.run(Remove(model_id="oak"))
    (entry,) = trash.entries(place.layout)
    return entry.name


def test_a_removed_model_comes_back_as_it_was(oak: Place) -> None:
    size, revision = oak.row("oak").size, oak.row("oak").revision
    entry = removed(oak)
    (told,) = report(oak).report["trashed"]
    assert (told["id"], told["modelId"], told["restorable"], told["revision"]) == (entry, "oak", True, revision)
    assert told["goesAt"] - told["trashedAt"] == 7 * 86_400
    before = oak.hub.sent("/cdn/")
    done = oak.run(Restore(model_id="oak", entry=entry))
    assert (done["ok"], done["size"]) == (True, size)
    assert oak.hub.sent("/cdn/") == before
    with oak.services.database.reading() as session:
        assert catalog.get_model(session, "oak").description == "made for oak"
    assert oak.run(Verify(model_id="oak"))["ok"]
    assert {path.name for path in oak.folder("oak").iterdir()} == {"config.json", "model.safetensors"}
    assert list(trash.entries(oak.layout)) == []
    with pytest.raises(NotFound):
        oak.run(Restore(model_id="oak", entry=entry))


@pytest.mark.parametrize("at", ["restore.registered", "restore.moved", "publish"])
def test_a_restore_that_was_cut_off_is_finished(oak: Place, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    entry = removed(oak)
    work = oak.work(Restore(model_id="oak", entry=entry))

    def cut(*name: str) -> None:
        if ".".join(name) == at:
            raise KeyboardInterrupt

    for module in ("workers.jobs.restore", "workers.store.publish"):
        monkeypatch.setattr(f"{module}.reached", cut)
    if at == "publish":
        monkeypatch.setattr("workers.jobs.restore.proven", lambda *_: cut("publish"))
    with pytest.raises(KeyboardInterrupt):
        BODIES["model.restore"](Restore(model_id="oak", entry=entry), work)
    monkeypatch.undo()
    second = oak.next_attempt(work)
    assert BODIES["model.restore"](Restore(model_id="oak", entry=entry), second)["ok"]
    assert oak.run(Verify(model_id="oak"))["ok"]


def test_cancelled_while_it_is_proven_it_is_in_the_trash_again(oak: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the store without a row that tells of it."""
    entry = removed(oak)

    def cancelled(*_: object) -> None:
        raise Cancelled("cancelled")

    monkeypatch.setattr("workers.jobs.restore.proven", cancelled)
    with pytest.raises(Cancelled):
        oak.run(Restore(model_id="oak", entry=entry))
    monkeypatch.undo()
    (again,) = trash.entries(oak.layout)
    assert not list(oak.layout.published_revisions("llm", "oak"))
    assert oak.run(Restore(model_id="oak", entry=again.name))["ok"]


def test_what_was_damaged_in_the_trash_comes_back_quarantined(oak: Place) -> None:
    entry = removed(oak)
    oak.damage(trash.find(oak.layout, entry).path / "model.safetensors", 500)
    done = oak.run(Restore(model_id="oak", entry=entry))
    assert not done["ok"]
    assert oak.status("oak") == "corrupted"


def test_another_model_has_the_name_by_now(oak: Place) -> None:
    entry = removed(oak)
    make_repository(oak.repositories / "tiny" / "elm", model=1000)
    oak.pull("oak", "tiny/elm")
    with pytest.raises(Conflict) as caught:
        oak.run(Restore(model_id="oak", entry=entry))
    assert caught.value.code == "other_model"
    assert trash.find(oak.layout, entry), "it stays in the trash"


def test_an_earlier_revision_comes_back_for_a_rollback(oak: Place) -> None:
    first = oak.row("oak").revision
    for seed in (10, 11):
        (oak.repositories / REPO / "model.safetensors").write_bytes(weights(MIB, seed))
        oak.run(Update(model_id="oak"))
    (entry,) = trash.entries(oak.layout)
    assert oak.run(Restore(model_id="oak", entry=entry.name))["keptForRollback"]
    assert oak.row("oak").previous_revision == first
    assert oak.run(Rollback(model_id="oak"))["revision"] == first


def test_a_damaged_earlier_revision_does_not_come_back(oak: Place) -> None:
    for seed in (10, 11):
        (oak.repositories / REPO / "model.safetensors").write_bytes(weights(MIB, seed))
        oak.run(Update(model_id="oak"))
    (entry,) = trash.entries(oak.layout)
    oak.damage(entry.path / "model.safetensors", 77)
    with pytest.raises(Corrupt):
        oak.run(Restore(model_id="oak", entry=entry.name))
    (again,) = trash.entries(oak.layout)
    assert again.manifest is not None


def test_emptying_takes_only_what_is_ours_and_old(oak: Place) -> None:
    entry = removed(oak)
    (oak.layout.trash_root / "holiday-pictures").mkdir()
    half_gone = oak.layout.trash_root / f".going-{entry}"
    half_gone.mkdir()
    assert trash.empty_trash(oak.layout, 7 * 86_400, time.time()) == 0
    assert not half_gone.exists(), "an emptying that was cut off is finished"
    assert trash.empty_trash(oak.layout, 7 * 86_400, time.time() + 8 * 86_400) > MIB
    assert [path.name for path in oak.layout.trash_root.iterdir()] == ["holiday-pictures"]


def test_the_store_is_counted_once_and_oddities_are_told(oak: Place) -> None:
    oak.pull("twin", REPO)
    stray = oak.layout.published("llm", "stray", "r1")
    stray.mkdir(parents=True)
    (stray / "weights.bin").write_bytes(bytes(1000))
    part = oak.layout.partial("elm", "r1", "model.gguf")
    part.write_bytes(bytes(100_000))
    folder = oak.folder("oak")
    hidden = folder.rename(folder.with_name("hidden-by-hand"))
    take_stock(oak.services)
    row = report(oak)
    found = row.report
    size = oak.row("oak").size
    assert found["modelsSize"] < 2 * size, "what two models share is counted once"
    assert found["sharedBytes"] >= MIB
    assert {entry["modelId"]: entry["size"] for entry in found["byModel"]} == {"oak": size, "stray": 1000, "twin": size}
    assert found["byType"]["llm"] == found["modelsSize"]
    assert [(entry["modelId"], entry["size"] >= 100_000) for entry in found["partials"]] == [("elm", True)]
    assert {(entry["modelId"], entry["revision"]) for entry in found["orphans"]} == {
        ("stray", "r1"), ("oak", "hidden-by-hand")
    }  # fmt: skip
    assert [entry["modelId"] for entry in found["rowsWithoutFolder"]] == ["oak"]
    assert found["diskFree"] > 0
    assert hidden.is_dir(), "reported, and left"
    assert stray.is_dir()
