"""Which hosts are reached: the corpus of addresses that requests were forged with, and their honest twins."""

import socket
import time
from collections import deque
from pathlib import Path

import pytest

from shared.errors import Forbidden, Invalid, ModelyardError
from shared.refs import Ref, SourceKind, check_url
from shared.settings import SourceSettings
from tests.conftest import free_port
from tests.fakes.origin import Origin
from tests.workers.sources.fetching import QUICK, SMALL
from workers.sources.base import RemoteFile
from workers.sources.https import Https
from workers.sources.transfer import fetch
from workers.sources.wire.policy import HostPolicy

PUBLIC = "93.184.216.34"


def bring(url: str, partial: Path, settings: SourceSettings, policy: HostPolicy | None = None) -> None:
    file = RemoteFile("file", url, len(SMALL))
    fetch(file, partial, policy or HostPolicy(settings), settings, lambda: None, lambda _: None, patience=QUICK)


def refused(url: str) -> str | None:
    """The code that a URL is refused with before anything is sent, at submit or by the policy."""
    try:
        Https(SourceSettings()).resolve(Ref(SourceKind.URL, url))
    except ModelyardError as error:
        return error.code
    return None


@pytest.mark.fault("A-27")
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::]", "169.254.169.254", "10.0.0.1", "172.16.0.1",
        "172.31.255.255", "192.168.0.1", "100.64.0.1", "[fd00::1]", "[fe80::1]", "127.0.0.1:6379", "127.0.0.1:8000",
        "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1",
    ],
)  # fmt: skip
def test_private_and_local_hosts(host: str) -> None:
    assert refused(f"http://{host}/x.gguf") == "source_not_allowed"


@pytest.mark.fault("A-27")
def test_this_machine_by_its_own_name() -> None:
    name = socket.gethostname()
    policy = HostPolicy(SourceSettings(), lambda _, __: ("192.168.7.7",))
    with pytest.raises(Forbidden):
        policy.addresses(name, 80)


@pytest.mark.fault("A-28")
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://host/x", "gopher://host/x", "data:text/plain,x", "jar:http://host!/x",
        "unix:/run/x", "//host/x", "http:127.0.0.1", "http:/host", "\x01http://host/x", "\thttp://host/x", "\nhttp://host/x",
        " http://h/x", "http://", "http:///x", "http://host:0/x", "http://host:99999/x", "http://host:port/x",
    ],
)  # fmt: skip
def test_schemes_and_urls_that_are_none(url: str) -> None:
    with pytest.raises(Invalid) as raised:
        check_url(url)
    assert raised.value.code == "source_not_allowed"


@pytest.mark.fault("A-28")
def test_shouting_is_no_crime() -> None:
    check_url("HTTP://example.com/x.gguf")


@pytest.mark.fault("A-29", "A-30")
@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "127.0.0.1.", "localhost.", "LOCALHOST", "0x7f.1",
        "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]",
        "[2002:7f00:1::]", "[2001:0:5ef5:79fd::]", "[fec0::1]", "[ff02::1]", "[0:0:0:0:0:ffff:7f00:1]",
        "[fe80::1%25eth0]",
    ],
)  # fmt: skip
def test_other_spellings_of_the_same(host: str) -> None:
    assert refused(f"http://{host}/x.gguf") in ("source_not_allowed", "source_unreachable")
    assert refused(f"http://{host}/x.gguf") == "source_not_allowed" or "%" in host


@pytest.mark.fault("A-29", "A-31")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1\\@example.com/", "http://example.com\\@127.0.0.1/", "http://a:b@127.0.0.1/", "http://a@example.com/",
        "http://exa\tmple.com/", "http://example.com\r\nHost: x/", "http://①②⑦.⓪.⓪.①/", "http://exämple.com/",
        "http://example.com\x7f/", "http://[::1/", "http://[::g]/", "http://1<2/", "http://example.com%2f@x/", "http://a,b/",
        "http://[::1]x/", "http://x[::1]/", "http://exam%70le.com/", "http://h:80:80/",
    ],
)  # fmt: skip
def test_what_parsers_disagree_about(url: str) -> None:
    with pytest.raises(Invalid) as raised:
        check_url(url)
    assert raised.value.code == "source_not_allowed"


@pytest.mark.fault("A-31")
def test_the_host_that_is_judged_is_the_host_that_is_asked(tmp_path: Path) -> None:
    """`#@` and `%2f@` are no user names: the same parser says where to connect and what to ask for."""
    with Origin(SMALL) as origin:
        settings = SourceSettings(allowed_hosts=[f"127.0.0.1:{origin.port}"])
        for number, tail in enumerate(("#@169.254.169.254/", "/%2f@169.254.169.254/x")):
            file = RemoteFile("file", origin.url + tail, len(SMALL))
            fetch(file, tmp_path / str(number), HostPolicy(settings), settings, lambda: None, lambda _: None)
        assert {seen.headers["Host"] for seen in origin.seen} == {f"127.0.0.1:{origin.port}"}


