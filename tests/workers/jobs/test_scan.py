"""Scans as jobs, on real folders: what is found is registered where it lies, and never written to."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.contracts import Download, Remove, Repair, Scan, Verify
from shared.db import catalog, listing
from shared.db.tables import Model
from shared.errors import Cancelled, Conflict, Forbidden, Invalid, ModelyardError, Snooze, Unavailable
from shared.states import Availability, Holder, VerifyTier
from tests.conftest import until
from tests.factories.folders import diffusers, gguf, hub_cache, transformers, write
from tests.factories.malformed import bad_gguf, bad_safetensors
from tests.workers.jobs.conftest import Place
from workers.job import BODIES


@pytest.fixture
def root(place: Place, tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    place.services.settings.sources.scan_roots = [str(root)]
    place.services.settings.sources.ollama_host = "127.0.0.1:1"
    return root


def model_of(place: Place, model_id: str) -> Model:
    with place.services.database.reading() as session:
        return catalog.get_model(session, model_id)


def looks(root: Path) -> dict[str, Any]:
    return {
        str(path): (state.st_mtime_ns, state.st_mode, state.st_size, state.st_ino)
        for path in sorted(root.rglob("*"))
        if (state := path.lstat())
    }


def test_facts_come_from_the_files_themselves(place: Place, root: Path) -> None:
    write(root / "x.gguf", gguf("Tiny Llama"))
    transformers(root / "acorn", text_config={"max_position_embeddings": 1})
    diffusers(root / "sdxl")
    diffusers(root / "wan", "WanPipeline")
    hub_cache(root)
    before = looks(root)
    result = place.run(Scan())
    assert result["added"] == ["x", "acorn", "acorn-1b", "sdxl", "wan"]
    assert (result["unchanged"], result["skipped"]) == (0, [])
    assert looks(root) == before
    row, model = place.row("x"), model_of(place, "x")
    assert (model.name, model.type, model.source, model.source_url) == (
        "Tiny Llama",
        "llm",
        "file",
        str(root / "x.gguf"),
    )
    assert (row.holder, row.owned, row.path, row.size) == (Holder.FOLDER, False, str(root / "x.gguf"), model.file_size)
    assert row.facts == {
        "format": "gguf", "name": "Tiny Llama", "architecture": "llama", "quantization": "Q4_K_M",
        "contextLength": 2048, "parameterCount": 8 + 32, "weightBytes": 50,
    }  # fmt: skip
    assert place.row("acorn").facts == {
        "format": "transformers", "architecture": "LlamaForCausalLM", "quantization": "F16", "contextLength": 4096,
        "parameterCount": 34, "weightBytes": 68,
    }  # fmt: skip
    assert place.row("sdxl").facts["format"] == "diffusers"
    assert [model_of(place, name).type for name in ("acorn", "sdxl", "wan")] == ["llm", "image_gen", "video_gen"]
    assert place.status("x") == Availability.AVAILABLE
    assert list(place.layout.root.glob("models/*")) == [], "nothing is copied"


def test_a_second_scan_tells_what_has_changed(place: Place, root: Path) -> None:
    for name in ("stays", "changes", "goes"):
        write(root / f"{name}.gguf", gguf(name))
    place.run(Scan())
    place.run(Verify(model_id="changes"))
    first = place.row("changes").revision
    write(root / "changes.gguf", gguf("something else"))
    (root / "goes.gguf").unlink()
    write(root / "comes.gguf", gguf())
    result = place.run(Scan())
    assert {name: result[name] for name in ("added", "changed", "gone", "unchanged")} == {
        "added": ["comes"], "changed": ["changes"], "gone": ["goes"], "unchanged": 1,
    }  # fmt: skip
    assert place.row("changes").revision != first
    assert not place.layout.manifest("changes", first).exists(), "digests of what is not there any more are dropped"
    assert place.status("goes") == Availability.MISSING
    with place.services.database.reading() as session, pytest.raises(Conflict) as caught:
        catalog.installed(session, "goes")
    assert caught.value.code == "model_gone"
    again = place.run(Scan())
    assert (again["gone"], again["unchanged"]) == ([], 3), "told once"
    write(root / "goes.gguf", gguf("goes"))
    assert place.run(Scan())["changed"] == ["goes"], "back, and written anew"
    assert place.status("goes") == Availability.AVAILABLE


@pytest.mark.fault("F-58")
def test_an_unmounted_disk_makes_models_unavailable_and_comes_back(place: Place, root: Path) -> None:
    write(root / "x.gguf", gguf())
    place.run(Scan())
    aside = root.with_name("unmounted")
    for empty in (False, True):
        root.rename(aside)
        if empty:
            root.mkdir()
        result = place.run(Scan())
        assert (result["unavailable"], result["gone"]) == (["x"], [])
        assert place.status("x") == Availability.UNAVAILABLE
        with place.services.database.reading() as session, pytest.raises(Unavailable) as caught:
            catalog.installed(session, "x")
        assert caught.value.code == "model_away"
        with pytest.raises(Unavailable):
            place.run(Verify(model_id="x"))
        if empty:
            root.rmdir()
        aside.rename(root)
        assert place.run(Scan())["returned"] == ["x"]
        assert place.status("x") == Availability.AVAILABLE


@pytest.mark.fault("A-66", "A-70")
def test_damaged_files_are_left_out_with_their_reason(place: Place, root: Path) -> None:
    bad = [(f"{number}.gguf", data) for number, (_, data) in enumerate(bad_gguf()) if len(data) < 10**6]
    bad += [(f"s{number}.safetensors", data) for number, (_, data) in enumerate(bad_safetensors()) if len(data) < 10**6]
    for name, data in bad:
        write(root / name, data)
    write(root / "whole.gguf", gguf())
    result = place.run(Scan())
    assert result["added"] == ["whole"]
    assert result["skippedCount"] == len(bad)
    assert all(entry["reason"] for entry in result["skipped"])


@pytest.mark.fault("A-73")
def test_a_part_that_is_missing_is_named(place: Place, root: Path) -> None:
    write(root / "big-00002-of-00002.gguf", gguf(split=(1, 2)))
    (skipped,) = place.run(Scan())["skipped"]
    assert "big-00001-of-00002.gguf" in skipped["reason"]
    write(root / "big-00001-of-00002.gguf", gguf(split=(0, 2)))
    assert place.run(Scan())["added"] == ["big"]
    assert place.row("big").path == str(root / "big-00001-of-00002.gguf")
    assert place.row("big").facts["parameterCount"] == 80


@pytest.mark.fault("A-75")
def test_a_model_that_asks_for_code_is_left_out(place: Place, root: Path) -> None:
    transformers(root / "evil", auto_map={"AutoModel": "evil.Model"})
    (skipped,) = place.run(Scan())["skipped"]
    assert "auto_map" in skipped["reason"]


def test_a_model_that_breaks_is_quarantined(place: Place, root: Path) -> None:
    write(root / "x.gguf", gguf())
    place.run(Scan())
    write(root / "x.gguf", b"GGUF and no more")
    assert place.run(Scan())["corrupted"] == ["x"]
    assert place.status("x") == Availability.CORRUPTED
    write(root / "x.gguf", gguf())
    assert place.run(Scan())["changed"] == ["x"]
    assert place.status("x") == Availability.AVAILABLE


@pytest.mark.fault("F-57")
def test_the_first_verify_takes_digests_and_the_next_one_finds_a_flipped_bit(place: Place, root: Path) -> None:
    file = write(root / "x.gguf", gguf())
    place.run(Scan())
    before = looks(root)
    first = place.run(Verify(model_id="x"))
    assert first["ok"] is True
    assert first["checkedBytes"] == file.stat().st_size
    assert "what later verifies compare with" in first["note"]
    assert looks(root) == before
    assert place.manifest("x").files[0].size == file.stat().st_size
    assert "note" not in place.run(Verify(model_id="x"))
    place.damage(file, file.stat().st_size - 1)
    assert place.run(Verify(model_id="x", tier=VerifyTier.STAT))["ok"] is True, "a look cannot see that"
    report = place.run(Verify(model_id="x"))
    assert report["ok"] is False
    assert [entry["name"] for entry in report["corrupted"]] == ["x.gguf"]
    assert place.status("x") == Availability.CORRUPTED
    with pytest.raises(Conflict) as caught:
        place.run(Repair(model_id="x"))
    assert caught.value.code == "not_ours"
    place.damage(file, file.stat().st_size - 1)
    assert place.run(Verify(model_id="x"))["ok"] is True
    assert place.status("x") == Availability.AVAILABLE


@pytest.mark.fault("F-57")
def test_a_file_that_was_written_to_is_told(place: Place, root: Path) -> None:
    file = write(root / "x.gguf", gguf())
    place.run(Scan())
    os.utime(file, ns=(1, 1))
    report = place.run(Verify(model_id="x"))
    assert [problem["code"] for problem in report["problems"]] == ["changed_since_scan"]
    assert place.run(Scan())["changed"] == ["x"]
    write(file, gguf("longer name"))
    report = place.run(Verify(model_id="x"))
    assert report["ok"] is False
    file.unlink()
    report = place.run(Verify(model_id="x"))
    assert report["missing"] == ["x.gguf"]
    assert place.status("x") == Availability.MISSING


def test_remove_forgets_the_entry_and_leaves_the_files(place: Place, root: Path) -> None:
    transformers(root / "acorn")
    place.run(Scan())
    place.run(Verify(model_id="acorn"))
    revision, before = place.row("acorn").revision, looks(root)
    assert place.run(Remove(model_id="acorn"))["leftInPlace"] == str(root / "acorn")
    assert looks(root) == before
    assert not place.layout.manifest("acorn", revision).exists()
    assert list((place.layout.root / "trash").iterdir()) == []


@pytest.mark.fault("A-26")
def test_a_row_that_was_edited_deletes_nothing(place: Place, root: Path, tmp_path: Path) -> None:
    write(root / "x.gguf", gguf())
    place.run(Scan())
    victim = write(tmp_path / "victim" / "file", b"precious")
    with place.services.database.session() as session:
        row = catalog.installation(session, "x")
        assert row is not None
        row.path = str(victim.parent)
        session.add(row)
    place.run(Remove(model_id="x"))
    assert victim.read_bytes() == b"precious"


@pytest.mark.fault("A-23")
def test_only_what_is_below_a_scan_root_is_scanned(place: Place, root: Path, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "x.gguf", gguf()).parent
    (root / "link").symlink_to(outside)
    (root / "file.gguf").symlink_to(outside / "x.gguf")
    wrong = [
        str(outside),
        "/",
        "/etc",
        f"{root}x",
        str(root / "link"),
        str(root / "link" / "x.gguf"),
        str(root / "file.gguf"),
    ]
    for path in wrong:
        with pytest.raises(Forbidden) as caught:
            place.run(Scan(paths=[path]))
        assert caught.value.code == "path_not_allowed"
        assert caught.value.hint
    for path in (f"{root}/../outside", "relative"):
        with pytest.raises((Invalid, ValueError)):
            place.run(Scan(paths=[path]))
    assert place.run(Scan())["added"] == []


def test_a_scan_of_a_part_leaves_the_rest_alone(place: Place, root: Path) -> None:
    write(root / "a" / "first.gguf", gguf())
    write(root / "ab" / "second.gguf", gguf())
    assert place.run(Scan(paths=[str(root / "a")]))["added"] == ["first"]
    shutil.rmtree(root / "a")
    place.run(Scan(paths=[str(root / "ab")]))
    assert place.status("first") == Availability.AVAILABLE, "nobody looked there"
    assert place.run(Scan(paths=[str(root / "a")]))["gone"] == ["first"]


def test_without_a_root_it_says_which_setting_names_one(place: Place) -> None:
    place.services.settings.sources.scan_roots = []
    with pytest.raises(Conflict) as caught:
        place.run(Scan())
    assert caught.value.code == "no_scan_roots"
    assert "MODEL_SCAN_PATH" in caught.value.hint


def test_ids_are_free_and_allowed(place: Place, root: Path) -> None:
    place.add("x", "tiny/x")
    for path in ("X.gguf", "sub/x.gguf", "status.gguf", "ümläut ☃.gguf"):
        write(root / path, gguf())
    added = place.run(Scan())["added"]
    assert added == ["x-2", "model-status", "ml-ut", "x-3"]


def test_an_entry_that_names_a_path_gets_what_lies_there(place: Place, root: Path) -> None:
    def enter(model_id: str, path: Path) -> None:
        with place.services.database.session() as session:
            entry = Model(
                id=model_id,
                type="llm",
                name="Mine",
                source="file",
                source_url=str(path),
                created_at=0.0,
                updated_at=0.0,
            )
            catalog.add_model(session, entry)

    write(root / "x.gguf", gguf())
    write(root / "y.gguf", gguf())
    enter("mine", root / "x.gguf")
    assert place.run(Scan())["added"] == ["mine", "y"]
    enter("again", transformers(root / "acorn"))
    assert place.run(Download(model_id="again"))["inPlace"] is True
    assert place.status("again") == Availability.AVAILABLE
    assert model_of(place, "mine").name == "Mine"
    enter("nothing", root / "nothing.gguf")
    with pytest.raises(ModelyardError) as caught:
        place.run(Download(model_id="nothing"))
    assert caught.value.code == "source_not_found"


def test_two_scans_take_turns(place: Place, root: Path) -> None:
    with place.layout.scan_lock(), pytest.raises(Snooze):
        place.run(Scan())


def test_a_scan_of_many_can_be_cancelled(place: Place, root: Path) -> None:
    for number in range(100):
        write(root / f"{number}.gguf", gguf())
    work = place.work(Scan())

    def stop_once_begun() -> None:
        until(lambda: _registered(place))
        work.stop(Cancelled("cancelled"))

    with ThreadPoolExecutor(1) as beside:
        beside.submit(stop_once_begun)
        with pytest.raises(Cancelled):
            BODIES["model.scan"](Scan(), work)
    place.services.ledger.cancel(work.job_id)
    place.services.ledger.stop(work.job_id, work.attempt)
    found = place.run(Scan())
    assert len(found["added"]) + found["unchanged"] == 100


def _registered(place: Place) -> bool:
    with place.services.database.reading() as session:
        return bool(listing.page(session, listing.Wanted(text="Tiny"), limit=1))
