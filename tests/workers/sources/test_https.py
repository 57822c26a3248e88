"""Direct URLs."""

from collections import deque
from typing import Any

import pytest

from shared.errors import Forbidden, Invalid, NotFound, Unavailable
from shared.refs import Ref, SourceKind
from shared.settings import SourceSettings
from tests.fakes.origin import Origin
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.https import Https, name_of, parse_checksum

CONTENT = b"weights" * 1000
SHA256 = "ab" * 32


def resolve(origin: Origin, checksum: str | None = None, path: str = "/model.gguf") -> Snapshot:
    settings = SourceSettings(allowed_hosts=[f"127.0.0.1:{origin.port}"], read_timeout=5)
    return Https(settings).resolve(Ref(SourceKind.URL, origin.url + path), checksum)


def test_one_file_under_a_name_of_ours() -> None:
    with Origin(CONTENT) as origin:
        snapshot = resolve(origin)
        assert origin.count("HEAD") == 0
    assert snapshot.files == (RemoteFile("model.gguf", origin.url + "/model.gguf", len(CONTENT), etag='"one"'),)
    assert len(snapshot.revision) == 40
    assert snapshot.size == len(CONTENT)


def test_the_revision_stands_for_the_content() -> None:
    with Origin(CONTENT) as origin:
        first = resolve(origin).revision
        assert resolve(origin).revision == first
        origin.manners.etag = '"two"'
        assert resolve(origin).revision != first
        by_sum = resolve(origin, f"sha256:{SHA256}").revision
        assert by_sum == resolve(origin, f"SHA256:{SHA256.upper()}", "/other.gguf").revision
        origin.manners.etag = None
        assert resolve(origin).revision not in (first, by_sum)


@pytest.mark.parametrize(
    ("manners", "size"),
    [({"ranges": False}, len(CONTENT)), ({"length": False, "ranges": False}, None), ({"chunked": True}, len(CONTENT))],
    ids=str,
)
def test_servers_without_ranges_or_lengths(manners: dict[str, Any], size: int | None) -> None:
    with Origin(CONTENT, **manners) as origin:
        assert resolve(origin).size == size


def test_an_empty_file() -> None:
    with Origin(b"") as origin:
        assert resolve(origin).size == 0


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Forbidden), (404, NotFound), (429, Unavailable), (503, Unavailable), (500, Unavailable)]
)
def test_refusals(status: int, kind: type[Exception]) -> None:
    with Origin(CONTENT, refusals=deque([(status, {})])) as origin, pytest.raises(kind):
        resolve(origin)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://[::1]/x", "http://2130706433/x", "http://localhost/x"])
def test_private_hosts_are_refused(url: str) -> None:
    with pytest.raises(Forbidden) as raised:
        Https(SourceSettings()).resolve(Ref(SourceKind.URL, url))
    assert raised.value.code == "source_not_allowed"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b/model.gguf?x=1", "model.gguf"),
        ("https://h/", "model.bin"),
        ("https://h/a%20b.gguf", "a b.gguf"),
        ("https://h/..%2f..%2fetc%2fpasswd", "passwd"),
        ("https://h/%2e%2e", "model.bin"),
        ("https://h/a%00b", "model.bin"),
        ("https://h/" + "x" * 300, "model.bin"),
    ],
)
def test_the_name_comes_from_the_path_or_from_us(url: str, name: str) -> None:
    assert name_of(url) == name


def test_checksums() -> None:
    assert parse_checksum(None) == (None, None)
    assert parse_checksum(f"sha256:{SHA256}") == (SHA256, None)
    assert parse_checksum("md5:" + "0" * 32) == (None, "0" * 32)
    for wrong in ("", "sha256:", "sha256:" + "0" * 63, "sha1:" + "0" * 40, "0" * 64, "md5:" + "g" * 32):
        with pytest.raises(Invalid) as raised:
            parse_checksum(wrong)
        assert raised.value.code == "invalid_checksum"
