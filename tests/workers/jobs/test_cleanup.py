"""A cleanup on a real store: what it promises is what it frees, what is needed stays, and what left comes back."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlmodel import col, update

from shared.contracts import Cleanup, Download, Remove, Restore, Run, Update, Verify
from shared.db import catalog, jobs, locks, profiles, residency, retention
from shared.db.facts import Facts
from shared.db.tables import Installation, Model, Residency
from shared.errors import Unavailable
from shared.profiles import ModelSettings, Profile
from shared.states import Holder, ResidencyState
from tests.factories.repository import make_repository, weights
from tests.workers.jobs.conftest import Place
from workers.job import BODIES, Work
from workers.stock import finish_abandoned, take_stock
from workers.store import trash

MIB = 1024**2
DAY = 86_400


@pytest.fixture
def yard(place: Place) -> Place:
    """Three models: two that nobody has used for two months, and one that is new."""
    for number, name in enumerate(("oak", "elm", "ash")):
        make_repository(place.repositories / "tiny" / name, model=MIB * (number + 1))
        place.pull(name, f"tiny/{name}")
    for name in ("oak", "elm"):
        aged(place, name, 60)
    return place


def aged(place: Place, model_id: str, days: float) -> None:
    """As if it had come so many days earlier."""
    with place.services.database.session() as session:
        moved = {"published_at": Installation.published_at - days * DAY}
        session.exec(update(Installation).where(col(Installation.model_id) == model_id).values(**moved))
        moved = {"created_at": Model.created_at - days * DAY}
        session.exec(update(Model).where(col(Model.id) == model_id).values(**moved))


def changed(place: Place, model_id: str, **values: Any) -> None:
    with place.services.database.session() as session:
        session.exec(update(Model).where(col(Model.id) == model_id).values(**values))


def on_disk(place: Place) -> int:
    """Bytes of every inode in the store, once, but for what describes it."""
    found = {}
    for folder in (place.layout.models_root, place.layout.trash_root, place.layout.staging_root):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith(".modelyard"):
                state = path.lstat()
                found[state.st_ino] = state.st_size
    return sum(found.values())


def emptied(place: Place) -> int:
    """Bytes that are free once the trash is empty."""
    before = on_disk(place)
    trash.empty_trash(place.layout, -1, 2**40)
    return before - on_disk(place)


def names(told: list[dict[str, Any]]) -> list[str]:
    return sorted(entry["modelId"] for entry in told)


def test_a_dry_run_says_what_the_real_one_does(yard: Place) -> None:
    before = on_disk(yard)
    dry = yard.run(Cleanup(dry_run=True))
    assert on_disk(yard) == before
    assert names(dry["recommendations"]) == ["elm", "oak"]
    real = yard.run(Cleanup())
    assert names(real["removed"]) == ["elm", "oak"]
    assert [entry["frees"] for entry in real["removed"]] == [entry["frees"] for entry in dry["recommendations"]]
    assert real["frees"] == real["promised"] == dry["frees"] > 2 * MIB
    assert emptied(yard) == dry["frees"]
    assert (yard.status("oak"), yard.status("ash")) == ("missing", "available")


def test_the_registry_keeps_the_entry_and_the_files_come_back_without_a_download(yard: Place) -> None:
    real = yard.run(Cleanup(models=["oak"]))
    ((entry,),) = [each["entries"] for each in real["removed"]]
    with yard.services.database.reading() as session:
        model = catalog.get_model(session, "oak")
        assert (model.description, Facts(session, ["oak"]).wanted(model)) == ("made for oak", False)
    sent = yard.hub.sent("/cdn/")
    assert yard.run(Restore(model_id="oak", entry=entry))["ok"]
    assert yard.hub.sent("/cdn/") == sent
    with yard.services.database.reading() as session:
        assert Facts(session, ["oak"]).wanted(catalog.get_model(session, "oak"))
    assert yard.run(Verify(model_id="oak"))["ok"]
    assert names(yard.run(Cleanup(dry_run=True))["recommendations"]) == ["elm"], "what has come back is not sent away"


def test_both_revisions_leave_and_come_back(yard: Place) -> None:
    first = yard.row("oak").revision
    (yard.repositories / "tiny/oak/model.safetensors").write_bytes(weights(MIB, 10))
    second = yard.run(Update(model_id="oak"))["revision"]
    aged(yard, "oak", 60)
    dry = yard.run(Cleanup(dry_run=True, models=["oak"]))
    real = yard.run(Cleanup(models=["oak"]))
    (removed,) = real["removed"]
    assert len(removed["entries"]) == 2
    for entry in removed["entries"]:
        yard.run(Restore(model_id="oak", entry=entry))
    row = yard.row("oak")
    assert (row.revision, row.previous_revision) == (second, first)
    assert real["frees"] == dry["frees"]


def test_files_that_a_model_shares_are_counted_when_the_last_of_them_leaves(yard: Place) -> None:
    yard.pull("twin", "tiny/oak")
    dry = yard.run(Cleanup(dry_run=True))
    assert names(dry["recommendations"]) == ["elm"], "without its twin it would free nothing"
    aged(yard, "twin", 60)
    dry = yard.run(Cleanup(dry_run=True))
    assert names(dry["recommendations"]) == ["elm", "oak", "twin"]
    assert yard.run(Cleanup())["frees"] == dry["frees"] == emptied(yard)


def pinned(place: Place) -> None:
    changed(place, "oak", pinned=True)


def prioritised(place: Place) -> None:
    changed(place, "oak", priority=1)


def needed_as_a_fallback(place: Place) -> None:
    changed(place, "ash", fallback=[{"model": "oak"}])


def needed_by_an_adapter(place: Place) -> None:
    changed(place, "ash", base_model="oak")


def in_the_profile(place: Place) -> None:
    with place.services.database.session() as session:
        profile = Profile(name="night", enabled_models=["oak"], settings={"oak": ModelSettings(load=False)})
        profiles.put(session, profile, in_file=False)
        profiles.take_effect(session, profile)


def locked(place: Place) -> None:
    with place.services.database.session() as session:
        locks.demand(session, locks.entry_of(locks.standings(session, ["oak"])[0]))


def loaded(place: Place) -> None:
    row = place.row("oak")
    with place.services.database.session() as session:
        residency.start(session, Residency(
            id="r", model_id="oak", model_type="llm", revision=row.revision, device="cpu", runtime="torch",
            state=ResidencyState.READY, started_at=0.0,
        ))  # fmt: skip


def asked_in_a_job(place: Place) -> None:
    place.services.ledger.submit(Run(model_id="oak", path="completions", request={"prompt": "x"}), origin="test")


def verified(place: Place) -> None:
    place.work(Verify(model_id="oak"))


def downloaded(place: Place) -> None:
    place.work(Download(model_id="oak", force_redownload=True))


NEEDS = {
    "pinned": pinned, "priority": prioritised, "fallback": needed_as_a_fallback, "base": needed_by_an_adapter,
    "profile": in_the_profile,
    "locked": locked, "loaded": loaded, "busy": asked_in_a_job, "busy while it is verified": verified,
    "busy while it comes down": downloaded,
}  # fmt: skip


@pytest.mark.fault("F-50")
@pytest.mark.parametrize(
    ("need", "when"),
    [*((need, "after it was planned") for need in NEEDS), *((need, "before") for need in ("base", "profile", "busy"))],
)
def test_what_is_needed_stays(yard: Place, need: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it came to be needed after the plan was made: then that is told."""
    if when == "before":
        NEEDS[need](yard)
        dry = yard.run(Cleanup(dry_run=True))
        (kept,) = [entry for entry in dry["kept"] if entry["modelId"] == "oak"]
        assert kept["holds"] == [need.partition(" ")[0]]
    else:
        at(monkeypatch, "cleanup.planned", lambda: NEEDS[need](yard))
    real = yard.run(Cleanup())
    assert names(real["removed"]) == ["elm"]
    assert real["frees"] == emptied(yard)
    if when != "before":
        (left,) = real["left"]
        assert (left["modelId"], left["holds"]) == ("oak", [need.partition(" ")[0]])
        assert real["promised"] > real["frees"]
    assert yard.folder("oak").is_dir()


