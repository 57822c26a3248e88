"""What a verify finds, where, and how it stops."""

import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from shared.errors import Cancelled, Unavailable
from shared.states import VerifyTier
from tests.factories.malformed import good_safetensors
from tests.workers.store.conftest import Installed
from workers.store.layout import MARKER, SEAL, Layout
from workers.store.manifest import CHUNK_BYTES, Manifest
from workers.store.pace import Pace
from workers.store.verify import Report, prove, sha256_of, verify

BIG = 2 * CHUNK_BYTES + 1000
CHUNK = CHUNK_BYTES


def nothing() -> None:
    pass


def check(layout: Layout, manifest: Manifest, *, full: bool = True) -> Report:
    told: list[int] = []
    tier = VerifyTier.BLAKE3 if full else VerifyTier.STAT
    report = verify(layout, manifest, tier=tier, checkpoint=nothing, on_bytes=told.append)
    assert sum(told) == report.checked_bytes
    assert all(count >= 0 for count in told)
    json.dumps([report.to_dict(), report.findings()])
    assert bool(report.findings()) != report.ok
    return report


@pytest.fixture
def big(layout: Layout, installed: Installed) -> tuple[Layout, Manifest, Path]:
    manifest = installed({"big.dat": bytes(BIG), "empty": b"", "config.json": b"{}"})
    folder = layout.published("llm", "tiny", "r1")
    (folder / "big.dat").chmod(0o600)
    return layout, manifest, folder


def flip(path: Path, *places: int) -> None:
    """As a disk does it: the file's times say nothing."""
    before = path.stat()
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(b"\x01")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_whole_model(big: tuple[Layout, Manifest, Path]) -> None:
    layout, manifest, _ = big
    report = check(layout, manifest)
    assert report == Report((), (), (), (), 1.0, manifest.size, checked_files=len(manifest.files))
    assert report.ok
    assert check(layout, manifest, full=False) == Report((), (), (), (), 1.0, 0, tier=VerifyTier.STAT)


@pytest.mark.parametrize(
    ("places", "ranges"),
    [
        ([0], [(0, CHUNK)]),
        ([CHUNK - 1], [(0, CHUNK)]),
        ([CHUNK], [(CHUNK, 2 * CHUNK)]),
        ([BIG - 1], [(2 * CHUNK, BIG)]),
        ([0, BIG - 1], [(0, CHUNK), (2 * CHUNK, BIG)]),
        ([5, CHUNK + 5], [(0, 2 * CHUNK)]),
    ],
)
def test_flipped_bytes_are_found_in_their_chunks(
    big: tuple[Layout, Manifest, Path], places: list[int], ranges: list[tuple[int, int]]
) -> None:
    layout, manifest, folder = big
    flip(folder / "big.dat", *places)
    report = check(layout, manifest)
    assert [(file.name, list(file.ranges)) for file in report.corrupted] == [("big.dat", ranges)]
    assert report.bad_files() == {"big.dat"}
    lost = sum(end - start for start, end in ranges)
    assert report.score == pytest.approx((manifest.size - lost) / manifest.size)
    assert check(layout, manifest, full=False).ok, "names and sizes alone do not show it"


@pytest.mark.parametrize(
    ("length", "full", "ranges"),
    [
        (CHUNK + 10, True, [(CHUNK, BIG)]),
        (CHUNK + 10, False, [(0, BIG)]),
        (2 * CHUNK, True, [(2 * CHUNK, BIG)]),
        (0, True, [(0, BIG)]),
        (BIG + 7, True, [(BIG, BIG + 7)]),
        (BIG + 7, False, [(0, BIG + 7)]),
    ],
)
def test_wrong_lengths(
    big: tuple[Layout, Manifest, Path], length: int, ranges: list[tuple[int, int]], *, full: bool
) -> None:
    layout, manifest, folder = big
    os.truncate(folder / "big.dat", length)
    report = check(layout, manifest, full=full)
    assert [(file.name, list(file.ranges)) for file in report.corrupted] == [("big.dat", ranges)]
    assert not report.ok
    lost = sum(min(end, BIG) - min(start, BIG) for start, end in ranges)
    assert report.score == pytest.approx((manifest.size - lost) / manifest.size)


@pytest.mark.parametrize("full", [True, False])
def test_missing_and_unknown_files(layout: Layout, installed: Installed, *, full: bool) -> None:
    manifest = installed({"sub/a": b"abcd", "b": b"", "c": b"xy", "config.json": b"{}"})
    folder = layout.published("llm", "tiny", "r1")
    (folder / "sub/a").unlink()
    (folder / "b").unlink()
    (folder / "b").mkdir()
    (folder / "c").rename(layout.root / "c")
    (folder / "c").symlink_to(layout.root / "c")
    (folder / "evil.py").write_text("import os")
    (folder / "deep").mkdir()
    (folder / "deep/x").write_text("x")
    (folder / "loop").symlink_to(folder)
    (folder / SEAL).write_text("left by a crash")
    report = check(layout, manifest, full=full)
    assert report.missing == ("b", "c", "sub/a")
    assert report.extra == ("c", "deep/x", "evil.py", "loop")
    assert report.bad_files() == {"b", "c", "sub/a"}
    assert report.score == pytest.approx((manifest.size - 6) / manifest.size)


