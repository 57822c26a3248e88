"""Where Ollama is: the operator's `OLLAMA_HOST`, read as Ollama reads it."""

import ipaddress
import re
from typing import NamedTuple

from shared.errors import Invalid

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 11434
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_ANY = {"": DEFAULT_HOST, "0.0.0.0": DEFAULT_HOST, "::": "::1"}  # noqa: S104 - what servers bind is read, not bound


class Address(NamedTuple):
    """Of one server."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """It is this machine's own, as far as its name tells."""
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)


def address(setting: str) -> Address:
    """What `OLLAMA_HOST` means, read as Ollama reads it: `host`, `host:port`, `:port`, with or without a scheme.

    Raises:
        Invalid: code `invalid_setting`.
    """
    text = setting.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    ports = {"http": DEFAULT_PORT if not separator else 80, "https": 443}
    host, _, port = rest.rstrip("/").rpartition(":")
    if not port.isdecimal() or (":" in host and not host.endswith("]")):
        host, port = rest.rstrip("/"), ""
    host = host.strip("[]")
    number = int(port or ports.get(scheme, 0))
    if scheme not in ports or not 0 < number < 2**16 or not (_HOST.fullmatch(host or DEFAULT_HOST) or _is_ip(host)):
        raise Invalid(
            "invalid_setting", "OLLAMA_HOST is no address of a server.", "Use host:port, such as 127.0.0.1:11434."
        )
    return Address(scheme, _ANY.get(host, host), number)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
