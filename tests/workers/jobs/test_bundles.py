"""Models from a machine with a hub to one without: whole, or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.contracts import Bundle, Download, Rollback, Unbundle, Update, Verify
from shared.db import catalog, listing, locks, trust
from shared.db.session import Database
from shared.errors import Conflict, Corrupt, Exhausted, MadeWay, ModelyardError, NotFound, Paused, Snooze, Unsafe
from shared.jobs import Ledger
from shared.lock import LockedModel
from shared.settings import Settings, SourceSettings, StoreSettings
from shared.trust import Trust
from tests.conftest import put_database
from tests.factories.bundles import FILES, bad, good, lock_of, members, tar
from tests.factories.repository import make_repository, weights
from tests.workers.jobs.conftest import Place
from tests.workers.jobs.test_room import MIB, fill, small_disk
from workers.job import BODIES, Services
from workers.store.bundle_folder import BundleFolder
from workers.store.layout import Layout

__all__ = ["small_disk"]
DEAD_HUB = "http://127.0.0.1:9"


@pytest.fixture
def away(place: Place, tmp_path: Path, fresh_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Another machine: its own database and store, and no hub that it could reach."""
    monkeypatch.setenv("MODELYARD_DATA_DIR", str(tmp_path / "away"))
    put_database(fresh_sqlite, tmp_path / "away")
    settings = Settings()
    settings.store = StoreSettings(root=tmp_path / "away" / "store", reserve_bytes=0, scrub_rate=0)
    settings.sources = SourceSettings(hf_endpoint=DEAD_HUB, connect_timeout=1)
    database, here = Database(settings.database), place.services
    ledger = Ledger(database, settings.jobs, here.broker, here.events)
    layout = Layout(settings.store_root)
    layout.ensure()
    services = Services(
        settings, database, here.broker, here.events, here.leases, here.workers, ledger, layout, "away@test"
    )
    yield Place(services, place.hub, place.repositories)
    database.close()


@pytest.fixture
def oak(place: Place) -> str:
    make_repository(place.repositories / "tiny/oak", model=3 * MIB, more=MIB)
    place.pull("oak", "tiny/oak")
    return "oak"


def bundles(place: Place) -> Path:
    return place.services.settings.bundles_folder


def exported(place: Place, *models: str, name: str = "b.tar") -> dict[str, Any]:
    return place.run(Bundle(name=name, models=list(models)))


def carry(place: Place, away: Place, name: str = "b.tar") -> Path:
    """By hand, from one machine to the other."""
    bundles(away).mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(bundles(place) / name, bundles(away) / name))


def put(place: Place, raw: bytes, name: str = "b.tar") -> Path:
    bundles(place).mkdir(parents=True, exist_ok=True)
    path = bundles(place) / name
    path.write_bytes(raw)
    return path


def locked(place: Place, model_id: str) -> LockedModel:
    with place.services.database.reading() as session:
        return locks.entry_of(locks.standings(session, [model_id])[0])


def registered(place: Place) -> set[str]:
    with place.services.database.reading() as session:
        return {model.id for model in listing.page(session, listing.Wanted())}


def left_behind(place: Place) -> list[str]:
    """Everything that a refused import might have left."""
    roots = (place.layout.models_root, place.layout.staging_root, place.layout.manifests_root, place.layout.trash_root)
    return sorted(str(path) for root in roots for path in root.rglob("*"))


def test_what_leaves_here_arrives_there(place: Place, away: Place, oak: str) -> None:
    make_repository(place.repositories / "tiny/elm", model=MIB)
    place.pull("elm", "tiny/elm")
    told = exported(place, oak, "elm")
    path = bundles(place) / "b.tar"
    assert told["path"] == str(path)
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (told["size"], path.stat().st_mode & 0o777) == (path.stat().st_size, 0o640)
    assert [path.name for path in bundles(place).iterdir()] == ["b.tar"], "no draft is left"
    carry(place, away)
    asked = len(place.hub.requests)
    done = away.run(Unbundle(name="b.tar", sha256=told["sha256"]))
    assert [entry["modelId"] for entry in done["models"]] == ["elm", "oak"]
    for model_id in (oak, "elm"):
        assert locked(away, model_id) == locked(place, model_id)
        assert {file.name: file.read_bytes() for file in away.folder(model_id).iterdir()} == {
            file.name: file.read_bytes() for file in place.folder(model_id).iterdir()
        }
        assert all(file.stat().st_mode & 0o222 == 0 for file in away.folder(model_id).iterdir())
        assert away.run(Verify(model_id=model_id))["ok"]
        assert away.manifest(model_id).files[0].chunks == place.manifest(model_id).files[0].chunks
        assert str(away.row(model_id).came_from).startswith("bundle b.tar, lock sha256:")
    assert len(place.hub.requests) == asked, "no hub was needed"
    assert [path for path in away.layout.staging_root.rglob("*") if path.is_file()] == []


