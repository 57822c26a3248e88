"""The range engine against a real hub and against origins that misbehave in every way known to happen."""

import hashlib
import subprocess
import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.hub import Hub
from shared.errors import (
    Corrupt,
    Failed,
    Forbidden,
    ModelyardError,
    NotFound,
    Unavailable,
)
from tests.fakes.origin import Origin
from tests.workers.sources.fetching import BIG, MEDIUM, MIB, PATIENT, SMALL, bring, noise
from workers.sources.transfer import CHUNK_BYTES, Patience, journal_path


class TestHonestServers:
    def test_many_connections_bring_one_file(self, big: Path, partial: Path) -> None:
        content = (big / "acme/big/model.safetensors").read_bytes()
        with Hub(big) as hub:
            fetched = bring(hub.url, partial, content, path=BIG, patience=PATIENT, size=len(content))
        assert hub.sent("/cdn/") >= len(content)
        assert len({request.start for request in hub.requests if request.status == 206}) >= 5
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
            bring(origin.url, partial, content, size=len(content), connections=2, read_timeout=3, patience=PATIENT)
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

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_further_connection_that_is_refused_does_not_matter(self, partial: Path, status: int) -> None:
        content = noise(3 * CHUNK_BYTES)
        with Origin(content) as origin:

            def refuse_one_more() -> None:
                if origin.busy.is_set() and not refused.is_set():
                    refused.set()
                    origin.manners.refusals.append((status, {}))

            refused = threading.Event()
            bring(origin.url, partial, content, size=len(content), connections=3, checkpoint=refuse_one_more)

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
    @pytest.mark.fault("A-111", "A-112")
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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    place = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", place, "-out", f"{place}.crt"],
        check=True,
        capture_output=True,
    )
    place.write_text(place.read_text() + Path(f"{place}.crt").read_text())
    return place


class TestTls:
    def test_an_unknown_authority_is_refused(self, certificate: Path, partial: Path) -> None:
        with Origin(SMALL, certificate) as origin, pytest.raises(Forbidden) as raised:
            bring(origin.url, partial, size=len(SMALL))
        assert raised.value.code == "tls_error"
        assert "MODELYARD_SOURCES__CA_BUNDLE" in raised.value.hint

    def test_the_operators_authority_is_trusted(self, certificate: Path, partial: Path) -> None:
        content = noise(2 * CHUNK_BYTES)
        with Origin(content, certificate) as origin:
            bring(origin.url, partial, content, size=len(content), ca_bundle=certificate)

    def test_no_way_back_to_plain_http(self, certificate: Path, partial: Path) -> None:
        with Origin(SMALL) as plain, Origin(SMALL, certificate, moved={"/file": f"{plain.url}/x"}) as origin:
            hosts = [f"127.0.0.1:{plain.port}"]
            with pytest.raises(Forbidden, match="from https to http"):
                bring(origin.url, partial, size=len(SMALL), ca_bundle=certificate, allowed_hosts=hosts)
            assert not plain.seen
