"""The range engine against a real hub and against origins that misbehave in every way known to happen."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from deploy.demo.hub import Hub
from shared.errors import (
    Cancelled,
    Corrupt,
    Failed,
    Forbidden,
    ModelyardError,
    NotFound,
    Paused,
    Unavailable,
)
from shared.settings import SourceSettings
from tests.fakes.origin import Origin
from workers.sources.base import RemoteFile
from workers.sources.policy import HostPolicy
from workers.sources.transfer import CHUNK_BYTES, Fetched, Patience, adopt, fetch, journal_path

MIB = 1024**2
QUICK = Patience(window=0.5, tries=3, backoff=0.01)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


SMALL = noise(300_000)
MEDIUM = noise(5 * MIB + 7)


def settings(url: str, **changes: Any) -> SourceSettings:
    return SourceSettings.model_validate({"hf_endpoint": url, "read_timeout": 5, **changes})


def bring(
    url: str,
    partial: Path,
    content: bytes | None = None,
    *,
    path: str = "/file",
    patience: Patience = QUICK,
    **extra: Any,
) -> Fetched:
    """Fetch and check that what was brought is the content, with monotone progress that adds up."""
    counts: list[int] = []
    options = {name: extra.pop(name) for name in list(extra) if name in SourceSettings.model_fields}
    checkpoint = extra.pop("checkpoint", lambda: None)
    file = RemoteFile("file", url + path, **extra)
    chosen = settings(url, **options)
    fetched = fetch(file, partial, HostPolicy(chosen), chosen, checkpoint, counts.append, patience=patience)
    assert threading.active_count() == len([t for t in threading.enumerate() if not t.name.startswith("fetch-")])
    assert all(count > 0 for count in counts)
    if content is not None:
        assert partial.read_bytes() == content
        assert sum(counts) == fetched.size == len(content)
        assert fetched.sha256 == hashlib.sha256(content).hexdigest()
        assert list(fetched.chunks) == [
            blake3(content[start : start + CHUNK_BYTES]).hexdigest() for start in range(0, len(content), CHUNK_BYTES)
        ]
    return fetched


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "file.partial"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's root with one file of 64 MiB and a bit."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "acme" / "big"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(noise(64 * MIB + 12_345))
    return root


BIG = "/acme/big/resolve/main/model.safetensors"


class TestHonestServers:
    def test_many_connections_bring_one_file(self, big: Path, partial: Path) -> None:
        content = (big / "acme/big/model.safetensors").read_bytes()
        with Hub(big) as hub:
            fetched = bring(hub.url, partial, content, path=BIG, size=len(content))
            assert hub.sent("/cdn/") == len(content)
        assert fetched.refetched == 0
        assert partial.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
    @pytest.mark.parametrize("told", [True, False])
    def test_sizes_around_a_chunk(self, partial: Path, size: int, told: bool) -> None:
        content = noise(size)
        with Origin(content) as origin:
            bring(origin.url, partial, content, size=size if told else None)

    def test_every_digest_that_a_source_may_name(self, partial: Path) -> None:
        git = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest()
        md5 = hashlib.md5(SMALL).hexdigest()
        with Origin(SMALL) as origin:
            fetched = bring(origin.url, partial, SMALL, size=len(SMALL), git_sha1=git, md5=md5)
        assert fetched.md5 == md5
        assert fetched.etag == '"one"'

    def test_idle_connections_take_over_from_a_slow_one(self, big: Path, partial: Path) -> None:
        content = noise(2 * CHUNK_BYTES)
        with Origin(content, hold=MIB) as origin:
            bring(origin.url, partial, content, size=len(content), connections=2, read_timeout=3)
            starts = [int(seen.headers["Range"].removeprefix("bytes=").split("-")[0]) for seen in origin.seen]
        assert any(MIB < start < CHUNK_BYTES for start in starts)


class TestMisbehaviour:
    @pytest.mark.parametrize(
        "manners",
        [
            {"ranges": False},
            {"length": False},
            {"ranges": False, "length": False},
            {"ranges": False, "chunked": True},
            {"chunked": True},
            {"etag": None},
            {"etag": 'W/"weak"'},
            {"etag": None, "modified": "Wed, 01 Jan 2025 00:00:00 GMT"},
            {"cut": MIB},
            {"ranges": False, "length": False, "linger": True},
            {"content_range": "bytes 5-9/10"},
            {"content_range": "lines 1-2/3"},
            {"content_range": "bytes 0-0/*", "extra": b""},
        ],
        ids=str,
    )
    def test_the_file_arrives_whole_all_the_same(self, partial: Path, manners: dict[str, Any]) -> None:
        with Origin(MEDIUM, **manners) as origin:
            bring(origin.url, partial, MEDIUM, size=len(MEDIUM))
            assert origin.count("HEAD") == 0

    @pytest.mark.parametrize(
        "manners", [{"ranges": False, "chunked": True}, {"ranges": False, "length": False}], ids=str
    )
    def test_a_size_that_nobody_knows(self, partial: Path, manners: dict[str, Any]) -> None:
        content = noise(CHUNK_BYTES + 5)
        with Origin(content, **manners) as origin:
            fetched = bring(origin.url, partial, content)
        assert fetched.unverified is ("length" in manners)

    @pytest.mark.parametrize(
        ("manners", "kind", "code"),
        [
            ({"encoding": "gzip"}, Failed, "protocol_error"),
            ({"banner": b"SSH-2.0-OpenSSH_9.6\r\n\r\n"}, Failed, "protocol_error"),
            ({"banner": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000}, Failed, "protocol_error"),
            (
                {"banner": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"},
                Failed,
                "protocol_error",
            ),
            ({"cut": 0}, Unavailable, "truncated"),
            ({"drip": True}, Unavailable, "source_too_slow"),
            ({"ranges": False, "cut": MIB}, Unavailable, "truncated"),
            ({"ranges": False, "extra": b"more"}, Corrupt, "size_mismatch"),
            ({"ranges": False, "length": False, "extra": b"more"}, Corrupt, "size_mismatch"),
            ({"ranges": False, "chunked": True, "extra": b"more"}, Corrupt, "size_mismatch"),
            ({"refusals": deque([(401, {})])}, Forbidden, "auth_required"),
            ({"refusals": deque([(403, {"X-Error-Code": "GatedRepo"})])}, Forbidden, "license_required"),
            ({"refusals": deque([(404, {})])}, NotFound, "source_not_found"),
            ({"refusals": deque([(410, {})])}, NotFound, "source_not_found"),
            ({"refusals": deque([(400, {})])}, Failed, "source_refused"),
            ({"refusals": deque([(500, {})] * 3)}, Unavailable, "source_unreachable"),
            ({"moved": {"/file": "/file"}}, Failed, "too_many_redirects"),
            ({"moved": {"/file": "file:///etc/passwd"}}, Forbidden, "source_not_allowed"),
            ({"moved": {"/file": "http://127.0.0.2:1/x"}}, Forbidden, "source_not_allowed"),
            ({"moved": {"/file": "http://127.0.0.1:6379/x"}}, Forbidden, "source_not_allowed"),
            ({"moved": {"/file": "http://a@169.254.169.254/x"}}, Forbidden, "source_not_allowed"),
        ],
        ids=str,
    )
    def test_what_cannot_be_helped_is_named(
        self, partial: Path, manners: dict[str, Any], kind: type[ModelyardError], code: str
    ) -> None:
        with Origin(MEDIUM, **manners) as origin, pytest.raises(kind) as raised:
            bring(origin.url, partial, size=len(MEDIUM), read_timeout=20)
        assert raised.value.code == code

    def test_a_silent_server_times_out(self, partial: Path) -> None:
        with Origin(SMALL, silent=True) as origin, pytest.raises(Unavailable) as raised:
            bring(origin.url, partial, size=len(SMALL), read_timeout=0.1, patience=Patience(60, 2, 0.01))
        assert raised.value.code == "source_timeout"

    def test_nobody_listens(self, partial: Path) -> None:
        with Origin() as origin:
            url = origin.url
        with pytest.raises(Unavailable) as raised:
            bring(url, partial, size=1)
        assert raised.value.code == "source_unreachable"

    @pytest.mark.parametrize(("told", "at_least", "at_most"), [("7", 7, 7), ("99999999", 3600, 3600), ("date", 50, 61)])
    def test_a_busy_server_is_given_its_time(self, partial: Path, told: str, at_least: float, at_most: float) -> None:
        if told == "date":
            told = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        with Origin(SMALL, refusals=deque([(429, {"Retry-After": told})])) as origin:
            with pytest.raises(Unavailable) as raised:
                bring(origin.url, partial, size=len(SMALL))
            assert origin.count() == 1
        assert raised.value.retry_after is not None
        assert at_least <= raised.value.retry_after <= at_most

    def test_extra_connections_that_are_refused_do_not_matter(self, partial: Path) -> None:
        content = noise(3 * CHUNK_BYTES)
        with Origin(content, refusals=deque([(500, {}), (429, {})])) as origin:
            origin.manners.refusals.popleft()
            origin.manners.refusals.clear()
            bring(origin.url, partial, content, size=len(content))

    def test_another_size_than_declared_is_refused_at_once(self, partial: Path) -> None:
        with Origin(SMALL) as origin, pytest.raises(Corrupt) as raised:
            bring(origin.url, partial, size=len(SMALL) + 1)
        assert raised.value.code == "size_mismatch"
        assert not partial.exists()

    def test_a_flipped_byte_of_the_right_length_is_rejected(self, partial: Path) -> None:
        want = hashlib.sha256(MEDIUM).hexdigest()
        flipped = bytearray(MEDIUM)
        flipped[len(flipped) // 2] ^= 1
        with Origin(bytes(flipped)) as origin, pytest.raises(Corrupt) as raised:
            bring(origin.url, partial, size=len(MEDIUM), sha256=want)
        assert raised.value.code == "checksum_mismatch"
        assert raised.value.details["want"] == want
        assert not partial.exists()
        assert not journal_path(partial).exists()


class TestRedirects:
    def test_the_token_stays_with_its_host(self, partial: Path) -> None:
        with Origin(SMALL) as cdn, Origin(moved={"/file": f"{cdn.url}/signed"}) as hub:
            headers = {"Authorization": "Bearer secret"}
            bring(hub.url, partial, SMALL, size=len(SMALL), headers=headers, allowed_hosts=[f"127.0.0.1:{cdn.port}"])
            assert hub.seen[0].headers["Authorization"] == "Bearer secret"
            assert all("Authorization" not in request.headers for request in cdn.seen)

    def test_an_expired_address_is_asked_for_again(self, partial: Path) -> None:
        content = noise(2 * CHUNK_BYTES)
        with Origin(content, moved={"/file": "/signed-1"}) as origin:

            def expire() -> None:
                if origin.busy.is_set() and not origin.manners.gone:
                    origin.manners.gone.add("/signed-1")
                    origin.manners.moved["/file"] = "/signed-2"

            bring(origin.url, partial, content, size=len(content), connections=1, checkpoint=expire)


class TestChangedContent:
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
    """Pause a fetch when the origin has sent all it will."""
    assert origin.manners.hold is not None
    hold = origin.manners.hold

    def pause() -> None:
        if origin.sent == hold:
            raise Paused

    with pytest.raises(Paused):
        bring(origin.url, partial, size=size, checkpoint=pause, patience=Patience(60, 3, 0.01))


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
            bring(hub.url, partial, content, path=BIG, size=len(content), connections=connections)
            assert hub.sent("/cdn/") <= len(content) - proven + connections * CHUNK_BYTES
            assert before + hub.sent("/cdn/") >= len(content)


CHILD = """
import sys
from pathlib import Path
from shared.settings import SourceSettings
from workers.sources.base import RemoteFile
from workers.sources.policy import HostPolicy
from workers.sources.transfer import fetch

url, path, partial, size, connections = sys.argv[1:]
settings = SourceSettings(hf_endpoint=url, connections=int(connections))
file = RemoteFile("file", url + path, int(size))
fetch(file, Path(partial), HostPolicy(settings), settings, lambda: None, lambda count: print(count, flush=True))
"""
