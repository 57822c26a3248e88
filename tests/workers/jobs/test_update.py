"""Newer revisions: what has changed is fetched, what served is kept, and the way back is open."""

from pathlib import Path

import pytest

from shared.contracts import Download, Remove, Rollback, Update, UpdateCheck, Verify
from shared.errors import Conflict, Corrupt
from tests.factories.repository import make_repository, weights
from tests.workers.jobs.conftest import Place
from workers.job import BODIES
from workers.store.trash import entries

MIB = 1024**2
REPO = "tiny/oak"


def publish_anew(place: Place, seed: int = 9) -> None:
    """The publisher changes one of two weight files."""
    (place.repositories / REPO / "changing.safetensors").write_bytes(weights(MIB, seed))


@pytest.fixture
def oak(place: Place) -> Path:
    make_repository(place.repositories / REPO, changing=MIB, staying=8 * MIB)
    place.pull("oak", REPO)
    return place.folder("oak")


def test_an_update_fetches_what_changed_and_keeps_what_served(place: Place, oak: Path) -> None:
    old = place.row("oak").revision
    assert place.run(UpdateCheck(model_id="oak"))["updateAvailable"] is False
    publish_anew(place)
    told = place.run(UpdateCheck(model_id="oak"))
    assert told["updateAvailable"] is True
    assert told["changedFiles"] == ["changing.safetensors"]
    assert place.row("oak").latest_revision == told["latest"] != old
    before = place.hub.sent("/cdn/")
    done = place.run(Update(model_id="oak"))
    fetched = place.hub.sent("/cdn/") - before
    assert fetched == told["bytesToFetch"] < 2 * MIB
    assert (done["updated"], done["previous"], done["revision"]) == (True, old, told["latest"])
    assert done["sharedBytes"] >= 8 * MIB
    new = place.folder("oak")
    assert new != oak
    assert {file.name: file.read_bytes() for file in new.iterdir()} == {
        file.name: file.read_bytes() for file in (place.repositories / REPO).iterdir()
    }
    assert (oak / "staying.safetensors").samefile(new / "staying.safetensors")
    assert place.row("oak").previous_revision == old, "kept for a rollback"
    assert place.run(Verify(model_id="oak"))["ok"]
    assert place.run(Update(model_id="oak"))["updated"] is False


@pytest.mark.fault("A-46")
def test_a_name_that_somebody_else_has_taken_is_not_followed(place: Place, oak: Path) -> None:
    old = place.row("oak").revision
    publish_anew(place)
    place.hub.library.forget(REPO)
    with pytest.raises(Conflict) as raised:
        place.run(Update(model_id="oak"))
    assert raised.value.code == "new_history"
    assert "--accept-new-history" in raised.value.hint
    assert place.row("oak").revision == old
    assert place.run(Verify(model_id="oak"))["ok"], "what is installed serves on"
    assert place.run(Update(model_id="oak", accept_new_history=True))["updated"] is True


def test_until_the_new_one_is_proven_the_old_one_serves(
    place: Place, oak: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place.row("oak").revision
    publish_anew(place)
    seen: list[tuple[str, bool]] = []

    def look(*name: str) -> None:
        if ".".join(name) == "download.fetched":
            seen.append((place.row("oak").revision, oak.is_dir()))
            assert place.status("oak") == "updating"

    monkeypatch.setattr("workers.jobs.download.reached", look)
    place.run(Update(model_id="oak"))
    assert seen == [(old, True)]


def test_back_and_forth_costs_no_byte(place: Place, oak: Path) -> None:
    with pytest.raises(Conflict) as caught:
        place.run(Rollback(model_id="oak"))
    assert caught.value.code == "nothing_to_roll_back_to"
    old = place.row("oak").revision
    publish_anew(place)
    place.run(Update(model_id="oak"))
    new, before = place.row("oak").revision, place.hub.sent("/cdn/")
    assert place.run(Rollback(model_id="oak"))["revision"] == old
    assert (place.row("oak").revision, place.row("oak").previous_revision) == (old, new)
    assert place.folder("oak") == oak
    assert place.run(Verify(model_id="oak"))["ok"]
    assert place.run(Update(model_id="oak"))["revision"] == new
    assert place.hub.sent("/cdn/") == before


def test_one_earlier_revision_is_kept_and_the_others_go_to_the_trash(place: Place, oak: Path) -> None:
    for seed in (10, 11):
        publish_anew(place, seed)
        place.run(Update(model_id="oak"))
    row = place.row("oak")
    assert place.layout.published_revisions("llm", "oak") == sorted([row.revision, str(row.previous_revision)])
    (entry,) = entries(place.layout)
    assert entry.manifest is not None
    assert entry.manifest.revision == oak.name


def test_a_damaged_earlier_revision_never_serves(place: Place, oak: Path) -> None:
    publish_anew(place)
    place.run(Update(model_id="oak"))
    new = place.row("oak").revision
    place.damage(oak / "changing.safetensors", 99)
    with pytest.raises(Corrupt) as caught:
        place.run(Rollback(model_id="oak"))
    assert caught.value.code == "previous_corrupt"
    assert place.row("oak").revision == new


@pytest.mark.fault("F-53")
def test_two_models_with_the_same_files_hold_them_once(place: Place, oak: Path) -> None:
    before = place.hub.sent("/cdn/")
    done = place.pull("copy", REPO)
    assert place.hub.sent("/cdn/") == before
    assert done["sharedBytes"] == place.row("oak").size - (oak / "config.json").stat().st_size
    copy = place.folder("copy")
    assert (copy / "staying.safetensors").samefile(oak / "staying.safetensors")
    place.run(Remove(model_id="oak"))
    assert place.run(Verify(model_id="copy"))["ok"], "the other name keeps the bytes"
    (entry,) = entries(place.layout)
    assert entry.size < MIB, "what another model shares is not freed with it"


def test_a_claim_that_is_not_true_is_fetched(place: Place, oak: Path) -> None:
    place.damage(oak / "staying.safetensors", 4 * MIB)
    before = place.hub.sent("/cdn/")
    place.pull("copy", REPO)
    assert place.hub.sent("/cdn/") - before > 8 * MIB
    assert place.run(Verify(model_id="copy"))["ok"], "nothing is shared unproven"


def test_fetched_again_means_fetched(place: Place, oak: Path) -> None:
    before = place.hub.sent("/cdn/")
    place.run(Download(model_id="oak", force_redownload=True))
    assert place.hub.sent("/cdn/") - before > 9 * MIB


def test_fetched_again_and_cut_off_before_the_end_is_not_fetched_a_third_time(place: Place, oak: Path) -> None:
    """Another attempt at a job finds what the one before had written down."""
    again = Download(model_id="oak", force_redownload=True)
    work = place.work(again)
    first = BODIES[Download.kind](again, work)
    before = place.hub.sent("/cdn/")
    assert BODIES[Download.kind](again, work)["revision"] == first["revision"]
    assert place.hub.sent("/cdn/") == before
