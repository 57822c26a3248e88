"""A download that a lock asked for: exactly its revision and its bytes, or nothing."""

import hashlib
from pathlib import Path

import pytest

from shared.contract import Contract
from shared.contracts import Download, Update
from shared.db import catalog, locks, trust
from shared.errors import Conflict, Corrupt, ModelyardError, NotFound, Unsafe
from shared.lock import LockedFile, LockedModel
from shared.trust import Trust
from tests.factories.repository import make_repository, weights
from tests.workers.jobs.conftest import Place

MIB = 1024**2
REPO = "tiny/oak"


@pytest.fixture
def entry(place: Place) -> LockedModel:
    """What a lock says of the model `oak`, which came down here and left again; its commit stays on the hub."""
    make_repository(place.repositories / REPO, model=2 * MIB, more=MIB)
    place.pull("oak", REPO)
    place.hub.library.keep(REPO)
    locked = locked_now(place, "oak")
    with place.services.database.session() as session:
        catalog.uninstall(session, "oak")
    place.layout.published("llm", "oak", locked.revision).rename(place.layout.root / "gone")
    return locked


def locked_now(place: Place, model_id: str) -> LockedModel:
    with place.services.database.reading() as session:
        return locks.entry_of(locks.standings(session, [model_id])[0])


def demanded(place: Place, entry: LockedModel) -> Contract:
    with place.services.database.session() as session:
        return Download(model_id=entry.model_id, lock=locks.demand(session, entry))


def kept_commit(place: Place, entry: LockedModel) -> Path:
    return place.repositories / f"{REPO}@{entry.revision}"


def move_on(place: Place, seed: int = 77) -> None:
    """The publisher has something newer."""
    (place.repositories / REPO / "model.safetensors").write_bytes(weights(2 * MIB, seed))


def test_the_locked_revision_comes_whatever_the_source_has_now(place: Place, entry: LockedModel) -> None:
    move_on(place)
    done = place.run(demanded(place, entry))
    assert done["revision"] == entry.revision
    assert locked_now(place, "oak").digests == entry.digests
    assert place.row("oak").latest_revision is None, "what the source offers was not asked"
    assert place.run(Update(model_id="oak"))["updated"] is True, "the branch is followed as before"
    assert place.run(demanded(place, entry))["alreadyPresent"] is True, "and the way back needs no byte"
    assert locked_now(place, "oak").digests == entry.digests


def test_what_is_there_as_locked_needs_no_source(place: Place, entry: LockedModel) -> None:
    place.run(demanded(place, entry))
    asked = len(place.hub.requests)
    changed = entry.model_copy(update={"config": {"contextLength": 512}, "tags": ["night"]})
    assert place.run(demanded(place, changed))["alreadyPresent"] is True
    assert len(place.hub.requests) == asked
    assert locked_now(place, "oak").settings == changed.settings


def tampered_weights(place: Place, entry: LockedModel) -> None:
    """The hub says a digest for it, and serves what has that digest."""
    file = kept_commit(place, entry) / "model.safetensors"
    file.write_bytes(weights(2 * MIB, 123))


def tampered_small_file(place: Place, entry: LockedModel) -> None:
    """The hub names no SHA-256 for it: only its bytes tell."""
    file = kept_commit(place, entry) / "config.json"
    file.write_text(file.read_text().replace("llama", "lllll"))


def longer_small_file(place: Place, entry: LockedModel) -> None:
    file = kept_commit(place, entry) / "config.json"
    file.write_text(file.read_text() + "\n")


def missing_file(place: Place, entry: LockedModel) -> None:
    (kept_commit(place, entry) / "more.safetensors").unlink()


@pytest.mark.parametrize("tamper", [tampered_weights, tampered_small_file, longer_small_file, missing_file])
def test_a_source_that_has_something_else_is_refused(place: Place, entry: LockedModel, tamper: object) -> None:
    move_on(place)
    tamper(place, entry)  # type: ignore[operator] # one of the above
    with pytest.raises(Corrupt) as refused:
        place.run(demanded(place, entry))
    assert refused.value.code == "lock_mismatch"
    assert refused.value.details["want"]
    assert "modelyard lock" in refused.value.hint
    assert place.status("oak") != "available"
    assert not place.layout.published("llm", "oak", entry.revision).exists()


def test_a_lock_that_was_edited_is_refused_after_the_bytes(place: Place, entry: LockedModel) -> None:
    """The source is right and the lock is wrong: the lock counts."""
    wrong = [
        LockedFile(name=file.name, size=file.size, sha256="0" * 64) if file.name == "config.json" else file
        for file in entry.files
    ]
    with pytest.raises(Corrupt) as refused:
        place.run(demanded(place, entry.model_copy(update={"files": wrong})))
    assert (refused.value.code, refused.value.details["name"]) == ("lock_mismatch", "config.json")


