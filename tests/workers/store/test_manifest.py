"""A manifest comes back as it was written, or not at all."""

import errno
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Corrupt, Failed
from tests.factories.stored import manifest_file
from workers.store.manifest import CHUNK_BYTES, Manifest, read, write


def made() -> Manifest:
    files = [manifest_file("a/ü.bin", b"abc"), manifest_file("empty", b"")]
    return Manifest.of("tiny", "llm", "r1", "hf:owner/name", files, ["x.py"])


@pytest.mark.fault("A-116")
def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny" / "r1.json"
    write(path, made())
    write(path, made())
    assert read(path) == made()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [found.name for found in path.parent.iterdir()] == ["r1.json"]
    assert made().size == 3


CHANGES: list[tuple[str, Any]] = [
    ("v", 2),
    ("files", None),
    ("files", [{}]),
    ("files", ["a"]),
    ("model_id", 1),
    ("created_at", None),
    ("skipped", [1]),
    ("unknown", 1),
]
FILE_CHANGES: list[tuple[str, Any]] = [
    ("name", "../a"),
    ("name", "empty"),
    ("name", 1),
    ("size", -1),
    ("size", 1.0),
    ("size", True),
    ("size", CHUNK_BYTES + 1),
    ("sha256", "x"),
    ("sha256", None),
    ("chunks", ["0" * 63]),
    ("chunks", []),
    ("etag", 1),
    ("source_checksum", 1),
    ("more", 1),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_a_damaged_manifest_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    write(tmp_path / "m", made())
    body = json.loads((tmp_path / "m").read_bytes())
    (tmp_path / "m").write_text(json.dumps(body | {field: value}))
    refuses(tmp_path / "m")


@pytest.mark.parametrize(("field", "value"), FILE_CHANGES)
def test_a_manifest_with_a_damaged_file_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    write(tmp_path / "m", made())
    body = json.loads((tmp_path / "m").read_bytes())
    body["files"][0][field] = value
    (tmp_path / "m").write_text(json.dumps(body))
    refuses(tmp_path / "m")


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"{}", b'"a"', b"\xff", b"[" * 100_000])
def test_something_else_is_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "m").write_bytes(body)
    refuses(tmp_path / "m")
    refuses(tmp_path / "absent")
    refuses(tmp_path)


@pytest.mark.fault("F-36")
def test_a_disk_that_refuses_says_nothing_about_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "stale handle")

    monkeypatch.setattr(Path, "open", stale)
    with pytest.raises(Failed) as caught:
        read(tmp_path / "m")
    assert caught.value.code == "storage_error"


def refuses(path: Path) -> None:
    with pytest.raises(Corrupt) as caught:
        read(path)
    assert caught.value.code == "manifest_unreadable"
