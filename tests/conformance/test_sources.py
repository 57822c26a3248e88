"""What every source's fetch must stand, over real sockets: one table of servers that misbehave, one row per way."""

import gzip
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session

from shared.errors import Invalid, ModelyardError, Unavailable
from shared.refs import Ref, SourceKind
from shared.settings import SourceSettings
from shared.trust import Trust
from tests.fakes.origin import Origin
from tests.workers.sources.fetching import MIB, PATIENT, QUICK, noise
from workers.sources import source_of
from workers.sources.base import Snapshot
from workers.sources.transfer import Fetched, Patience, fetch
from workers.sources.wire.policy import HostPolicy
from workers.store.essentials import check_essentials

CONTENT = noise(5 * MIB + 7)
OTHER = noise(len(CONTENT), 1)
COMMIT = "c" * 40
NAME = "model.safetensors"
HUB, PLAIN, SUMMED = "the Hub", "a URL", "a URL with its checksum"
SOURCES = (HUB, PLAIN, SUMMED)
WHOLE = "whole"
UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Row:
    """One way to misbehave. `ends` is an error's code, or that the file arrives; per source where they differ."""

    fault: str
    name: str
    manners: dict[str, Any]
    ends: str | dict[str, str] = WHOLE
    content: bytes = CONTENT
    patience: Patience = QUICK
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.fault} {self.name}"

    def end(self, source: str) -> str:
        return self.ends if isinstance(self.ends, str) else self.ends[source]


def per_source(hub: str, plain: str, summed: str) -> dict[str, str]:
    return dict(zip(SOURCES, (hub, plain, summed), strict=True))


