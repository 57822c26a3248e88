"""The files of one job: brought over few connections, each proven, all given up together."""

import hashlib
import threading
from contextlib import closing
from pathlib import Path

import pytest

from shared.errors import Cancelled, Corrupt
from tests.fakes.origin import Origin
from tests.workers.sources.fetching import SMALL, noise, settings
from workers.sources.base import RemoteFile
from workers.sources.transfer import CHUNK_BYTES, Fetched, fetch, fetch_several
from workers.sources.transfer.several import AT_ONCE
from workers.sources.wire.lines import Lines
from workers.sources.wire.policy import HostPolicy


def files(origin: Origin, folder: Path, count: int, sha256: str | None = None) -> list[tuple[RemoteFile, Path]]:
    names = [f"file-{number}" for number in range(count)]
    size = len(origin.content)
    return [(RemoteFile(name, f"{origin.url}/{name}", size, sha256), folder / f"{name}.partial") for name in names]


def bring(origin: Origin, wanted: list[tuple[RemoteFile, Path]], checkpoint: object = None) -> dict[str, Fetched]:
    chosen = settings(origin.url)
    told: dict[str, int] = {}

    def on_bytes(file: RemoteFile, count: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        told[file.name] = told.get(file.name, 0) + count

    look = checkpoint if callable(checkpoint) else lambda: None
    with closing(fetch_several(wanted, HostPolicy(chosen), chosen, look, on_bytes)) as coming:
        found = {file.name: fetched for file, fetched in coming}
    assert told == {name: fetched.size for name, fetched in found.items()}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch-", "files"))]
    return found


def test_small_files_share_connections(tmp_path: Path) -> None:
    with Origin(SMALL) as origin:
        wanted = files(origin, tmp_path, 20)
        found = bring(origin, wanted)
        assert len(found) == 20
        assert all(partial.read_bytes() == SMALL for _, partial in wanted)
        assert origin.count() == 20
        assert origin.connections <= AT_ONCE


def test_large_files_come_after_the_small_ones_over_the_same_connections(tmp_path: Path) -> None:
    content = noise(CHUNK_BYTES)
    with Origin(content) as origin:
        wanted = files(origin, tmp_path, 2)
        assert list(bring(origin, wanted)) == ["file-0", "file-1"]
        assert origin.connections == 1


def test_a_connection_that_the_server_has_closed_is_replaced(tmp_path: Path) -> None:
    with Origin(SMALL) as origin, Lines() as lines:
        for file, partial in files(origin, tmp_path, 3):
            chosen = settings(origin.url)
            fetch(file, partial, HostPolicy(chosen), chosen, lambda: None, lambda _: None, lines=lines)
            origin.hang_up()
        assert origin.connections == 3


def test_the_first_failure_ends_all_and_is_told(tmp_path: Path) -> None:
    with Origin(SMALL) as origin:
        wanted = files(origin, tmp_path, 6, hashlib.sha256(SMALL).hexdigest())
        wanted[3] = (RemoteFile("file-3", f"{origin.url}/file-3", len(SMALL), "0" * 64), wanted[3][1])
        with pytest.raises(Corrupt) as raised:
            bring(origin, wanted)
    assert raised.value.code == "checksum_mismatch"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch-", "files"))]


def test_a_stop_is_prompt_and_leaves_nothing_running(tmp_path: Path) -> None:
    def cancel() -> None:
        if origin.busy.is_set():
            raise Cancelled

    with Origin(SMALL, drip=True) as origin, pytest.raises(Cancelled):
        bring(origin, files(origin, tmp_path, 8), cancel)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch-", "files"))]
