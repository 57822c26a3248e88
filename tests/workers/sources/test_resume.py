"""Stops, kills, damaged and changed files: what is proven is never fetched again, and nothing else is believed."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deploy.demo.hub import Hub
from shared.errors import (
    Cancelled,
    Corrupt,
    Failed,
    Paused,
    Unavailable,
)
from tests.fakes.origin import Origin
from tests.workers.sources.fetching import BIG, MEDIUM, MIB, PATIENT, SMALL, bring, noise
from workers.sources.base import RemoteFile
from workers.sources.transfer import CHUNK_BYTES, adopt, journal_path


class TestChangedContent:
    @pytest.mark.fault("A-54")
    def test_a_change_between_attempts_starts_again(self, partial: Path) -> None:
        one, two = noise(2 * CHUNK_BYTES, 1), noise(2 * CHUNK_BYTES, 2)
        with Origin(one, hold=CHUNK_BYTES + MIB) as origin:
            pause_when_held(origin, partial, len(one))
            origin.manners.hold, origin.content, origin.manners.etag = None, two, '"two"'
            fetched = bring(origin.url, partial, two)
        assert fetched.etag == '"two"'
        assert fetched.refetched > 0

    def test_content_that_keeps_changing_is_given_up(self, partial: Path) -> None:
        with Origin(MEDIUM) as origin, pytest.raises(Unavailable) as raised:
            bring(origin.url, partial, size=len(MEDIUM), etag='"another"')
        assert raised.value.code == "source_changed"


def pause_when_held(origin: Origin, partial: Path, size: int) -> None:
    """Pause a fetch over one connection when the origin has sent all it will."""

    def pause() -> None:
        if origin.held.is_set():
            raise Paused

    with pytest.raises(Paused):
        bring(origin.url, partial, size=size, checkpoint=pause, patience=PATIENT, connections=1)


class TestResume:
    def test_a_stop_is_prompt_and_leaves_nothing_running(self, partial: Path) -> None:
        def cancel() -> None:
            if origin.busy.is_set():
                raise Cancelled

        with Origin(MEDIUM, drip=True) as origin, pytest.raises(Cancelled):
            bring(origin.url, partial, size=len(MEDIUM), checkpoint=cancel)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch-")]

    def test_a_pause_loses_nothing(self, partial: Path) -> None:
        content = noise(2 * CHUNK_BYTES)
        with Origin(content, hold=CHUNK_BYTES + MIB) as origin:
            pause_when_held(origin, partial, len(content))
            paused_at = origin.sent
            origin.manners.hold = None
            bring(origin.url, partial, content, size=len(content))
            # what the kernel still held of the broken connection is all that may be sent twice
            assert origin.sent - paused_at <= len(content) - paused_at + 2 * MIB

    def test_a_complete_file_is_only_checked(self, partial: Path) -> None:
        with Origin(MEDIUM) as origin:
            first = bring(origin.url, partial, MEDIUM, size=len(MEDIUM))
            asked = origin.count()
            assert bring(origin.url, partial, MEDIUM, size=len(MEDIUM)) == first
            assert origin.count() == asked

    def test_a_bad_chunk_on_disk_is_fetched_again_alone(self, partial: Path) -> None:
        content = noise(3 * CHUNK_BYTES + 1)
        with Origin(content) as origin:
            bring(origin.url, partial, content, size=len(content), connections=1)
            before = origin.sent
            with partial.open("r+b") as file:
                file.seek(CHUNK_BYTES + 99)
                file.write(b"flip")
            fetched = bring(origin.url, partial, content, size=len(content), connections=1)
            assert fetched.refetched == origin.sent - before == CHUNK_BYTES

    def test_a_torn_last_line_is_ignored(self, partial: Path) -> None:
        with Origin(MEDIUM) as origin:
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM))
            with journal_path(partial).open("ab") as journal:
                journal.write(b"0 123")
            asked = origin.count()
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM))
            assert origin.count() == asked

    def test_a_journal_of_something_else_is_not_believed(self, partial: Path) -> None:
        with Origin(MEDIUM) as origin:
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM), path="/one")
            before = origin.sent
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM), path="/two")
            assert origin.sent - before == len(MEDIUM)

    def test_what_an_earlier_manifest_knows_is_not_fetched(self, partial: Path) -> None:
        content = noise(2 * CHUNK_BYTES)
        with Origin(content) as origin:
            fetched = bring(origin.url, partial, content, size=len(content))
            journal_path(partial).unlink()
            partial.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            before = origin.sent
            file = RemoteFile("file", origin.url + "/file", len(content), fetched.sha256)
            adopt(file, partial, fetched.chunks, fetched.etag)
            bring(origin.url, partial, content, size=len(content), sha256=fetched.sha256)
            assert origin.sent - before == CHUNK_BYTES

    @pytest.mark.fault("A-44")
    def test_a_linked_file_is_used_and_never_written(self, partial: Path, tmp_path: Path) -> None:
        published = tmp_path / "published"
        published.write_bytes(MEDIUM)
        published.chmod(0o440)
        partial.hardlink_to(published)
        with Origin(MEDIUM) as origin:
            want = hashlib.sha256(MEDIUM).hexdigest()
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM), sha256=want)
            assert origin.count() == 0
            origin.content = SMALL
            bring(origin.url, partial, SMALL, size=len(SMALL))
        assert published.read_bytes() == MEDIUM

    @pytest.mark.fault("F-36")
    def test_a_disk_that_cannot_read_it_says_so(self, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        partial.write_bytes(MEDIUM)

        def broken(*_: object) -> None:
            raise OSError(errno.EIO, "nothing can be read")

        monkeypatch.setattr("workers.sources.transfer.engine.standing_digests", broken)
        with Origin(MEDIUM) as origin, pytest.raises(Failed) as raised:
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM), sha256=hashlib.sha256(MEDIUM).hexdigest())
        assert raised.value.code == "storage_error"
        assert partial.read_bytes() == MEDIUM

    @pytest.mark.fault("A-44")
    def test_a_planted_link_is_not_followed(self, partial: Path, tmp_path: Path) -> None:
        partial.symlink_to(tmp_path / "elsewhere")
        with Origin(SMALL) as origin, pytest.raises(Corrupt) as raised:
            bring(origin.url, partial, size=len(SMALL))
        assert raised.value.code == "staging_invalid"
        assert not (tmp_path / "elsewhere").exists()

    def test_killed_in_the_middle_it_goes_on_from_what_is_proven(
        self, big: Path, partial: Path, tmp_path: Path
    ) -> None:
        content = (big / "acme/big/model.safetensors").read_bytes()
        connections = 2
        with Hub(big, rate=20 * MIB) as hub:
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, hub.url, BIG, str(partial), str(len(content)), str(connections)],
                stdout=subprocess.PIPE,
                text=True,
            )
            with child:
                assert child.stdout is not None
                proven = 0
                while proven < 24 * MIB:
                    proven += int(child.stdout.readline())
                os.kill(child.pid, signal.SIGKILL)
            before = hub.sent("/cdn/")
        with Hub(big) as hub:
            bring(hub.url, partial, content, path=BIG, patience=PATIENT, size=len(content), connections=connections)
            assert hub.sent("/cdn/") <= len(content) - proven + connections * CHUNK_BYTES
            assert before + hub.sent("/cdn/") >= len(content)


CHILD = """
import sys
from pathlib import Path
from shared.settings import SourceSettings
from workers.sources.base import RemoteFile
from workers.sources.wire.policy import HostPolicy
from workers.sources.transfer import fetch

url, path, partial, size, connections = sys.argv[1:]
settings = SourceSettings(hf_endpoint=url, connections=int(connections))
file = RemoteFile("file", url + path, int(size))
fetch(file, Path(partial), HostPolicy(settings), settings, lambda: None, lambda count: print(count, flush=True))
"""
