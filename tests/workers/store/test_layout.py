"""Paths, the marker, locks, and names from outside."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Failed, Invalid, Snooze, Unavailable
from workers.store.layout import MARKER, Layout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.fault("A-116")
def test_a_store_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Layout(tmp_path / "deep" / "store")
        store = made.ensure()
    finally:
        os.umask(before)
    assert mode(made.root) == 0o700
    assert len(store) == 32
    assert made.ensure() == store == made.check_marker()
    assert [path.name for path in made.root.glob(".modelyard-*")] == [MARKER]
    assert made.free_bytes() > 0


def test_two_processes_agree_on_one_store(tmp_path: Path) -> None:
    code = "import sys, pathlib, workers.store.layout as l; print(l.Layout(pathlib.Path(sys.argv[1])).ensure())"
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store")], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = {child.communicate()[0] for child in children}
    assert len(said) == 1
    assert {child.returncode for child in children} == {0}


def test_a_folder_of_other_things_does_not_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(Invalid) as caught:
        Layout(tmp_path).ensure()
    assert caught.value.code == "store_not_empty"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_fresh_disk_may_have_its_lost_and_found(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert Layout(tmp_path).ensure()


@pytest.mark.parametrize("left", [None, b"", b"{", b"[]", b'{"v":1}'])
def test_a_store_without_its_marker_is_missing(layout: Layout, left: bytes | None) -> None:
    marker = layout.root / MARKER
    marker.unlink()
    if left is not None:
        marker.write_bytes(left)
    for act in (layout.check_marker, layout.free_bytes, lambda: layout.lock("tiny").__enter__()):
        with pytest.raises(Unavailable) as caught:
            act()
        assert caught.value.code == "store_missing"
        assert "Mount" in caught.value.hint


def test_a_lock_is_held_by_one_at_a_time(layout: Layout) -> None:
    with layout.lock("tiny"), layout.lock("other"):
        with pytest.raises(Snooze) as caught, layout.lock("tiny"):
            pytest.fail("two owners")
        assert caught.value.seconds == 2
    with layout.lock("tiny"):
        pass


def test_a_lock_dies_with_its_process(layout: Layout) -> None:
    code = (
        "import os, sys, pathlib; from workers.store.layout import Layout\n"
        "lock = Layout(pathlib.Path(sys.argv[1])).lock('tiny'); lock.__enter__(); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(layout.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(Snooze), layout.lock("tiny"):
        pass
    child.kill()
    child.communicate()
    with layout.lock("tiny"):
        pass


@pytest.mark.parametrize("model_id", ["", "..", "a/b", "../x", "é", "a..b", "a\n", "active", "a" * 97, ".a", "a\0"])
def test_ids_are_checked_again(layout: Layout, model_id: str) -> None:
    for build in (
        lambda: layout.published("llm", model_id, "r1"),
        lambda: layout.manifest(model_id, "r1"),
        lambda: layout.staging(model_id, "r1"),
        lambda: layout.trash(model_id, "r1"),
        lambda: layout.discard_staging(model_id),
        lambda: layout.lock(model_id).__enter__(),
    ):
        with pytest.raises(Invalid):
            build()


@pytest.mark.parametrize("revision", ["", ".", "..", "a/b", "a..b", "a\n", "-a", ".a", "r" * 201, "é"])
def test_revisions_are_checked_again(layout: Layout, revision: str) -> None:
    for build in (layout.manifest, layout.staging, layout.trash, lambda *ids: layout.published("llm", *ids)):
        with pytest.raises(Invalid):
            build("tiny", revision)


@pytest.mark.parametrize("model_type", ["", "..", "LLM", "a/b", "llm\n", "a-b"])
def test_types_are_checked(layout: Layout, model_type: str) -> None:
    with pytest.raises(Invalid):
        layout.published(model_type, "tiny", "r1")


def test_where_things_are(layout: Layout) -> None:
    root = layout.root
    assert layout.published("image_gen", "tiny", "r1") == root / "models/image_gen/tiny/r1"
    assert layout.manifest("tiny", "r1") == root / "manifests/tiny/r1.json"
    assert layout.partial("tiny", "r1", "unet/a.bin") == root / "staging/tiny/r1/unet/a.bin.partial"
    assert mode(root / "staging/tiny/r1/unet") == 0o700
    assert len(layout.trash("a" * 96, "r" * 200).name) < 255


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "/etc/pwned", "../../pwned", "a/../b", "a/..", "./a", "a//b", "a/", "a/./b"),
        *("..\\pwned", "C:\\pwned", "\\\\host\\share", "nul\0", "a\nb", "a\x1b[31m", "a\u202eb", "a\u200bb", "\ud800"),
        *("n" * 240, "d/" * 600 + "a", "é" * 120, "a.partial", "a.partial.journal"),
        *(".modelyard-manifest.json", ".modelyard-store", ".modelyard-x/a"),
    ],
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        Layout.inside(tmp_path, name)
    assert caught.value.code == "source_invalid_filename"
    json.dumps(caught.value.details).encode()


@pytest.mark.parametrize(
    "name", ["a", "model-00001-of-00002.safetensors", "unet/config.json", "日本/ü.json", ".gitattributes"]
)
def test_usual_names_pass(tmp_path: Path, name: str) -> None:
    assert Layout.inside(tmp_path, name) == tmp_path / name


@given(st.text(alphabet=st.sampled_from("a./\\~\0%\n:é"), max_size=12) | st.text(max_size=40))
def test_no_name_leaves_the_folder(name: str) -> None:
    folder = Path("/store/folder")
    try:
        path = Layout.inside(folder, name)
    except Invalid as error:
        assert error.code == "source_invalid_filename"  # noqa: PT017 - most names are refused, some are not
    else:
        assert Path(os.path.normpath(path)) == path
        assert path != folder
        assert path.is_relative_to(folder)


def test_a_full_disk_and_a_broken_one_are_told_apart(layout: Layout) -> None:
    (layout.root / "staging").rmdir()
    (layout.root / "staging").write_text("in the way")
    with pytest.raises(Failed) as caught:
        layout.partial("tiny", "r1", "a")
    assert caught.value.code == "storage_error"


def test_discarding_what_is_not_there(layout: Layout) -> None:
    layout.discard_staging("tiny")
    layout.partial("tiny", "r1", "a").write_text("half")
    layout.discard_staging("tiny")
    assert list((layout.root / "staging").iterdir()) == []