def test_files_beyond_the_lock_are_left_at_the_source(place: Place, entry: LockedModel) -> None:
    (kept_commit(place, entry) / "extra.json").write_text("{}")
    move_on(place)
    done = place.run(demanded(place, entry))
    assert "extra.json" in done["skipped"]
    assert locked_now(place, "oak").digests == entry.digests


def test_a_revision_that_is_gone_says_where_it_may_be(place: Place, entry: LockedModel) -> None:
    move_on(place)
    kept_commit(place, entry).rename(place.repositories / "elsewhere")
    with pytest.raises(NotFound) as refused:
        place.run(demanded(place, entry))
    assert refused.value.code == "locked_revision_gone"
    assert "bundle import" in refused.value.hint


def test_the_same_revision_with_other_bytes_is_brought_again(place: Place, entry: LockedModel) -> None:
    """Installed from a source that served something else then; the lock knows what is right."""
    move_on(place)
    tampered_weights(place, entry)
    with place.services.database.session() as session:
        model = catalog.get_model(session, "oak")
        model.revision = entry.revision
    place.run(Download(model_id="oak"))
    assert locked_now(place, "oak").digests != entry.digests
    original = place.layout.root / "gone" / "model.safetensors"
    (kept_commit(place, entry) / "model.safetensors").write_bytes(original.read_bytes())
    place.run(demanded(place, entry))
    assert locked_now(place, "oak").digests == entry.digests


def test_a_url_is_told_by_its_content(place: Place) -> None:
    make_repository(place.repositories / REPO, model=MIB)
    url = f"{place.hub.url}/files/{REPO}/model.safetensors"
    with place.services.database.session() as session:
        model = {"type": "llm", "source": "url", "source_url": url, "created_at": 0.0, "updated_at": 0.0}
        catalog.add_model(session, catalog.Model(id="plain", name="plain", **model))
        catalog.add_model(session, catalog.Model(id="other", name="other", **model))
    place.run(Download(model_id="plain"))
    other = locked_now(place, "plain").model_copy(update={"model_id": "other", "revision": "f" * 40})
    place.run(demanded(place, other))
    assert place.row("other").revision == "f" * 40, "another server calls the same content another name"
    wanted = LockedFile(name="model.safetensors", size=other.size, sha256="1" * 64)
    with pytest.raises(Corrupt) as refused:
        place.run(demanded(place, other.model_copy(update={"revision": "e" * 40, "files": [wanted]})))
    assert refused.value.code == "lock_mismatch"
    assert place.row("other").revision == "f" * 40


def test_a_lock_carries_no_leave(place: Place, entry: LockedModel) -> None:
    code = b"import os\n"
    (kept_commit(place, entry) / "own.py").write_bytes(code)
    move_on(place)
    file = LockedFile(name="own.py", size=len(code), sha256=hashlib.sha256(code).hexdigest())
    wanted = entry.model_copy(update={"files": [*entry.files, file]})
    with pytest.raises(Unsafe) as refused:
        place.run(demanded(place, wanted))
    assert (refused.value.code, "PUT /api/v1/models/oak/trust" in refused.value.hint) == ("remote_code_required", True)
    with place.services.database.session() as session:
        trust.decide(session, Trust("oak", entry.revision, remote_code=True), "a test")
    place.run(demanded(place, wanted))
    assert (place.folder("oak") / "own.py").read_bytes() == code


@pytest.mark.parametrize("how", ["another lock", "another model", "no lock"])
def test_a_lock_that_counts_no_longer_is_not_followed(place: Place, entry: LockedModel, how: str) -> None:
    contract = demanded(place, entry)
    if how == "another lock":
        demanded(place, entry.model_copy(update={"tags": ["x"]}))
    elif how == "another model":
        with place.services.database.session() as session:
            catalog.get_model(session, "oak").source_url = "tiny/elm"
    else:
        contract = Download(model_id="oak", lock="0" * 64)
    with pytest.raises(Conflict) as refused:
        place.run(contract)
    assert refused.value.code == "lock_superseded"


def test_a_locked_download_is_another_ask_than_a_plain_one(entry: LockedModel) -> None:
    locked = Download(model_id="oak", lock=entry.digest())
    assert locked.unique_key() != Download(model_id="oak").unique_key()
    assert len(locked.model_dump_json()) < 300, "its message stays small"


def test_every_way_to_be_installed_writes_the_files_down(place: Place, entry: LockedModel) -> None:
    """Also what was published before files were written down: the look at the store does it."""
    from workers.stock import take_stock

    place.run(demanded(place, entry))
    with place.services.database.session() as session:
        locks.put_files(session, "oak", "an earlier one", [])
    with pytest.raises(ModelyardError) as refused:
        locked_now(place, "oak")
    assert refused.value.code == "files_unlisted"
    take_stock(place.services)
    assert locked_now(place, "oak").digests == entry.digests