def test_equal_models_make_equal_bundles(place: Place, away: Place, oak: str) -> None:
    first = exported(place, oak)
    assert exported(place, oak, name="again.tar")["sha256"] == first["sha256"]
    carry(place, away)
    away.run(Unbundle(name="b.tar"))
    assert exported(away, oak, name="back.tar")["sha256"] == first["sha256"]


def test_asked_again_it_is_proven_and_not_written_again(place: Place, oak: str) -> None:
    first = exported(place, oak)
    path = bundles(place) / "b.tar"
    before = path.stat().st_ino
    assert exported(place, oak) == first
    assert path.stat().st_ino == before
    place.damage(path, path.stat().st_size // 2)
    with pytest.raises(Conflict) as refused:
        exported(place, oak)
    assert refused.value.code == "bundle_exists"


def test_a_name_that_is_taken_is_left(place: Place, oak: str) -> None:
    make_repository(place.repositories / "tiny/elm", model=MIB)
    place.pull("elm", "tiny/elm")
    exported(place, "elm")
    before = (bundles(place) / "b.tar").read_bytes()
    with pytest.raises(Conflict) as refused:
        exported(place, oak)
    assert refused.value.code == "bundle_exists"
    (bundles(place) / "link.tar").symlink_to("/etc/passwd")
    with pytest.raises(ModelyardError):
        exported(place, oak, name="link.tar")
    assert (bundles(place) / "b.tar").read_bytes() == before


def test_a_damaged_model_is_not_bundled(place: Place, oak: str) -> None:
    place.damage(place.folder(oak) / "model.safetensors", 2 * MIB)
    with pytest.raises(Corrupt) as refused:
        exported(place, oak)
    assert (refused.value.code, "modelyard repair oak" in refused.value.hint) == ("model_corrupt", True)
    assert list(bundles(place).iterdir()) == []
    place.run(Verify(model_id=oak))
    with pytest.raises(Conflict):
        exported(place, oak)


def test_what_a_killed_attempt_left_is_cleared_away(place: Place, oak: str) -> None:
    bundles(place).mkdir()
    (bundles(place) / ".b.tar.0a1b2c3d.draft").write_bytes(b"half")
    others = {".other.tar.0a1b2c3d.draft", ".b.tar.b.tar.0a1b2c3d.draft"}
    for name in others:
        (bundles(place) / name).write_bytes(b"of another job")
    exported(place, oak)
    assert {path.name for path in bundles(place).iterdir()} == {"b.tar", *others}


def test_two_jobs_do_not_write_one_bundle(place: Place, oak: str) -> None:
    """The second waits while the first is at it, whatever it bundles; afterwards the name is taken."""
    folder = BundleFolder.of(place.services.settings)
    with folder.draft("b.tar", 1, 0) as draft:
        draft.write(b"x")
        with pytest.raises(Snooze):
            exported(place, oak)
    with pytest.raises(Conflict):
        exported(place, oak)
    assert [path.name for path in bundles(place).iterdir()] == ["b.tar"]


@pytest.mark.fault("A-41", "A-42", "F-54")
@pytest.mark.parametrize(("name", "raw"), list(bad()), ids=[name for name, _ in bad()])
def test_what_is_no_bundle_leaves_nothing(away: Place, name: str, raw: bytes) -> None:
    put(away, raw)
    with pytest.raises(Corrupt) as refused:
        away.run(Unbundle(name="b.tar"))
    assert refused.value.code == "bundle_damaged"
    assert left_behind(away) == []
    assert registered(away) == set()


@pytest.mark.parametrize("planted", ["a link", "a folder", "a pipe", "nothing"])
def test_only_a_plain_file_is_read(away: Place, tmp_path: Path, planted: str) -> None:
    bundles(away).mkdir()
    path = bundles(away) / "b.tar"
    if planted == "a link":
        (tmp_path / "real.tar").write_bytes(good())
        path.symlink_to(tmp_path / "real.tar")
    elif planted == "a folder":
        path.mkdir()
    elif planted == "a pipe":
        os.mkfifo(path)
    with pytest.raises(ModelyardError) as refused:
        away.run(Unbundle(name="b.tar"))
    assert isinstance(refused.value, NotFound if planted == "nothing" else Conflict)
    assert refused.value.hint


def test_another_bundle_than_was_told_is_refused(away: Place) -> None:
    put(away, good())
    with pytest.raises(Corrupt) as refused:
        away.run(Unbundle(name="b.tar", sha256="0" * 64))
    assert refused.value.code == "bundle_mismatch"
    assert left_behind(away) == []
    away.run(Unbundle(name="b.tar", sha256=hashlib.sha256(good()).hexdigest()))
    assert away.status("acorn") == away.status("birch") == "available"


def test_the_first_model_waits_for_the_last_byte(away: Place) -> None:
    """Two models, and only the second one's weights are wrong."""
    raw = bytearray(good())
    raw[raw.rfind(b"models/birch/model.safetensors") + 512 + 200] ^= 1
    put(away, bytes(raw))
    with pytest.raises(Corrupt):
        away.run(Unbundle(name="b.tar"))
    assert left_behind(away) == []


@pytest.mark.parametrize(
    "known",
    [
        {"source_url": "other/acorn"},
        {"source": "url", "source_url": "https://example.com/acorn.gguf"},
        {"type": "tts"},
        {"id": "ACORN"},
    ],
    ids=str,
)
def test_an_id_keeps_its_meaning(away: Place, known: dict[str, str]) -> None:
    facts = {"id": "acorn", "type": "llm", "source": "huggingface", "source_url": "tiny/acorn"} | known
    with away.services.database.session() as session:
        catalog.add_model(session, catalog.Model(**facts, name="mine", created_at=0.0, updated_at=0.0))
    put(away, good())
    with pytest.raises(Conflict) as refused:
        away.run(Unbundle(name="b.tar"))
    assert (refused.value.code, f"modelyard rm {facts['id']}" in refused.value.hint) == ("other_model", True)
    assert left_behind(away) == []
    assert "birch" not in registered(away), "all or nothing"


def test_the_same_revision_with_other_bytes_is_no_update(away: Place) -> None:
    put(away, good())
    away.run(Unbundle(name="b.tar"))
    changed = {**FILES, "acorn": {**FILES["acorn"], "config.json": b'{"model_type": "gpt2"}'}}
    put(away, tar(lock_of(changed), members(changed)), "other.tar")
    with pytest.raises(Conflict) as refused:
        away.run(Unbundle(name="other.tar"))
    assert (refused.value.code, "acorn" in refused.value.message) == ("other_content", True)
    assert away.run(Verify(model_id="acorn"))["ok"]


def test_settings_of_a_known_model_stay(away: Place) -> None:
    facts = {"type": "llm", "source": "huggingface", "source_url": "tiny/acorn", "config": {"mine": 1}}
    with away.services.database.session() as session:
        catalog.add_model(session, catalog.Model(id="acorn", name="mine", created_at=0.0, updated_at=0.0, **facts))
    files = lock_of(config={"theirs": 2}, tags=["night"], enabled=False)
    put(away, tar(files, members()))
    away.run(Unbundle(name="b.tar"))
    assert (locked(away, "acorn").name, locked(away, "acorn").config) == ("mine", {"mine": 1})
    birch = locked(away, "birch")
    assert (birch.config, birch.tags, birch.enabled) == ({"theirs": 2}, ["night"], False)


def test_an_update_comes_in_a_bundle_and_goes_back(place: Place, away: Place, oak: str) -> None:
    exported(place, oak)
    carry(place, away)
    away.run(Unbundle(name="b.tar"))
    old = away.row(oak).revision
    (place.repositories / "tiny/oak/more.safetensors").write_bytes(weights(MIB, 9))
    place.run(Update(model_id=oak))
    exported(place, oak, name="newer.tar")
    carry(place, away, "newer.tar")
    (told,) = away.run(Unbundle(name="newer.tar"))["models"]
    assert (told["previous"], away.row(oak).previous_revision) == (old, old)
    before = away.layout.published("llm", oak, old)
    assert (away.folder(oak) / "model.safetensors").samefile(before / "model.safetensors"), "equal files are kept once"
    away.run(Rollback(model_id=oak))
    assert away.row(oak).revision == old
    (told,) = away.run(Unbundle(name="newer.tar"))["models"]
    assert told["previous"] == old, "what is kept for a rollback needs no byte of the bundle"
    assert away.run(Unbundle(name="newer.tar"))["models"][0]["alreadyPresent"] is True


def test_a_bundle_mends_what_is_damaged(away: Place) -> None:
    put(away, good())
    away.run(Unbundle(name="b.tar"))
    away.damage(away.folder("acorn") / "model.safetensors", 400)
    assert not away.run(Verify(model_id="acorn"))["ok"]
    assert away.status("acorn") == "corrupted"
    away.run(Unbundle(name="b.tar"))
    assert away.status("acorn") == "available"
    assert away.run(Verify(model_id="acorn"))["ok"]


@pytest.mark.fault("A-76", "A-77", "A-78")
def test_leave_is_given_here_and_not_where_the_bundle_was_made(away: Place) -> None:
    files = {"acorn": {**FILES["acorn"], "own.py": b"import os\n"}, "birch": FILES["birch"]}
    put(away, tar(lock_of(files), members(files)))
    with pytest.raises(Unsafe) as refused:
        away.run(Unbundle(name="b.tar"))
    assert refused.value.code == "remote_code_required"
    assert "PUT /api/v1/models/acorn/trust" in refused.value.hint
    assert 'POST /api/v1/models/add {"model_id": "acorn"' in refused.value.hint, "its trust needs an entry first"
    assert left_behind(away) == []
    away.add("acorn", "tiny/acorn")
    with away.services.database.session() as session:
        trust.decide(session, Trust("acorn", "a" * 40, remote_code=True), "a test")
    away.run(Unbundle(name="b.tar"))
    assert (away.folder("acorn") / "own.py").read_bytes() == b"import os\n"


def test_a_bundle_of_what_no_runner_loads_is_refused(away: Place) -> None:
    files = {"acorn": {"model.safetensors": b"<html>not found</html>"}}
    put(away, tar(lock_of(files), members(files)))
    with pytest.raises(ModelyardError) as refused:
        away.run(Unbundle(name="b.tar"))
    assert refused.value.code in ("content_mismatch", "invalid_format")
    assert left_behind(away) == []


@pytest.mark.parametrize("reason", [Paused("paused"), MadeWay("a more urgent job waits")], ids=["paused", "made way"])
def test_an_import_goes_on_where_it_was_stopped(
    place: Place, away: Place, oak: str, monkeypatch: pytest.MonkeyPatch, reason: Paused
) -> None:
    exported(place, oak)
    carry(place, away)
    contract = Unbundle(name="b.tar")
    work = away.work(contract)

    def stop(*name: str) -> None:
        if name == ("unbundle.staged",):
            work.stop(reason)

    monkeypatch.setattr("workers.jobs.unbundle.reached", stop)
    with pytest.raises(type(reason)):
        BODIES[contract.kind](contract, work)
    staged = {path.name: path.stat() for path in away.layout.staging_root.rglob("*") if path.is_file()}
    assert staged, "what was proven stays"
    assert not away.layout.models_root.is_dir() or not list(away.layout.models_root.rglob("*.safetensors"))
    away.services.ledger.stop(work.job_id, work.attempt)
    monkeypatch.undo()
    away.run(contract)
    for name, state in staged.items():
        file = (away.folder(oak) / name.removesuffix(".partial")).stat()
        whole = state.st_size == file.st_size
        assert not whole or file.st_ino == state.st_ino, "not written again"
    assert any(state.st_size for state in staged.values())
    assert away.run(Verify(model_id=oak))["ok"]


def test_half_a_file_of_a_killed_attempt_is_written_again(away: Place) -> None:
    put(away, good())
    for name, data in (("config.json", b"{"), ("model.safetensors", FILES["acorn"]["model.safetensors"][:-1] + b"\7")):
        away.layout.partial("acorn", "a" * 40, name).write_bytes(data)
    away.run(Unbundle(name="b.tar"))
    assert {file.name: file.read_bytes() for file in away.folder("acorn").iterdir()} == FILES["acorn"]


def test_a_refused_bundle_leaves_a_half_download_alone(place: Place, oak: str) -> None:
    """Its journal says whose the bytes are."""
    partial = place.layout.partial("birch", "a" * 40, "model.safetensors")
    partial.write_bytes(b"half")
    partial.with_name(partial.name + ".journal").write_text("{}\n")
    raw = bytearray(good())
    raw[raw.rfind(b"models/birch/config.json") + 512] ^= 1
    put(place, bytes(raw))
    with pytest.raises(Corrupt):
        place.run(Unbundle(name="b.tar"))
    assert partial.read_bytes() == b"half"


def test_while_a_model_is_worked_on_its_bundle_waits(away: Place, place: Place, oak: str) -> None:
    put(away, good())
    with away.layout.lock("birch"), pytest.raises(Snooze):
        away.run(Unbundle(name="b.tar"))
    with place.layout.lock(oak), pytest.raises(Snooze):
        exported(place, oak)


@pytest.mark.parametrize("published", [1, 2])
def test_a_crash_between_two_models_is_finished_by_the_next_attempt(
    away: Place, monkeypatch: pytest.MonkeyPatch, published: int
) -> None:
    """The folder of a model is there and its row is not: what a kill at that moment leaves."""
    put(away, good())
    seen: list[str] = []

    class Killed(BaseException):
        """Nothing catches it."""

    def kill(*name: str) -> None:
        seen.extend(name if name == ("unbundle.published",) else ())
        if len(seen) == published:
            raise Killed

    monkeypatch.setattr("workers.jobs.unbundle.reached", kill)
    with pytest.raises(Killed):
        away.run(Unbundle(name="b.tar"))
    monkeypatch.undo()
    away.run(Unbundle(name="b.tar"))
    for model_id in FILES:
        assert away.status(model_id) == "available"
        assert away.run(Verify(model_id=model_id))["ok"]


@pytest.mark.fault("A-48")
def test_a_bundle_that_does_not_fit_is_refused_before_a_byte(place: Place, away: Place, oak: str) -> None:
    place.services.settings.store.reserve_bytes = 2**60
    with pytest.raises(Exhausted) as refused:
        exported(place, oak)
    assert (refused.value.code, "MODELYARD_STORE__BUNDLES" in refused.value.hint) == ("insufficient_space", True)
    assert list(bundles(place).iterdir()) == []
    away.services.settings.store.reserve_bytes = 2**60
    put(away, good())
    with pytest.raises(Exhausted):
        away.run(Unbundle(name="b.tar"))
    assert left_behind(away) == []


@pytest.mark.fault("F-36")
def test_a_disk_that_fills_up_under_an_export(
    small_disk: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_repository(small_disk.repositories / "tiny/oak", model=20 * MIB)
    small_disk.pull("oak", "tiny/oak")
    disk, seen = small_disk.layout.root.parent, 0
    small_disk.services.settings.store.bundles = disk / "bundles"
    (disk / "bundles").mkdir()

    def count(*name: str) -> None:
        nonlocal seen
        seen += name == ("bundle.poured",)
        if seen == 10:
            fill(disk)

    monkeypatch.setattr("workers.jobs.bundle.reached", count)
    with pytest.raises(Exhausted) as refused:
        exported(small_disk, "oak")
    assert "MODELYARD_STORE__BUNDLES" in refused.value.hint
    assert list((disk / "bundles").iterdir()) == [], "nothing half is left"
    (disk / "hog").unlink()
    assert exported(small_disk, "oak")["size"] > 20 * MIB


@pytest.mark.fault("F-36")
def test_a_disk_that_fills_up_under_an_import_makes_it_wait(
    small_disk: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"acorn": {"config.json": b"{}", "model.safetensors": weights(30 * MIB, 1)}}
    put(small_disk, tar(lock_of(files), members(files)))
    contract, seen = Unbundle(name="b.tar"), 0

    def count(*name: str) -> None:
        nonlocal seen
        seen += name == ("unbundle.poured",)
        if seen == 15:
            fill(small_disk.layout.root.parent)

    work = small_disk.work(contract)
    monkeypatch.setattr("workers.jobs.unbundle.reached", count)
    for _ in range(2):
        with pytest.raises(Snooze) as waiting:
            BODIES[contract.kind](contract, work)
        assert waiting.value.code == "insufficient_space"
    assert "acorn" not in registered(small_disk)
    (small_disk.layout.root.parent / "hog").unlink()
    BODIES[contract.kind](contract, work)
    assert small_disk.run(Verify(model_id="acorn"))["ok"]


def test_a_folder_that_is_not_mounted_is_not_made(place: Place, tmp_path: Path, oak: str) -> None:
    place.services.settings.store.bundles = tmp_path / "usb"
    with pytest.raises(Conflict) as refused:
        exported(place, oak)
    assert (refused.value.code, str(tmp_path / "usb") in refused.value.hint) == ("bundles_missing", True)
    assert not (tmp_path / "usb").exists()


def test_models_that_others_keep_are_not_bundled(place: Place) -> None:
    for model_id in ("one", "nobody"):
        with pytest.raises(ModelyardError) as refused:
            exported(place, model_id)
        assert isinstance(refused.value, Conflict | NotFound)


def test_a_locked_download_finds_what_a_bundle_brought(place: Place, away: Place, oak: str) -> None:
    """No internet, and a lock all the same: it is carried out by what is there."""
    exported(place, oak)
    carry(place, away)
    away.run(Unbundle(name="b.tar"))
    entry = locked(place, oak)
    with away.services.database.session() as session:
        digest = locks.demand(session, entry)
    assert away.run(Download(model_id=oak, lock=digest))["alreadyPresent"] is True