NO_LENGTH = {"ranges": False, "length": False}
TABLE = (
    Row("A-36", "a name of the server's", {"more": {"Content-Disposition": 'attachment; filename="../../x.py"'}}),
    Row("A-36", "an encoded name", {"more": {"Content-Disposition": "inline; filename*=UTF-8''..%2f" + "x" * 4000}}),
    Row("A-40", "a page in place of the file", {"etag": None}, per_source("size_mismatch", WHOLE, "checksum_mismatch"),
        content=b"<!DOCTYPE html><html>Sign in</html>"),
    Row("A-47", "no account", {"refusals": deque([(401, {})])}, "auth_required"),
    Row("A-47", "no licence", {"refusals": deque([(403, {"X-Error-Code": "GatedRepo"})])}, "license_required"),
    Row("A-47", "busy", {"refusals": deque([(429, {"Retry-After": "7"})])}, "source_busy"),
    Row("A-49", "short bodies", {"cut": MIB}),
    Row("A-49", "short bodies without ranges", {"ranges": False, "cut": MIB}, "truncated"),
    Row("A-49", "no body at all", {"cut": 0}, "truncated"),
    Row("A-50", "longer than declared", {"ranges": False, "extra": b"more"},
        per_source("size_mismatch", WHOLE, "checksum_mismatch")),
    Row("A-50", "longer, with no length", NO_LENGTH | {"extra": b"more"},
        per_source("size_mismatch", UNVERIFIED, "checksum_mismatch")),
    Row("A-51", "no length", NO_LENGTH, per_source(WHOLE, UNVERIFIED, WHOLE)),
    Row("A-51", "no length, but ranges", {"length": False}),
    Row("A-51", "chunked", {"ranges": False, "chunked": True}),
    Row("A-52", "no ranges", {"ranges": False}),
    Row("A-53", "another range", {"content_range": "bytes 5-9/10"}),
    Row("A-53", "no range that makes sense", {"content_range": "lines 1-2/3"}),
    Row("A-53", "several ranges", {"more": {"Content-Type": "multipart/byteranges; boundary=x"},
                                   "content_range": "multipart"}),
    Row("A-55", "other content, a weak tag", {"etag": 'W/"one"'},
        per_source("checksum_mismatch", WHOLE, "checksum_mismatch"), content=OTHER),
    Row("A-55", "other content, no tag", {"etag": None},
        per_source("checksum_mismatch", WHOLE, "checksum_mismatch"), content=OTHER),
    Row("A-57", "HEAD refused", {}),
    Row("A-58", "compressed", {"encoding": "gzip"}, "protocol_error"),
    Row("A-59", "another protocol", {"banner": b"SSH-2.0-OpenSSH_9.6\r\n\r\n"}, "protocol_error"),
    Row("A-59", "a header of 1 MB", {"banner": b"HTTP/1.1 200 OK\r\nX: " + b"y" * MIB + b"\r\n\r\n"}, "protocol_error"),
    Row("A-59", "ten thousand headers", {"banner": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000}, "protocol_error"),
    Row("A-59", "two lengths", {"banner": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"},
        "protocol_error"),
    Row("A-59", "continue, continue", {"endless": b"HTTP/1.1 100 Continue\r\n\r\n"},
        per_source("source_too_slow", "source_timeout", "source_timeout"),
        options={"read_timeout": 0.5, "connect_timeout": 1}),
    Row("A-60", "a redirect to itself", {"moved": {"/file": "/file"}}, "too_many_redirects"),
    Row("A-60", "ping-pong", {"moved": {"/file": "/b", "/b": "/file"}}, "too_many_redirects"),
    Row("A-61", "a byte and nothing more", {"drip": True}, "source_too_slow"),
    Row("A-62", "without end", {**NO_LENGTH, "flood": noise(64 * 1024)},
        per_source("size_mismatch", "source_too_large", "source_too_large"), options={"max_unsized_bytes": 20 * MIB}),
    Row("A-64", "a reset every megabyte", {"cut": MIB, "length": True}, patience=Patience(60, 2, 0.01)),
    Row("A-65", "hangs after the last byte", {"linger": True}),
    Row("A-65", "hangs after the last byte, no length", {**NO_LENGTH, "linger": True},
        per_source(WHOLE, "source_timeout", "source_timeout"), patience=PATIENT, options={"read_timeout": 1}),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_open_session() -> Iterator[None]:
    yield
    close_session()


class Client:
    """One source against one origin, whose pages answer for a Hub where one is wanted."""

    def __init__(self, source: str, origin: Origin, **options: Any) -> None:
        self.origin = origin
        hub = {"hf_endpoint": origin.url} if source == HUB else {"allowed_hosts": [f"127.0.0.1:{origin.port}"]}
        self.settings = SourceSettings.model_validate({"read_timeout": 5, "connect_timeout": 5} | hub | options)
        self.kind = SourceKind.HUGGINGFACE if source == HUB else SourceKind.URL
        digest = hashlib.sha256(CONTENT).hexdigest()
        self.checksum = f"sha256:{digest}" if source == SUMMED else None
        if source == HUB:
            lfs = {"sha256": digest, "size": len(CONTENT), "pointerSize": 134}
            siblings = [{"rfilename": NAME, "size": len(CONTENT), "blobId": "0" * 40, "lfs": lfs}]
            listing = {"id": "acme/small", "sha": COMMIT, "siblings": siblings, "gated": False}
            page = (json.dumps(listing).encode(), {"Content-Type": "application/json"})
            origin.manners.pages["/api/models/acme/small"] = page
        # every row speaks of one path
        file = f"/acme/small/resolve/{COMMIT}/{NAME}" if source == HUB else f"/{NAME}"
        moved = origin.manners.moved
        origin.manners.moved = {path.replace("/file", file): to.replace("/file", file) for path, to in moved.items()}

    def resolve(self) -> Snapshot:
        location = "acme/small" if self.kind is SourceKind.HUGGINGFACE else f"{self.origin.url}/{NAME}"
        return source_of(self.kind, self.settings).resolve(Ref(self.kind, location), self.checksum)

    def fetch(
        self, snapshot: Snapshot, partial: Path, patience: Patience, checkpoint: Callable[[], None] = lambda: None
    ) -> Fetched:
        (file,) = snapshot.files
        assert file.name == NAME
        counts: list[int] = []
        try:
            return fetch(
                file, partial, HostPolicy(self.settings), self.settings, checkpoint, counts.append, patience=patience
            )
        finally:
            assert all(count > 0 for count in counts)


@pytest.mark.fault(
    "A-36", "A-40", "A-47", "A-49", "A-50", "A-51", "A-52", "A-53", "A-55", "A-57", "A-58", "A-59", "A-60", "A-61",
    "A-62", "A-64", "A-65",
)  # fmt: skip
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_server_that_misbehaves(source: str, row: Row, tmp_path: Path) -> None:
    refusals = row.manners.get("refusals")
    manners = row.manners | ({"refusals": deque(refusals)} if refusals else {})
    partial, ended, said = tmp_path / "file.partial", WHOLE, ""
    with Origin(row.content, **manners) as origin:
        client = Client(source, origin, **row.options)
        try:
            fetched = client.fetch(client.resolve(), partial, row.patience)
        except ModelyardError as error:
            ended, said = error.code, error.message + error.hint
        else:
            expected = row.content + (row.manners.get("extra", b"") if source != HUB else b"")
            assert partial.read_bytes() == expected
            ended = UNVERIFIED if fetched.unverified else WHOLE
        assert origin.count("HEAD") == 0
    assert ended == row.end(source)
    assert "Sign in" not in said
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch-") and thread.is_alive()]
    assert {path.name for path in tmp_path.iterdir()} <= {"file.partial", "file.partial.journal"}


class TestResumes:
    """What an earlier attempt left, against what the server does now."""

    @pytest.fixture(params=SOURCES)
    def started(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Client, Snapshot, Path]]:
        """All but the end of the file is there."""

        def pause() -> None:
            if origin.held.is_set():
                raise KeyboardInterrupt

        with Origin(CONTENT, hold=4 * MIB) as origin:
            client = Client(request.param, origin, connections=1)
            snapshot = client.resolve()
            with pytest.raises(KeyboardInterrupt):
                client.fetch(snapshot, tmp_path / "file.partial", PATIENT, pause)
            origin.manners.hold = None
            origin.sent = 0
            yield client, snapshot, tmp_path / "file.partial"

    @pytest.mark.fault("A-52")
    def test_ranges_that_are_ignored_now(self, started: tuple[Client, Snapshot, Path]) -> None:
        client, snapshot, partial = started
        client.origin.manners.ranges = False
        fetched = client.fetch(snapshot, partial, QUICK)
        assert partial.read_bytes() == CONTENT
        assert fetched.refetched > 0

    @pytest.mark.fault("A-54", "A-55")
    @pytest.mark.parametrize("etag", ['"two"', '"one"', None, 'W/"one"'])
    def test_content_that_changed(self, started: tuple[Client, Snapshot, Path], etag: str | None) -> None:
        """Under a new tag it is fetched again from its start; a lying tag is found out by the digest, where there is
        one, and a URL without one cannot tell: that is why it is not called proven."""
        client, snapshot, partial = started
        client.origin.content, client.origin.manners.etag = OTHER, etag
        (file,) = snapshot.files
        if file.etag is not None and etag not in (None, file.etag):
            with pytest.raises(Unavailable) as raised:  # a URL is pinned to the tag that it had when it was asked
                client.fetch(snapshot, partial, QUICK)
            assert raised.value.code == "source_changed"
        elif file.sha256 is not None:
            with pytest.raises(ModelyardError) as mismatched:
                client.fetch(snapshot, partial, QUICK)
            assert mismatched.value.code == "checksum_mismatch"
            assert not partial.exists()
        else:
            assert len(CONTENT) == client.fetch(snapshot, partial, QUICK).size

    @pytest.mark.fault("A-55")
    def test_what_was_kept_is_of_other_content(self, tmp_path: Path) -> None:
        """The end of one content after the start of another, under one tag: brought once more, from its start."""
        with Origin(OTHER, hold=4 * MIB) as origin:
            origin.manners.etag = '"one"'
            client = Client(HUB, origin, connections=1)
            snapshot, partial = client.resolve(), tmp_path / "file.partial"

            def pause() -> None:
                if origin.held.is_set():
                    raise KeyboardInterrupt

            (file,) = snapshot.files
            right = replace(file, sha256=hashlib.sha256(CONTENT).hexdigest())
            snapshot = replace(snapshot, files=(right,))
            with pytest.raises(KeyboardInterrupt):
                client.fetch(snapshot, partial, PATIENT, pause)
            origin.manners.hold, origin.content = None, CONTENT
            fetched = client.fetch(snapshot, partial, QUICK)
        assert partial.read_bytes() == CONTENT
        assert fetched.refetched == len(CONTENT)

    @pytest.mark.fault("A-56")
    def test_a_file_that_is_shorter_now(self, started: tuple[Client, Snapshot, Path]) -> None:
        """The rest that is asked for does not exist; this never loops."""
        client, snapshot, partial = started
        client.origin.content = CONTENT[:MIB]
        with pytest.raises(ModelyardError) as raised:
            client.fetch(snapshot, partial, QUICK)
        assert raised.value.code in ("size_mismatch", "source_changed")
        assert client.origin.count() < 20

    @pytest.mark.fault("A-49")
    def test_what_is_proven_is_not_fetched_again(self, started: tuple[Client, Snapshot, Path]) -> None:
        client, snapshot, partial = started
        client.fetch(snapshot, partial, QUICK)
        assert partial.read_bytes() == CONTENT
        assert client.origin.sent < len(CONTENT)


class TestMetadata:
    """The Hub's listing is JSON of a stranger: bounded in bytes, in time, and never inflated."""

    @pytest.mark.fault("A-58")
    def test_a_compressed_bomb(self) -> None:
        bomb = gzip.compress(bytes(200 * MIB), 1)
        with Origin() as origin:
            client = Client(HUB, origin)
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            origin.manners.pages["/api/models/acme/small"] = (bomb, headers)
            with pytest.raises(ModelyardError) as raised:
                client.resolve()
        assert raised.value.code == "protocol_error"

    @pytest.mark.fault("A-45")
    def test_a_listing_without_end(self) -> None:
        with Origin(**NO_LENGTH, flood=b" " * 64 * 1024) as origin:
            client = Client(HUB, origin)
            origin.manners.pages.clear()
            with pytest.raises(Invalid) as raised:
                client.resolve()
        assert raised.value.code == "source_too_large"

    @pytest.mark.fault("A-59")
    def test_heads_without_end(self) -> None:
        with Origin(endless=b"HTTP/1.1 100 Continue\r\n\r\n") as origin:
            client = Client(HUB, origin, read_timeout=0.5)
            origin.manners.pages.clear()
            with pytest.raises(ModelyardError) as raised:
                client.resolve()
        assert raised.value.code in ("source_timeout", "source_unreachable", "protocol_error")

    @pytest.mark.fault("A-46")
    def test_a_branch_that_moves_meanwhile_changes_nothing(self, tmp_path: Path) -> None:
        """Every file is asked for at the commit that the listing named."""
        with Origin(CONTENT) as origin:
            client = Client(HUB, origin)
            snapshot = client.resolve()
            listing, headers = origin.manners.pages["/api/models/acme/small"]
            origin.manners.pages["/api/models/acme/small"] = (listing.replace(b"c" * 40, b"d" * 40), headers)
            client.fetch(snapshot, tmp_path / "file.partial", QUICK)
            asked = {seen.path for seen in origin.seen if "resolve" in seen.path}
        assert snapshot.revision == COMMIT
        assert asked == {f"/acme/small/resolve/{COMMIT}/{NAME}"}


@pytest.mark.fault("A-41", "A-77")
class TestNames:
    """What is refused by its name costs one byte."""

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            *((name, "unsupported_archive") for name in ("m.zip", "m.tar", "m.safetensors.gz")),
            *((name, "unsafe_format") for name in ("m.ckpt", "m.pt", "m.pth", "m.pkl", "m.py", "m.so")),
        ],
    )
    def test_a_url(self, name: str, code: str) -> None:
        with Origin(CONTENT) as origin:
            client = Client(PLAIN, origin)
            with pytest.raises(ModelyardError) as raised:
                source_of(SourceKind.URL, client.settings).resolve(Ref(SourceKind.URL, f"{origin.url}/{name}"))
            assert origin.sent <= 1
        assert raised.value.code == code

    def test_a_page_under_a_name_of_weights_does_not_pass_for_them(self, tmp_path: Path) -> None:
        (tmp_path / "model.bin").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
        (problem, *_) = check_essentials(tmp_path, ["model.bin"], Trust("acorn", COMMIT))
        assert problem.code == "content_mismatch"
