"""A power cut keeps what was synced and may lose the rest: nothing is renamed into place before it is on disk."""

import os
from pathlib import Path
from typing import Any

import pytest

from shared.db.session import Database
from tests.factories.stored import stage
from workers.store.layout import SEAL, Layout
from workers.store.publish import publish

Step = tuple[str, str]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every sync and every rename of this process, in order, the real ones still done."""
    seen: list[Step] = []

    def syncing(real: Any) -> Any:
        def sync(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            real(handle)
            seen.append(("sync", str(Path(f"/proc/self/fd/{number}").readlink())))

        return sync

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, syncing(getattr(os, name)))
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def move(source: Any, target: Any, real: Any = real, **more: Any) -> None:
            real(source, target, **more)
            seen.append(("rename", os.fspath(target)))

        monkeypatch.setattr(os, name, move)
    return seen


@pytest.mark.fault("F-12")
def test_everything_is_on_disk_before_the_rename_and_the_rename_before_the_end(
    layout: Layout, steps: list[Step]
) -> None:
    files = {"a": b"abc", "sub/b": b"defg", "sub/deep/c": b"x"}
    manifest, partials = stage(layout, files)
    steps.clear()
    publish(layout, manifest, partials)
    staging, published = layout.staging("tiny", "r1"), layout.published("llm", "tiny", "r1")
    moved = steps.index(("rename", str(published)))
    before, after = steps[:moved], steps[moved + 1 :]
    for name in files:
        assert ("sync", str(staging / name)) in before, f"{name} was renamed into place unsynced"
    for folder in (staging, staging / "sub", staging / "sub/deep", published.parent.parent):
        assert ("sync", str(folder)) in before, f"the names in {folder} were not synced"
    assert _synced_under_another_name(before, staging / SEAL), "the manifest was not synced"
    kept = after.index(("rename", str(layout.manifest("tiny", "r1"))))
    assert ("sync", str(published.parent)) in after[:kept], "the rename itself was not synced"
    assert ("sync", str(layout.manifest("tiny", "r1").parent)) in after[kept:]


def _synced_under_another_name(steps: list[Step], path: Path) -> bool:
    """Written under a draft's name, synced, then renamed; or synced where it is."""
    synced = [Path(name) for what, name in steps if what == "sync"]
    return any(each.parent == path.parent and path.name in each.name for each in synced)


@pytest.mark.fault("F-12")
def test_the_ledger_waits_for_the_disk(tmp_path: Path) -> None:
    """SQLite: a log ahead of the file, synced at every commit."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    with database.engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    database.close()
    assert (mode, synchronous) == ("wal", 2)