@pytest.mark.fault("A-32")
class TestRedirects:
    @pytest.mark.parametrize(
        "to",
        [
            "http://127.0.0.1:1/x", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "ftp://host/x",
            "http://[::ffff:127.0.0.1]:1/x", "http://user@127.0.0.1/x", "//127.0.0.1:6379/", "http://127.0.0.1:6379/",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("hops", [1, 3])
    def test_every_hop_is_judged(self, to: str, hops: int, tmp_path: Path) -> None:
        with Origin(SMALL) as origin:
            path = ["/file", *(f"/hop{number}" for number in range(1, hops))]
            origin.manners.moved = dict(zip(path, [*path[1:], to], strict=True))
            settings = SourceSettings(allowed_hosts=[f"127.0.0.1:{origin.port}"])
            with pytest.raises(Forbidden) as raised:
                bring(f"{origin.url}/file", tmp_path / "x", settings)
            assert raised.value.code == "source_not_allowed"
            assert origin.count() == hops


@pytest.mark.fault("A-34")
class TestNoOracle:
    def test_open_and_closed_ports_look_the_same(self) -> None:
        closed = free_port()
        with Origin(b"SSH-2.0 secret banner") as origin:
            answers, seconds = [], []
            for port in (origin.port, closed):
                began = time.monotonic()
                with pytest.raises(Forbidden) as raised:
                    HostPolicy(SourceSettings()).addresses("127.0.0.1", port)
                seconds.append(time.monotonic() - began)
                answers.append((raised.value.message + raised.value.hint).replace(str(port), "PORT"))
                with pytest.raises(Forbidden):
                    Https(SourceSettings()).resolve(Ref(SourceKind.URL, f"http://127.0.0.1:{port}/x"))
            assert not origin.seen
        assert answers[0] == answers[1]
        assert abs(seconds[0] - seconds[1]) < 0.5

    def test_what_an_inner_server_says_is_not_repeated(self) -> None:
        with Origin(b"root:x:0:0", refusals=deque([(418, {"X-Secret": "banner"})])) as origin:
            settings = SourceSettings(allowed_hosts=["127.0.0.1"])
            with pytest.raises(ModelyardError) as raised:
                Https(settings).resolve(Ref(SourceKind.URL, f"{origin.url}/x"))
        assert "banner" not in raised.value.message + raised.value.hint
        assert "root" not in raised.value.message + raised.value.hint


@pytest.mark.fault("A-35")
class TestRebinding:
    def test_a_name_that_changes_its_mind_is_judged_at_every_connection(self, tmp_path: Path) -> None:
        """Looked up again for a new connection, judged again, and connected to what was judged."""
        asked: list[str] = []
        answers = deque([(PUBLIC,), ("127.0.0.1",)])

        def look_up(name: str, _: int) -> tuple[str, ...]:
            asked.append(name)
            return answers.popleft() if len(answers) > 1 else answers[0]

        policy = HostPolicy(SourceSettings(), look_up)
        assert policy.addresses("rebound.example", 80) == (PUBLIC,)
        with Origin(SMALL) as origin:
            file = RemoteFile("file", f"http://rebound.example:{origin.port}/file", len(SMALL))
            with pytest.raises(Forbidden) as raised:
                fetch(file, tmp_path / "x", policy, SourceSettings(), lambda: None, lambda _: None, patience=QUICK)
            assert not origin.seen
        assert raised.value.code == "source_not_allowed"
        assert len(asked) == 2

    def test_one_private_address_among_public_ones_is_too_many(self) -> None:
        policy = HostPolicy(SourceSettings(), lambda _, __: (PUBLIC, "10.0.0.1"))
        with pytest.raises(Forbidden):
            policy.addresses("mixed.example", 443)

    def test_the_address_that_was_judged_is_the_one_connected_to(self, tmp_path: Path) -> None:
        """Its name has no address anywhere but in this lookup, and is what the server is asked for."""
        with Origin(SMALL) as origin:
            settings = SourceSettings(allowed_hosts=["mirror.invalid"])
            policy = HostPolicy(settings, lambda _, __: ("127.0.0.1",))
            file = RemoteFile("file", f"http://mirror.invalid:{origin.port}/file", len(SMALL))
            fetch(file, tmp_path / "x", policy, settings, lambda: None, lambda _: None)
            assert {seen.headers["Host"] for seen in origin.seen} == {f"mirror.invalid:{origin.port}"}

    def test_metadata_is_refused_under_a_listed_name_too(self) -> None:
        policy = HostPolicy(SourceSettings(allowed_hosts=["mirror.lan"]), lambda _, __: ("169.254.169.254",))
        with pytest.raises(Forbidden, match="metadata"):
            policy.addresses("mirror.lan", 80)


@pytest.mark.fault("A-27", "A-32")
def test_a_mirror_on_the_own_network_is_welcome_once_it_is_listed(tmp_path: Path) -> None:
    """The honest twin: listed by the operator, it serves, and may redirect to another that is listed."""
    with Origin(SMALL) as cdn, Origin(moved={"/m.gguf": f"{cdn.url}/m.gguf"}) as mirror:
        hosts = [f"127.0.0.1:{mirror.port}", f"127.0.0.1:{cdn.port}"]
        settings = SourceSettings(allowed_hosts=hosts)
        (file,) = Https(settings).resolve(Ref(SourceKind.URL, f"{mirror.url}/m.gguf")).files
        fetch(file, tmp_path / "x", HostPolicy(settings), settings, lambda: None, lambda _: None)
    assert (tmp_path / "x").read_bytes() == SMALL
