"""Which hosts may be connected to."""

import pytest

from shared.errors import Forbidden, Invalid, Unavailable
from shared.settings import SourceSettings
from workers.sources.wire.policy import HostPolicy


def policy(*allowed: str, endpoint: str = "https://huggingface.co") -> HostPolicy:
    return HostPolicy(SourceSettings(allowed_hosts=list(allowed), hf_endpoint=endpoint))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "localhost.", "127.0.0.1.", "::1", "0.0.0.0", "::", "10.1.2.3", "172.16.0.1",
        "192.168.1.1", "100.64.0.1", "169.254.10.20", "fd00::1", "fe80::1", "fec0::1", "224.0.0.1", "ff02::1",
        "255.255.255.255", "240.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0",
        "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::",
        "2001:0:7f00:1::80ff:fffe",
    ],
)  # fmt: skip
def test_private_and_disguised_addresses_are_refused(host: str) -> None:
    with pytest.raises(Forbidden) as raised:
        policy().addresses(host, 80)
    assert raised.value.code == "source_not_allowed"


@pytest.mark.parametrize(
    "host", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_open(host: str) -> None:
    assert policy().addresses(host, 443)


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:8080", "127.0.0.1"),
        ("LOCALHOST:8080", "localhost."),
        ("[::1]:8080", "::1"),
        ("::1", "::1"),
        ("192.168.1.20", "192.168.1.20"),
    ],
)
def test_the_operator_may_list_a_private_host(entry: str, host: str) -> None:
    assert policy(entry).addresses(host, 8080)


def test_a_listed_port_opens_no_other() -> None:
    with pytest.raises(Forbidden) as raised:
        policy("127.0.0.1:8080").addresses("127.0.0.1", 6379)
    assert "MODELYARD_SOURCES__ALLOWED_HOSTS=127.0.0.1:6379" in raised.value.hint


def test_the_operators_own_endpoint_may_be_local() -> None:
    chosen = policy(endpoint="http://127.0.0.1:9999/hub")
    assert chosen.addresses("127.0.0.1", 9999) == ("127.0.0.1",)
    with pytest.raises(Forbidden):
        chosen.addresses("127.0.0.1", 9998)


@pytest.mark.parametrize("host", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200"])
def test_metadata_services_are_never_open(host: str) -> None:
    with pytest.raises(Forbidden, match="metadata"):
        policy(host, f"[{host}]:80").addresses(host, 80)


def test_names_that_do_not_resolve() -> None:
    with pytest.raises(Unavailable) as raised:
        policy().addresses("nothing.invalid", 80)
    assert raised.value.code == "source_unreachable"
    with pytest.raises(Invalid):
        policy().addresses("a" * 64 + ".example", 80)
