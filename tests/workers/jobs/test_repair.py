"""Damage on disk: every flipped byte is found, and costs its chunk and no more."""

import mmap
import os
import random
from pathlib import Path

import pytest

from shared.contracts import Repair, Verify
from shared.errors import Conflict
from shared.states import VerifyTier
from tests.factories.repository import make_repository, weights
from tests.workers.jobs.conftest import Place
from workers.store.manifest import CHUNK_BYTES

MIB = 1024**2
CHUNK = CHUNK_BYTES
BIG = 3 * CHUNK + 5 * MIB
FLIPS = int(os.environ.get("MODELYARD_TEST_FLIPS", "12"))


@pytest.fixture
def weights_file(place: Place) -> Path:
    make_repository(place.repositories / "tiny" / "oak", model=BIG, other=MIB)
    place.pull("oak", "tiny/oak")
    return place.folder("oak") / "model.safetensors"


@pytest.mark.fault("F-57")
@pytest.mark.timeout(600)
def test_every_flip_is_found_and_costs_at_most_two_chunks(place: Place, weights_file: Path) -> None:
    whole = weights_file.read_bytes()
    chance, most = random.Random(4), 0
    for _ in range(FLIPS):
        at = chance.randrange(len(whole))
        place.damage(weights_file, at)
        report = place.run(Verify(model_id="oak"))
        start, end = at // CHUNK * CHUNK, min(at // CHUNK * CHUNK + CHUNK, len(whole))
        assert report["corrupted"] == [{"name": "model.safetensors", "ranges": [[start, end]]}]
        assert place.status("oak") == "corrupted"
        before = place.hub.sent("/cdn/")
        done = place.run(Repair(model_id="oak"))
        sent = place.hub.sent("/cdn/") - before
        assert 0 < sent <= 2 * CHUNK, "over one where a connection takes over the rest of another's"
        most = max(most, sent)
        assert done["refetchedBytes"] == end - start
        assert done["ranges"] == report["corrupted"]
        assert place.status("oak") == "available"
    assert weights_file.read_bytes() == whole
    print(f"{FLIPS} flips, {FLIPS} found; one chunk mended each, at most {most / MIB:.1f} MiB sent for it")


def test_whoever_has_the_damaged_file_mapped_keeps_it(place: Place, weights_file: Path) -> None:
    place.damage(weights_file, CHUNK + 7)
    with weights_file.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before, inode = bytes(mapped[CHUNK : CHUNK + 100]), weights_file.stat().st_ino
        other = weights_file.with_name("other.safetensors").stat().st_ino
        place.run(Repair(model_id="oak"))
        assert bytes(mapped[CHUNK : CHUNK + 100]) == before, "nothing is written to a published file"
        assert weights_file.read_bytes()[CHUNK : CHUNK + 100] != before
        assert weights_file.stat().st_ino != inode
        assert weights_file.with_name("other.safetensors").stat().st_ino == other, "what is whole stays as it is"


@pytest.mark.parametrize("harm", ["cut off", "too long", "gone", "all but empty"])
def test_wrong_lengths_and_missing_files(place: Place, weights_file: Path, harm: str) -> None:
    whole = weights_file.read_bytes()
    weights_file.chmod(0o600)
    most = {"cut off": 3 * CHUNK, "too long": CHUNK, "gone": len(whole), "all but empty": len(whole)}[harm]
    if harm == "gone":
        weights_file.unlink()
    else:
        os.truncate(weights_file, {"cut off": CHUNK, "too long": BIG + CHUNK, "all but empty": 1}[harm])
    before = place.hub.sent("/cdn/")
    done = place.run(Repair(model_id="oak"))
    assert weights_file.read_bytes() == whole
    assert done["refetchedBytes"] <= most
    assert place.hub.sent("/cdn/") - before <= most + CHUNK


@pytest.mark.parametrize(
    ("at", "stays"), [("repair.staged", True), ("download.fetched", True), ("publish.settled", False)]
)
def test_a_repair_that_was_cut_off_is_finished(
    place: Place, weights_file: Path, monkeypatch: pytest.MonkeyPatch, at: str, *, stays: bool
) -> None:
    whole = weights_file.read_bytes()
    place.damage(weights_file, 5, 2 * CHUNK + 5)

    def cut(*name: str) -> None:
        if ".".join(name) == at:
            raise KeyboardInterrupt

    for module in ("workers.jobs.repair", "workers.jobs.download", "workers.store.publish"):
        monkeypatch.setattr(f"{module}.reached", cut)
    with pytest.raises(KeyboardInterrupt):
        place.run(Repair(model_id="oak"))
    assert (weights_file.read_bytes() != whole) or not stays
    monkeypatch.undo()
    before = place.hub.sent("/cdn/")
    place.run(Repair(model_id="oak"))
    assert weights_file.read_bytes() == whole
    assert place.hub.sent("/cdn/") - before <= 4 * CHUNK, "two chunks, each at most twice"
    assert not place.layout.staging("oak", place.row("oak").revision).exists()


def test_unknown_files_are_taken_out(place: Place, weights_file: Path) -> None:
    (weights_file.parent / "evil.py").write_text("import os")
    assert place.run(Verify(model_id="oak", tier=VerifyTier.STAT))["extra"] == ["evil.py"]
    assert place.status("oak") == "corrupted"
    done = place.run(Repair(model_id="oak"))
    assert (done["removed"], done["refetchedBytes"]) == (["evil.py"], 0)
    assert not (weights_file.parent / "evil.py").exists()


def test_the_source_has_moved_on(place: Place, weights_file: Path) -> None:
    (place.repositories / "tiny" / "oak" / "other.safetensors").write_bytes(weights(MIB, 77))
    place.damage(weights_file, 9)
    with pytest.raises(Conflict) as caught:
        place.run(Repair(model_id="oak"))
    assert caught.value.code in ("source_changed", "source_not_found")


def test_tiers(place: Place, weights_file: Path) -> None:
    look = place.run(Verify(model_id="oak", tier=VerifyTier.STAT))
    assert (look["ok"], look["checkedBytes"], look["tier"]) == (True, 0, "stat")
    asked = place.run(Verify(model_id="oak", tier=VerifyTier.SOURCE))
    assert (asked["ok"], asked["checkedBytes"], asked["unpromised"]) == (True, place.row("oak").size, [])
    verified = place.row("oak").verified_at
    place.damage(weights_file, CHUNK + 9)
    assert place.run(Verify(model_id="oak", tier=VerifyTier.STAT))["ok"], "a look sees no flipped bit"
    assert place.row("oak").verified_at == verified, "a look proves nothing"
    assert not place.run(Verify(model_id="oak", tier=VerifyTier.SOURCE))["ok"]
    assert place.run(Verify(model_id="oak", tier=VerifyTier.STAT))["ok"]
    assert place.status("oak") == "corrupted", "a look clears no quarantine"