def test_a_profile_in_force_keeps_its_models_until_its_new_words_are_applied(yard: Place) -> None:
    in_the_profile(yard)
    with yard.services.database.session() as session:
        profiles.put(session, Profile(name="night", enabled_models=["elm"]), in_file=False)
    assert names(yard.run(Cleanup(dry_run=True))["recommendations"]) == [], "neither what it has nor what it will have"
    with yard.services.database.session() as session:
        changed_words = profiles.read(session, "night", None)
        profiles.take_effect(session, changed_words)
        catalog.change_model(session, "elm", pinned=False)
    dry = yard.run(Cleanup(dry_run=True))
    assert names(dry["recommendations"]) == ["oak"], "from now on it is of no profile"
    assert [entry["holds"] for entry in dry["kept"]] == [["profile"]]


def at(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], None], *, times: int = 1) -> None:
    """Do something when a point of the code is reached, for the first time."""
    left = [times]

    def look(*name: str) -> None:
        if ".".join(name) == point and left[0]:
            left[0] -= 1
            act()

    for module in ("workers.jobs.cleanup", "workers.stock", "workers.store.publish"):
        monkeypatch.setattr(f"{module}.reached", look)


def test_what_was_used_or_changed_since_the_plan_is_left_and_told(yard: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile() -> None:
        with yard.services.database.session() as session:
            from shared.db import usage

            usage.record(session, [usage.Use("oak", 1.0, False)])
        yard.run(Remove(model_id="elm"))

    at(monkeypatch, "cleanup.planned", meanwhile)
    real = yard.run(Cleanup())
    assert real["removed"] == []
    assert {left["modelId"]: left["code"] for left in real["left"]} == {
        "oak": "model_changed",
        "elm": "model_not_found",
    }


def test_nothing_leaves_for_room_that_is_there_by_now(yard: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cleanup that rested for days goes on with its plan of then."""

    def policy(percent: float) -> None:
        with yard.services.database.session() as session:
            retention.change(session, {"max_unused_days": 1000.0, "max_storage_usage_percent": percent})

    policy(0.0)
    assert {each["reason"] for each in yard.run(Cleanup(dry_run=True))["recommendations"]} == {"storage"}
    at(monkeypatch, "cleanup.planned", lambda: policy(100.0))
    real = yard.run(Cleanup())
    assert real["removed"] == []
    assert {left["modelId"]: left["code"] for left in real["left"]} == {"oak": "disk_has_room", "elm": "disk_has_room"}
    assert yard.folder("oak").is_dir()


def test_who_may_not_leave_is_told_by_name(yard: Place) -> None:
    real = yard.run(Cleanup(models=["ash", "nobody", "oak"]))
    assert (names(real["removed"]), real["mayNotLeave"]) == (["oak"], ["ash", "nobody"])


def test_what_modelyard_did_not_put_there_is_never_touched(yard: Place, tmp_path: Path) -> None:
    """A model in place, an orphan of the store, and a folder that somebody put in the place of ours."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "weights.bin").write_bytes(bytes(MIB))
    with yard.services.database.session() as session:
        held = {"holder": Holder.FOLDER, "owned": False, "path": str(mine)}
        session.exec(update(Installation).where(col(Installation.model_id) == "oak").values(**held))
    folder = yard.folder("elm")
    aside = folder.rename(tmp_path / "aside")
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(bytes(1000))
    kept = yard.layout.manifest("elm", yard.row("elm").revision)
    kept.unlink()
    orphan = yard.layout.published("llm", "stray", "r1")
    orphan.mkdir(parents=True)
    (orphan / "weights.bin").write_bytes(bytes(MIB))
    real = yard.run(Cleanup())
    assert (real["removed"], [left["code"] for left in real["left"]]) == ([], ["path_not_owned"])
    assert (folder / "holiday.jpg").exists()
    assert (orphan / "weights.bin").exists()
    assert (mine / "weights.bin").exists()
    assert aside.exists()


@pytest.mark.fault("F-9")
@pytest.mark.parametrize(
    "point", ["cleanup.planned", "cleanup.taken_off", "remove.sealed", "cleanup.trashed", "the end"]
)
def test_a_cleanup_that_was_cut_off_goes_on(yard: Place, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    promised = yard.run(Cleanup(dry_run=True))["frees"]
    work = yard.work(Cleanup())
    cut_off(yard, work, point, monkeypatch)
    second = yard.next_attempt(work)
    real = BODIES["model.cleanup"](Cleanup(), second)
    assert names(real["removed"]) == ["elm", "oak"]
    assert all(len(entry["entries"]) == 1 for entry in real["removed"]), "once in the trash, and known by name"
    assert real["frees"] == promised == emptied(yard)
    assert not yard.layout.published_revisions("llm", "oak")


def cut_off(place: Place, work: Work, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut() -> None:
        raise KeyboardInterrupt

    at(monkeypatch, point, cut)
    if point == "the end":
        monkeypatch.setattr("workers.jobs.cleanup.after_change", lambda *_: cut())
    with pytest.raises(KeyboardInterrupt):
        BODIES["model.cleanup"](Cleanup(), work)
    monkeypatch.undo()


@pytest.mark.fault("F-9")
@pytest.mark.parametrize("sealed", [1, 2])
def test_its_days_in_the_trash_begin_when_it_gets_there(
    yard: Place, monkeypatch: pytest.MonkeyPatch, sealed: int
) -> None:
    """The worker dies on the way there, with one revision or with the other, and is off for longer than these days."""
    (yard.repositories / "tiny/oak/model.safetensors").write_bytes(weights(MIB, 10))
    yard.run(Update(model_id="oak"))
    aged(yard, "oak", 60)
    args, seen = Cleanup(models=["oak"]), list[str]()
    work = yard.work(args)

    def cut(*name: str) -> None:
        seen.append(".".join(name))
        if seen.count("remove.sealed") == sealed:
            raise KeyboardInterrupt

    monkeypatch.setattr("workers.store.publish.reached", cut)
    monkeypatch.setattr("workers.store.layout.time", SimpleNamespace(time=lambda: time.time() - 30 * DAY))
    with pytest.raises(KeyboardInterrupt):
        BODIES["model.cleanup"](args, work)
    monkeypatch.undo()
    (removed,) = BODIES["model.cleanup"](args, yard.next_attempt(work))["removed"]
    assert sorted(removed["entries"]) == [entry.name for entry in trash.entries(yard.layout)]
    trash.empty_trash(yard.layout, 7 * DAY, time.time())
    assert [entry.name for entry in trash.entries(yard.layout)] == sorted(removed["entries"][sealed - 1 :])


@pytest.mark.fault("F-9", "F-52")
def test_what_came_back_between_two_attempts_is_another_one(yard: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies when the model is off the list; it is asked for again, and the second attempt leaves it alone."""
    work = yard.work(Cleanup(models=["oak"]))
    at(monkeypatch, "cleanup.taken_off", interrupted)
    with pytest.raises(KeyboardInterrupt):
        BODIES["model.cleanup"](Cleanup(models=["oak"]), work)
    monkeypatch.undo()
    sent = yard.hub.sent("/cdn/")
    assert yard.run(Download(model_id="oak"))["alreadyPresent"]
    assert yard.hub.sent("/cdn/") == sent, "its files were still there"
    real = BODIES["model.cleanup"](Cleanup(models=["oak"]), yard.next_attempt(work))
    assert (real["removed"], [left["code"] for left in real["left"]]) == ([], ["model_back"])
    assert yard.run(Verify(model_id="oak"))["ok"]


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.fault("F-9", "F-54")
def test_what_a_cleanup_that_was_given_up_left_half_way_is_finished(
    yard: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job is cancelled, and no attempt comes any more: no folder stays without a row."""
    work = yard.work(Cleanup(models=["oak"]))
    at(monkeypatch, "cleanup.taken_off", interrupted)
    with pytest.raises(KeyboardInterrupt):
        BODIES["model.cleanup"](Cleanup(models=["oak"]), work)
    monkeypatch.undo()
    assert finish_abandoned(yard.services) == 0, "its next attempt is to do it"
    yard.services.ledger.cancel(work.job_id)
    yard.services.ledger.stop(work.job_id, work.attempt)
    assert finish_abandoned(yard.services) == 1
    assert not yard.layout.published_revisions("llm", "oak")
    (entry,) = trash.entries(yard.layout)
    assert yard.run(Restore(model_id="oak", entry=entry.name))["ok"]


@pytest.mark.fault("F-58")
@pytest.mark.parametrize("point", ["at once", "cleanup.planned", "cleanup.taken_off"])
def test_without_its_disk_nothing_leaves(yard: Place, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """The store's folder is there and empty, as an unmounted disk leaves it."""
    root, away = yard.layout.root, yard.layout.root.with_name("away")

    def unmount() -> None:
        root.rename(away)
        root.mkdir()

    if point == "at once":
        unmount()
    else:
        at(monkeypatch, point, unmount)
    work = yard.work(Cleanup())
    with pytest.raises(Unavailable) as refused:
        BODIES["model.cleanup"](Cleanup(), work)
    assert refused.value.code == "store_missing"
    monkeypatch.undo()
    take_stock(yard.services)
    assert {yard.status(name) for name in ("oak", "elm", "ash")} - {"missing"} == {"unavailable"}
    with yard.services.database.reading() as session, pytest.raises(Unavailable):
        retention.check_there(session)
    assert list(root.iterdir()) == [], "nothing is made where the disk should be"
    root.rmdir()
    away.rename(root)
    take_stock(yard.services)
    sent = yard.hub.sent("/cdn/")
    assert yard.run(Verify(model_id="ash"))["ok"]
    real = BODIES["model.cleanup"](Cleanup(), yard.next_attempt(work))
    assert names(real["removed"]) == ["elm", "oak"]
    for removed in real["removed"]:
        assert yard.run(Restore(model_id=removed["modelId"], entry=removed["entries"][0]))["ok"]
    assert yard.hub.sent("/cdn/") == sent, "nothing came a second time"


@pytest.mark.fault("F-58")
def test_a_disk_that_goes_away_in_the_middle_of_a_verify_convicts_nobody(
    yard: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, away = yard.layout.root, yard.layout.root.with_name("away")
    gone = [False]

    def unmount(*name: str) -> None:
        if ".".join(name) == "verify.hashed" and not gone[0]:
            gone[0] = True
            root.rename(away)
            root.mkdir()

    monkeypatch.setattr("workers.jobs.verify.reached", unmount)
    work = yard.work(Verify(model_id="ash"))
    with pytest.raises(Unavailable) as told:
        BODIES["model.verify"](Verify(model_id="ash"), work)
    assert (gone[0], told.value.code) == (True, "store_missing")
    take_stock(yard.services)
    assert yard.status("ash") == "unavailable"
    root.rmdir()
    away.rename(root)
    take_stock(yard.services)
    assert yard.status("ash") == "available"
    assert BODIES["model.verify"](Verify(model_id="ash"), yard.next_attempt(work))["ok"]


@pytest.mark.fault("F-53")
def test_two_models_of_the_same_files_of_which_one_leaves(yard: Place) -> None:
    yard.pull("twin", "tiny/oak")
    aged(yard, "twin", 60)
    changed(yard, "oak", pinned=True)
    (yard.repositories / "tiny/oak/notes.txt").write_text("only here")
    yard.run(Update(model_id="twin"))
    aged(yard, "twin", 60)
    real = yard.run(Cleanup(models=["twin"]))
    assert names(real["removed"]) == ["twin"]
    assert real["frees"] == emptied(yard) < MIB
    assert yard.run(Verify(model_id="oak"))["ok"]


def test_steps_are_forgotten_with_their_job(yard: Place) -> None:
    yard.run(Cleanup())
    with yard.services.database.session() as session:
        assert retention.prune(session) == 0
    with yard.services.database.session() as session:
        from shared.db.tables import Job

        for job in jobs.find(session, kind=Cleanup.kind):
            session.delete(session.get(Job, job.id))
    with yard.services.database.session() as session:
        assert retention.prune(session) == 2
