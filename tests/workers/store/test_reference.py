"""Models in place: how they look, and digests of our own."""

import os
from pathlib import Path

import pytest

from shared.errors import Cancelled, Conflict, Unavailable
from tests.factories.folders import gguf, hub_cache, safetensors, transformers, write
from workers.store.layout import Layout
from workers.store.manifest import CHUNK_BYTES, read
from workers.store.reference import Here, as_seen, expected_of, look, revision_of, verify_in_place

Seen = dict[str, dict[str, list[int]]]


def seen_of(folder: Path, *names: str) -> Seen:
    states = {name: (folder / name).stat() for name in names}
    return {"files": {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}}


def here(folder: Path, *names: str) -> dict[str, Here]:
    found = {}
    for name in names:
        state = (folder / name).stat()
        found[name] = Here(state.st_size, state.st_mtime_ns, folder / name)
    return found


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store")
    layout.ensure()
    return layout


def test_another_size_or_time_is_another_revision() -> None:
    looks = {"a": (1, 2), "b": (3, 4)}
    assert revision_of(looks) == revision_of(dict(reversed(looks.items())))
    others = [{"a": (1, 2)}, {**looks, "b": (3, 5)}, {**looks, "b": (4, 4)}, {"a": (1, 2), "c": (3, 4)}]
    assert len({revision_of(looks), *map(revision_of, others)}) == 5


def test_every_bad_chunk_is_told_by_its_range(tmp_path: Path, layout: Layout) -> None:
    file = write(tmp_path / "x.safetensors", safetensors((CHUNK_BYTES, 2)))
    seen = seen_of(tmp_path, file.name)
    expected = expected_of("x", "llm", "r1", str(file), seen)
    told: list[int] = []
    report, first = verify_in_place(layout, expected, seen, here(tmp_path, file.name), lambda: None, told.append)
    assert (report.ok, first, sum(told)) == (True, True, file.stat().st_size)
    assert len(read(layout.manifest("x", "r1")).files[0].chunks) == 5
    with file.open("r+b") as opened:
        for place in (CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 1, 4 * CHUNK_BYTES + 1):
            opened.seek(place)
            opened.write(b"!")
    report, first = verify_in_place(layout, expected, seen, here(tmp_path, file.name), lambda: None, told.append)
    assert not first
    assert report.corrupted[0].ranges == (
        (CHUNK_BYTES, 3 * CHUNK_BYTES),
        (4 * CHUNK_BYTES, file.stat().st_size),
    )
    assert report.score == pytest.approx(2 * CHUNK_BYTES / file.stat().st_size)


def test_a_stopped_verify_keeps_no_digests(tmp_path: Path, layout: Layout) -> None:
    file = write(tmp_path / "x.gguf", gguf())
    seen = seen_of(tmp_path, file.name)

    def stop() -> None:
        raise Cancelled("cancelled")

    expected = expected_of("x", "llm", "r1", str(file), seen)
    with pytest.raises(Cancelled):
        verify_in_place(layout, expected, seen, here(tmp_path, file.name), stop, lambda _: None)
    assert not layout.manifest("x", "r1").exists()


def test_a_look_reads_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "x.gguf", gguf())
    seen = seen_of(tmp_path, file.name)
    expected = expected_of("x", "llm", "r1", str(file), seen)
    assert look(expected, seen, here(tmp_path, file.name)).ok
    os.utime(file, ns=(1, 1))
    report = look(expected, seen, here(tmp_path, file.name))
    assert [problem.code for problem in report.problems] == ["changed_since_scan"]
    assert look(expected, seen, {}).missing == ("x.gguf",)


@pytest.mark.fault("F-57")
def test_before_a_load_the_files_must_look_as_they_did(tmp_path: Path) -> None:
    folder = transformers(tmp_path / "acorn")
    seen = seen_of(folder, "config.json", "model.safetensors")
    assert as_seen(str(folder), seen) == {name: folder / name for name in ("config.json", "model.safetensors")}
    os.utime(folder / "config.json", ns=(1, 1))
    with pytest.raises(Conflict) as caught:
        as_seen(str(folder), seen)
    assert (caught.value.code, caught.value.details) == ("model_changed", {"files": ["config.json"]})


@pytest.mark.fault("F-58")
def test_before_a_load_a_disk_that_is_away_is_told_from_a_change(tmp_path: Path) -> None:
    file = write(tmp_path / "disk" / "x.gguf", gguf())
    seen = seen_of(file.parent, file.name)
    file.parent.rename(tmp_path / "away")
    with pytest.raises(Unavailable) as caught:
        as_seen(str(file), seen)
    assert caught.value.code == "model_away"


@pytest.mark.fault("A-43")
def test_what_runners_get_of_the_hubs_cache_are_its_blobs(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    found = as_seen(str(snapshot), seen_of(snapshot, "model.safetensors"))
    assert found["model.safetensors"].parent.name == "blobs"
