"""A disk that is full: refused before the first byte, or waiting with a reason, and going on once there is room."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.contracts import Download
from shared.errors import Exhausted, Snooze
from tests.factories.repository import make_repository
from tests.workers.jobs.conftest import Place
from workers.job import BODIES
from workers.store.layout import Layout

MIB = 1024**2
DISK = 64 * MIB


@pytest.fixture
def small_disk(place: Place, tmp_path: Path) -> Iterator[Place]:
    """The store on a disk of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: A FULL DISK IS NOT TESTED")
    mounted = tmp_path / "small"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(mounted)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"NO TMPFS HERE, A FULL DISK IS NOT TESTED: {made.stderr}")
    place.layout = place.services.layout = Layout(mounted / "store")
    place.layout.ensure()
    yield place
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.fault("A-48")
def test_what_does_not_fit_is_refused_before_the_first_byte(small_disk: Place) -> None:
    make_repository(small_disk.repositories / "tiny" / "large", model=DISK + MIB)
    with pytest.raises(Exhausted) as caught:
        small_disk.pull("large", "tiny/large")
    assert caught.value.code == "insufficient_space"
    assert small_disk.hub.sent("/cdn/") == 0
    assert names(small_disk.layout.staging_root) == set()


def fill(disk: Path) -> Path:
    """Somebody else writes until nothing is left."""
    hog = disk / "hog"
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        while file.write(bytes(64 * 1024)):
            pass
    return hog


@pytest.mark.fault("F-36")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_disk_that_fills_up_on_the_way_makes_the_job_wait(
    small_disk: Place, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    size, seen = 40 * MIB, 0
    make_repository(small_disk.repositories / "tiny" / "oak", model=size)
    small_disk.add("oak", "tiny/oak")
    work, disk = small_disk.work(Download(model_id="oak")), small_disk.layout.root.parent

    def count(*_: str) -> None:  # after every MiB
        nonlocal seen
        seen += 1
        if seen == int(share * 40):
            fill(disk)

    def carry_out() -> dict[str, object]:
        return BODIES["model.download"](Download(model_id="oak"), work)

    monkeypatch.setattr("workers.sources.transfer.carrier.reached", count)
    for _ in range(2):
        with pytest.raises(Snooze) as caught:
            carry_out()
        assert caught.value.code == "insufficient_space"
        assert caught.value.hint
        assert not small_disk.layout.published("llm", "oak", "any").parent.exists(), "nothing half is visible"
    brought = small_disk.hub.sent("/cdn/")
    (disk / "hog").unlink()
    assert carry_out()["size"] == small_disk.row("oak").size > size
    assert small_disk.hub.sent("/cdn/") - brought <= (1 - share) * size + 12 * MIB, "what was proven is kept"


def test_two_downloads_are_not_promised_the_same_room(small_disk: Place) -> None:
    partial = small_disk.layout.partial("other", "r1", "model.gguf")
    with partial.open("wb") as file:
        os.truncate(file.fileno(), 40 * MIB)
    make_repository(small_disk.repositories / "tiny" / "oak", model=30 * MIB)
    with pytest.raises(Exhausted):
        small_disk.pull("oak", "tiny/oak")
