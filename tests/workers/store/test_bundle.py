"""The form of a bundle: what any tar can read, the same for the same models, and nothing but what its lock says."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Corrupt
from shared.lock import Lock, LockedFile, LockedModel
from tests.factories.bundles import FILES, bad, good, lock_of
from workers.store import bundle
from workers.store.bundle import BLOCK, OpenBundle, size_of, write

GOOD = good()
GOLDEN = "8d033dc6223a444c39f48397018b79d18ac1810b5b44484c12f3ad0a6004ab1f"


def nothing(*_: object) -> None:
    """Neither stops nor counts."""


def placed(folder: Path, files: dict[str, dict[str, bytes]]) -> bundle.Place:
    for model_id, contents in files.items():
        for name, data in contents.items():
            path = folder / model_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def place(entry: LockedModel, file: LockedFile) -> Path:
        return folder / entry.model_id / file.name

    return place


def written(folder: Path, files: dict[str, dict[str, bytes]] = FILES) -> tuple[bytes, str]:
    out = io.BytesIO()
    lock = Lock.model_validate(lock_of(files))
    sha256 = write(out, lock, placed(folder, files), nothing, nothing)
    assert len(out.getvalue()) == size_of(lock)
    return out.getvalue(), sha256


def read(raw: bytes, *, whole: bool = True, skipping: bool = False) -> dict[str, bytes]:
    """Every file of a bundle, as its reader gives it."""
    found = OpenBundle(io.BytesIO(raw), len(raw), whole=whole)
    files: dict[str, bytes] = {}
    for entry, file in found.members():
        out = io.BytesIO()
        if skipping:
            found.skip(file, nothing)
        else:
            proven = found.prove(file, nothing, nothing, out)
            assert (proven.size, proven.sha256) == (file.size, file.sha256)
            files[f"{entry.model_id}/{file.name}"] = out.getvalue()
    assert found.sha256() == (hashlib.sha256(raw).hexdigest() if whole else None)
    return files


def flat(files: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    return {f"{model_id}/{name}": data for model_id, contents in files.items() for name, data in contents.items()}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    raw, sha256 = written(tmp_path)
    assert sha256 == hashlib.sha256(raw).hexdigest()
    assert read(raw) == flat(FILES)
    assert read(raw, whole=False, skipping=True) == {}
    assert read(raw, whole=True, skipping=True) == {}, "what is skipped counts into the digest all the same"


def test_equal_models_make_equal_bundles_for_ever(tmp_path: Path) -> None:
    """The digest here changes only where the form does: then every bundle in the world is another one."""
    one, other = written(tmp_path / "one")[1], written(tmp_path / "other")[1]
    assert one == other == GOLDEN


def test_python_makes_the_same_of_the_same_members() -> None:
    assert read(GOOD) == flat(FILES)


def test_any_tar_unpacks_it(tmp_path: Path) -> None:
    long = "/".join(["a" * 90] * 3) + "/" + "ü" * 60 + ".json"
    files = {"acorn": {**FILES["acorn"], long: b"long", "empty.txt": b"", "block.bin": bytes(512)}}
    raw, _ = written(tmp_path / "from", files)
    assert read(raw) == flat(files)
    with tarfile.open(fileobj=io.BytesIO(raw)) as theirs:
        assert theirs.getnames()[0] == "models.lock"
        found = {member.name.removeprefix("models/"): theirs.extractfile(member) for member in theirs.getmembers()[1:]}
        assert {name: file.read() for name, file in found.items() if file is not None} == flat(files)
    if shutil.which("tar") is None:
        pytest.skip("NO TAR HERE: THAT GNU TAR READS A BUNDLE IS NOT TESTED")
    (tmp_path / "b.tar").write_bytes(raw)
    subprocess.run(["tar", "xf", tmp_path / "b.tar", "-C", tmp_path], check=True)
    assert (tmp_path / "models" / "acorn" / long).read_bytes() == b"long"


def test_a_file_over_eight_gibibytes_has_a_head_that_tar_reads() -> None:
    size = 9 * 1024**3
    head = bundle._header("models/a/b", size)
    assert tarfile.TarInfo.frombuf(head, "utf-8", "strict").size == size


@pytest.mark.fault("A-41", "A-42")
@pytest.mark.parametrize(("name", "raw"), list(bad()), ids=[name for name, _ in bad()])
def test_what_is_no_bundle_is_refused(name: str, raw: bytes) -> None:
    with pytest.raises(Corrupt) as refused:
        read(raw)
    assert refused.value.code == "bundle_damaged"
    assert "sha256" in refused.value.hint


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_may_be_another(place: int, change: int) -> None:
    raw = bytearray(GOOD)
    raw[place] ^= change
    try:
        files = read(bytes(raw))
    except Corrupt:
        return
    # The lock may name a model otherwise; of the bytes that it is there for nothing may differ.
    assert BLOCK <= place < BLOCK + len(json.dumps(lock_of(), indent=2))
    assert sorted(files.values()) == sorted(flat(FILES).values())


@given(st.integers(0, len(GOOD)), st.binary(max_size=2000))
def test_nothing_may_be_cut_out_or_put_in(place: int, added: bytes) -> None:
    for raw in (GOOD[:place] + added, GOOD[:place] + added + GOOD[place:], GOOD[:place] + GOOD[place + 512 :]):
        if raw != GOOD:
            with pytest.raises(Corrupt):
                read(raw)


@pytest.mark.parametrize("how", ["shorter", "longer", "another byte", "gone", "a link"])
def test_a_file_that_changed_is_not_bundled(tmp_path: Path, how: str) -> None:
    place = placed(tmp_path, FILES)
    path = tmp_path / "birch" / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    if how == "a link":
        path.with_name("elsewhere").write_bytes(data)
        path.symlink_to(path.with_name("elsewhere"))
    elif how != "gone":
        changed = {"shorter": data[:-1], "longer": data + b"\0", "another byte": data[:-1] + b"\7"}
        path.write_bytes(changed[how])
    with pytest.raises(Corrupt):
        write(io.BytesIO(), Lock.model_validate(lock_of()), place, nothing, nothing)


def test_a_bundle_that_lost_its_blocks_is_found(tmp_path: Path) -> None:
    """As long as it should be, and full of holes: what copying to a full disk leaves."""
    raw, _ = written(tmp_path)
    path = tmp_path / "holes.tar"
    path.write_bytes(raw[: len(raw) // 2])
    os.truncate(path, len(raw))
    with pytest.raises(Corrupt):
        read(path.read_bytes())


def test_chunks_are_cut_where_a_download_cuts_them(tmp_path: Path) -> None:
    from blake3 import blake3

    from workers.store.manifest import CHUNK_BYTES

    data = random.Random(1).randbytes(2 * CHUNK_BYTES + 5)
    raw, _ = written(tmp_path, {"acorn": {"model.gguf": data}})
    found = OpenBundle(io.BytesIO(raw), len(raw), whole=False)
    ((_, file),) = [(entry, file) for entry, file in found.members() if (proven := _proven(found, file))]
    assert file.size == len(data)
    assert proven == tuple(
        blake3(data[start : start + CHUNK_BYTES]).hexdigest() for start in range(0, len(data), CHUNK_BYTES)
    )


def _proven(found: OpenBundle, file: LockedFile) -> tuple[str, ...]:
    return found.prove(file, nothing, nothing).chunks
