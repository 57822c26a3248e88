"""Where the bytes of one file really are, what each hop is told, and whom to trust on the way."""

import ssl
import threading
from urllib.parse import quote, urljoin, urlsplit

from shared.errors import Forbidden, Invalid
from shared.refs import check_url
from shared.settings import SourceSettings
from workers.sources.wire.policy import HostPolicy

Place = tuple[str, str, int]
"""Scheme, host and port."""


def place(url: str) -> Place:
    """Scheme, host and port of a checked URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


class Route:
    """Where the bytes of one file are: its URL, or the end of its redirects once that has answered.

    Shared by all connections of a file. Signed addresses expire, so `forget` goes back to the file's own URL.
    """

    def __init__(self, url: str, headers: dict[str, str], policy: HostPolicy, settings: SourceSettings) -> None:
        check_url(url)
        self.url = url
        self.policy = policy
        self.settings = settings
        self._headers = headers
        self._lock = threading.Lock()
        self._settled = url
        self._tls: ssl.SSLContext | None = None

    @property
    def here(self) -> str:
        return self._settled

    def settle(self, url: str) -> None:
        with self._lock:
            self._settled = url

    def forget(self, url: str) -> bool:
        """Whether there is an older address to go back to."""
        with self._lock:
            if url == self.url:
                return False
            if self._settled == url:
                self._settled = self.url
            return True

    def headers(self, url: str) -> dict[str, str]:
        """Ours for every hop; the file's own (its token) only where its URL points."""
        base = {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": "modelyard"}
        return base | self._headers if place(url) == place(self.url) else base

    def next_hop(self, url: str, location: str | None) -> str:
        """The address that a redirect names.

        Raises:
            Forbidden: code `source_not_allowed`, a URL we would not follow.
        """
        # servers send UTF-8 here, which http.client hands over as Latin-1
        raw = (location or "").encode("latin-1", "replace")
        following = urljoin(url, quote(raw, safe=bytes(range(0x80))))
        try:
            check_url(following)
        except Invalid as refused:
            raise Forbidden("source_not_allowed", f"A redirect is refused. {refused.message}", refused.hint) from None
        if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
            raise Forbidden(
                "source_not_allowed", "A redirect from https to http is refused.", "Use the address it leads to."
            )
        return following

    def tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                bundle = self.settings.ca_bundle
                self._tls = ssl.create_default_context(cafile=str(bundle) if bundle else None)
                self._tls.set_alpn_protocols(["http/1.1"])
            return self._tls
