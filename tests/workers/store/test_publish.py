"""Publishing and removing, whole and cut off at every step."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Corrupt, Forbidden, Unavailable
from tests.factories.stored import manifest_file, stage
from tests.workers.store.conftest import Installed
from tests.workers.store.crash import NEW, OLD, SCENES
from workers.store.layout import MARKER, MEMO, SEAL, Layout
from workers.store.manifest import Manifest, read, write
from workers.store.publish import adopt, is_published, publish, remove, restore
from workers.store.trash import bytes_alone, empty_trash, entries


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_published_is_exactly_the_sources_files_read_only(layout: Layout) -> None:
    manifest, partials = stage(layout, {"a": b"abc", "sub/b": b"", "sub/deep/c": b"x"})
    layout.partial("tiny", "r1", "forgotten/d").write_text("of an earlier try")
    publish(layout, manifest, partials)
    folder = layout.published("llm", "tiny", "r1")
    assert contents(folder) == {"a": b"abc", "sub/b": b"", "sub/deep/c": b"x"}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o440}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "sub/deep")} == {0o750}
    assert not (folder / "forgotten").exists()
    assert read(layout.manifest("tiny", "r1")) == manifest == adopt(layout, "llm", "tiny", "r1")
    assert not layout.staging("tiny", "r1").exists()


def test_published_again_changes_nothing(layout: Layout) -> None:
    manifest, partials = stage(layout, {"a": b"abc"})
    publish(layout, manifest, partials)
    publish(layout, manifest, partials)
    assert is_published(layout, "llm", "tiny", "r1")
    assert list((layout.root / "trash").iterdir()) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replaced_folder_goes_to_the_trash(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    publish(layout, *stage(layout, {"a": b"old", "gone": b"x"}))
    if not exchange:  # a system whose C library has no renameat2
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    publish(layout, *stage(layout, {"a": b"new"}))
    assert contents(layout.published("llm", "tiny", "r1")) == {"a": b"new"}
    (entry,) = (layout.root / "trash").iterdir()
    assert contents(entry) == {"a": b"old", "gone": b"x"}


def test_incomplete_staging_is_refused(layout: Layout) -> None:
    manifest, partials = stage(layout, {"a": b"abc", "b": b"de"})
    partials["b"].write_bytes(b"d")
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            publish(layout, manifest, partials)
        assert (caught.value.code, caught.value.details) == ("staging_incomplete", {"name": "b"})
        partials["b"].unlink(missing_ok=True)
    partials["b"].symlink_to(partials["a"])
    with pytest.raises(Corrupt):
        publish(layout, manifest, partials)
    shutil.rmtree(layout.staging("tiny", "r1"))
    with pytest.raises(Corrupt):
        publish(layout, manifest, partials)
    assert not is_published(layout, "llm", "tiny", "r1")
    assert (adopt(layout, "llm", "tiny", "r1")) is None


def test_repaired_by_links_to_what_is_whole(layout: Layout) -> None:
    publish(layout, *stage(layout, {"a": b"good", "b": b"bad!"}))
    folder = layout.published("llm", "tiny", "r1")
    manifest, partials = stage(layout, {"a": b"good", "b": b"fine"})
    partials["a"].unlink()
    os.link(folder / "a", partials["a"])
    publish(layout, manifest, partials)
    assert contents(folder) == {"a": b"good", "b": b"fine"}
    (entry,) = (layout.root / "trash").iterdir()
    assert bytes_alone(entry) == 4


@pytest.mark.parametrize("harm", ["missing", "short", "link", "folder gone", "manifest gone", "other model"])
def test_what_is_not_whole_is_not_adopted(layout: Layout, harm: str) -> None:
    manifest, partials = stage(layout, {"a": b"abc"})
    publish(layout, manifest, partials)
    path = layout.published("llm", "tiny", "r1") / "a"
    if harm == "missing":
        path.unlink()
    elif harm == "short":
        path.write_bytes(b"ab")
    elif harm == "link":
        path.rename(layout.root / "elsewhere")
        path.symlink_to(layout.root / "elsewhere")
    elif harm == "folder gone":
        shutil.rmtree(path.parent)
    elif harm == "manifest gone":
        layout.manifest("tiny", "r1").unlink()
    else:
        (layout.root / "manifests/other").mkdir()
        layout.manifest("tiny", "r1").rename(layout.manifest("other", "r1"))
    assert not is_published(layout, "llm", "tiny", "r1")
    assert not is_published(layout, "llm", "other", "r1")


def test_removed_to_the_trash_with_its_manifest(layout: Layout, installed: Installed) -> None:
    manifest = installed({"config.json": b"{}"})
    assert remove(layout, "llm", "tiny", "r1") == manifest.size
    assert not layout.published("llm", "tiny", "r1").parent.exists()
    assert not layout.manifest("tiny", "r1").parent.exists()
    (entry,) = (layout.root / "trash").iterdir()
    assert read(entry / SEAL) == manifest
    assert remove(layout, "llm", "tiny", "r1") == 0


def test_removing_what_was_deleted_by_hand(layout: Layout, installed: Installed) -> None:
    installed({})
    shutil.rmtree(layout.published("llm", "tiny", "r1"))
    assert remove(layout, "llm", "tiny", "r1") == 0
    assert not layout.manifest("tiny", "r1").exists()


def test_a_damaged_manifest_does_not_keep_a_model_for_ever(layout: Layout, installed: Installed) -> None:
    installed({})
    layout.manifest("tiny", "r1").chmod(0o600)
    layout.manifest("tiny", "r1").write_text("{")
    assert remove(layout, "llm", "tiny", "r1") > 0


@pytest.mark.parametrize("harm", ["no manifest", "manifest of another", "link", "seal of another"])
def test_folders_that_are_not_ours_are_left_alone(layout: Layout, installed: Installed, harm: str) -> None:
    manifest = installed({})
    folder, kept = layout.published("llm", "tiny", "r1"), layout.manifest("tiny", "r1")
    if harm == "link":
        folder.rename(layout.root / "precious")
        folder.symlink_to(layout.root / "precious")
    else:
        kept.unlink()
    if harm == "manifest of another":
        write(kept, type(manifest).of("other", "llm", "r1", "file:/x", manifest.files))
    if harm == "seal of another":
        write(folder / SEAL, type(manifest).of("other", "llm", "r1", "file:/x", manifest.files))
    with pytest.raises(Forbidden) as caught:
        remove(layout, "llm", "tiny", "r1")
    assert caught.value.code == "path_not_owned"
    assert (folder / "model.safetensors").exists()


def test_the_trash_is_emptied_of_what_is_old(layout: Layout, installed: Installed) -> None:
    size = installed({}).size
    remove(layout, "llm", "tiny", "r1")
    (layout.root / "trash/not-ours").mkdir()
    ((since, entry),) = layout.trashed()
    manifest_size = (entry / SEAL).stat().st_size
    assert empty_trash(layout, 60, since + 60) == 0
    assert entry.exists()
    assert empty_trash(layout, 60, since - 10**8) == 0, "a clock that went back deletes nothing"
    assert empty_trash(layout, 60, since + 61) == size + manifest_size
    assert [path.name for path in (layout.root / "trash").iterdir()] == ["not-ours"]


def test_without_its_disk_nothing_is_touched(layout: Layout, installed: Installed) -> None:
    manifest = installed({})
    (layout.root / MARKER).unlink()
    for act in (
        lambda: publish(layout, manifest, {}),
        lambda: adopt(layout, "llm", "tiny", "r1"),
        lambda: remove(layout, "llm", "tiny", "r1"),
        lambda: empty_trash(layout, 0, 10**12),
    ):
        with pytest.raises(Unavailable):
            act()
    assert layout.published("llm", "tiny", "r1").exists()


@pytest.mark.fault("F-5", "F-9")
@pytest.mark.parametrize("scene", SCENES)
def test_cut_off_at_every_step(tmp_path: Path, scene: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.store.crash", scene, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert len(killed) >= 5
    assert any("rename" in event for event in killed)
    for number in range(len(killed)):
        check_after_crash(Layout(tmp_path / str(number)), scene, killed[number])


def check_after_crash(layout: Layout, scene: str, event: str) -> None:
    """Readers saw one whole revision or none; running again, or adopting, finishes without another download."""
    folder = layout.published("llm", "tiny", "r1")
    seen = {name: data for name, data in contents(folder).items() if name not in (SEAL, MEMO)}
    allowed = {
        "first": [{}, NEW], "replace": [OLD, NEW], "two renames": [OLD, {}, NEW], "remove": [OLD, {}],
        "restore": [{}, OLD],
    }  # fmt: skip
    assert seen in allowed[scene], event
    if scene == "remove":
        remove(layout, "llm", "tiny", "r1")
        assert not folder.exists()
        assert not layout.manifest("tiny", "r1").exists()
        return
    if scene == "restore":
        if adopt(layout, "llm", "tiny", "r1") is None:
            (entry,) = entries(layout)
            restore(layout, entry)
        assert contents(folder) == OLD, event
        assert adopt(layout, "llm", "tiny", "r1") is not None
        return
    manifest = adopt(layout, "llm", "tiny", "r1")
    if manifest is None or contents(folder) != NEW:
        wanted = Manifest.of("tiny", "llm", "r1", "file:/models/tiny", [manifest_file(*item) for item in NEW.items()])
        publish(layout, wanted, {name: layout.partial("tiny", "r1", name) for name in NEW})
    assert contents(folder) == NEW, event
    finished = adopt(layout, "llm", "tiny", "r1")
    assert finished is not None
    assert {file.name: file.size for file in finished.files} == {name: len(data) for name, data in NEW.items()}
    assert not layout.staging("tiny", "r1").exists(), event