@pytest.mark.parametrize("harm", ["gone", "a link"])
def test_without_its_folder_everything_is_missing(layout: Layout, installed: Installed, harm: str) -> None:
    manifest = installed({})
    folder = layout.published("llm", "tiny", "r1")
    folder.rename(layout.root / "elsewhere")
    if harm == "a link":
        folder.symlink_to(layout.root / "elsewhere")
    report = check(layout, manifest)
    assert (report.missing, report.score, report.ok) == (("model.safetensors",), 0.0, False)


def test_formats_are_checked_even_where_the_bytes_are_right(layout: Layout, installed: Installed) -> None:
    manifest = installed({"config.json": b'{"auto_map": {"A": "b"}}', "model.safetensors": good_safetensors() + b"x"})
    for full in (True, False):
        report = check(layout, manifest, full=full)
        assert [problem.code for problem in report.problems] == ["invalid_format"], "leave is asked for at each load"
        assert (report.ok, report.bad_files(), report.score) == (False, set(), 1.0)


def test_a_damaged_header_is_one_finding_and_not_two(layout: Layout, installed: Installed) -> None:
    manifest = installed({})
    path = layout.published("llm", "tiny", "r1") / "model.safetensors"
    path.chmod(0o600)
    flip(path, 9)
    assert [finding["code"] for finding in check(layout, manifest).findings()] == ["file_corrupted"]
    assert [finding["code"] for finding in check(layout, manifest, full=False).findings()] == ["invalid_format"]


@pytest.mark.fault("F-57")
def test_a_file_that_was_written_to_is_hashed_even_by_a_mere_look(big: tuple[Layout, Manifest, Path]) -> None:
    layout, manifest, folder = big
    flip(folder / "big.dat", 5)
    later = time.time() + 60
    os.utime(folder / "big.dat", (later, later))
    os.utime(folder / "config.json", (later, later))
    report = check(layout, manifest, full=False)
    assert report.touched == ("big.dat", "config.json")
    assert [(file.name, file.ranges) for file in report.corrupted] == [("big.dat", ((0, CHUNK),))]
    assert (report.checked_files, report.checked_bytes) == (2, BIG + 2)


def test_the_source_is_asked_too(big: tuple[Layout, Manifest, Path]) -> None:
    layout, manifest, _ = big
    zeros = bytes(BIG)
    right = {"sha256": hashlib.sha256(zeros).hexdigest(), "md5": hashlib.md5(zeros).hexdigest()}
    blob = {"git_sha1": hashlib.sha1(b"blob 2\0{}").hexdigest()}

    def against(promised: dict[str, dict[str, str]]) -> Report:
        return verify(
            layout, manifest, tier=VerifyTier.SOURCE, promised=promised, checkpoint=nothing, on_bytes=lambda _: None
        )

    report = against({"big.dat": right, "config.json": blob})
    assert (report.ok, report.checked_bytes) == (True, manifest.size)
    assert report.unpromised == ("empty", "model.safetensors")
    report = against({"big.dat": {**right, "md5": "0" * 32}, "config.json": blob, "empty": {"sha256": "1" * 64}})
    assert [(file.name, file.ranges) for file in report.corrupted] == [("big.dat", ((0, BIG),)), ("empty", ((0, 0),))]
    assert not report.ok


def test_a_capped_pace_is_kept(big: tuple[Layout, Manifest, Path]) -> None:
    layout, manifest, _ = big
    file = next(file for file in manifest.files if file.name == "big.dat")
    began = time.monotonic()
    assert prove(layout, manifest, file, nothing, lambda _: None, Pace(threads=1, rate=BIG, idle=True))
    assert time.monotonic() - began >= 0.9


def test_cancelled_in_the_middle_no_thread_is_left(big: tuple[Layout, Manifest, Path]) -> None:
    layout, manifest, _ = big
    before = set(threading.enumerate())
    seen = 0

    def on_bytes(count: int) -> None:
        nonlocal seen
        seen += count

    def checkpoint() -> None:
        if seen > 4 * 1024**2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        verify(layout, manifest, tier=VerifyTier.BLAKE3, checkpoint=checkpoint, on_bytes=on_bytes)
    assert set(threading.enumerate()) == before
    assert seen < manifest.size


def test_a_disk_that_goes_away_says_nothing_about_the_files(layout: Layout, installed: Installed) -> None:
    manifest = installed({"big.dat": bytes(BIG)})

    def unmount(_: int) -> None:
        (layout.root / MARKER).unlink(missing_ok=True)
        shutil.rmtree(layout.root / "models", ignore_errors=True)

    with pytest.raises(Unavailable):
        verify(layout, manifest, tier=VerifyTier.BLAKE3, checkpoint=nothing, on_bytes=unmount)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = os.urandom(3 * 1024**2 + 5)
    (tmp_path / "a").write_bytes(data)
    told: list[int] = []
    assert sha256_of(tmp_path / "a", nothing, told.append) == hashlib.sha256(data).hexdigest()
    assert sum(told) == len(data)

    def stop() -> None:
        raise Cancelled("now")

    with pytest.raises(Cancelled):
        sha256_of(tmp_path / "a", stop, told.append)
