"""The one place that decides whether a host may be connected to, and at which address."""

import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from shared.errors import Forbidden, Invalid, Unavailable
from shared.settings import SourceSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Clouds answer these with credentials of the machine, so no setting opens them.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.169.253",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata.goog"})

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
_LOW_32 = 0xFFFFFFFF


Resolver = Callable[[str, int], tuple[str, ...]]
"""Every address of a name, for a port; raises as `HostPolicy.addresses`."""


class HostPolicy:
    """Allows every public host, the private ones that the operator listed, and the operator's own Hub endpoint.

    Args:
        look_up: asks the system's resolver where None.
        listed_in: the variable that opens private hosts.
    """

    def __init__(
        self, settings: SourceSettings, look_up: Resolver | None = None,
        listed_in: str = "MODELYARD_SOURCES__ALLOWED_HOSTS",
    ) -> None:  # fmt: skip
        self._look_up = look_up or _look_up
        self._listed_in = listed_in
        endpoint = urlsplit(settings.hf_endpoint)
        own = (_plain(endpoint.hostname or ""), endpoint.port or _DEFAULT_PORTS.get(endpoint.scheme))
        self._trusted: frozenset[tuple[str, int | None]] = frozenset({own, *map(_entry, settings.allowed_hosts)})

    def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses behind a name, looked up once and all of them judged. Connect to these, not to the name.

        Blocks for as long as the system's resolver does.

        Raises:
            Forbidden: code `source_not_allowed`.
            Unavailable: code `source_unreachable`, the name has no address now.
        """
        name = _plain(host)
        listed = not self._trusted.isdisjoint({(name, port), (name, None)})
        found = self._look_up(name, port)
        for text in found:
            faces = _faces(ipaddress.ip_address(text))
            if name in _METADATA_NAMES or not _METADATA.isdisjoint(faces):
                raise Forbidden(
                    "source_not_allowed",
                    f"{name} is a cloud's metadata service, which is never a source.",
                    "Use the address of a model server.",
                )
            if not listed and not all(map(_is_public, faces)):
                raise Forbidden(
                    "source_not_allowed",
                    f"{name}:{port} is a private or local address, and a reference may only name public ones.",
                    f"If it is a server of yours, start the service with {self._listed_in}={_shown(name)}:{port}",
                )
        return found


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _shown(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _entry(text: str) -> tuple[str, int | None]:
    host, separator, port = text.rpartition(":")
    if separator and port.isdecimal() and (":" not in host or host.endswith("]")):
        return _plain(host), int(port)
    return _plain(text), None


def _look_up(name: str, port: int) -> tuple[str, ...]:
    try:
        answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Invalid("source_not_allowed", f"{name!r} is not a host name.", "Check the URL.") from None
    except OSError:
        raise Unavailable(
            "source_unreachable",
            f"The name {name} could not be resolved.",
            "Check the spelling of the host and this machine's DNS.",
        ) from None
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _faces(address: Address) -> set[Address]:
    """The address and every IPv4 address wrapped in it, without an interface name."""
    if isinstance(address, ipaddress.IPv4Address):
        return {address}
    number = int(address)
    bare = ipaddress.IPv6Address(number)
    if bare.ipv4_mapped is not None:
        return {bare.ipv4_mapped}
    faces: set[Address] = {bare}
    if bare.sixtofour is not None:
        faces.add(bare.sixtofour)
    if bare.teredo is not None:
        faces.update(bare.teredo)
    if bare in _NAT64:
        faces.add(ipaddress.IPv4Address(number & _LOW_32))
        faces.discard(bare)
    if bare in _COMPATIBLE and number > 1:
        faces.add(ipaddress.IPv4Address(number & _LOW_32))
    return faces


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return not (address.is_site_local or address in _NAT64_LOCAL or address in _COMPATIBLE)
    return True
