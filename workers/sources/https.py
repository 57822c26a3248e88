"""One file at a plain URL."""

import hashlib
import re
import threading
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from shared.errors import Invalid
from shared.refs import Ref
from shared.settings import SourceSettings
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.connection import Body, Link, Trouble
from workers.sources.names import safe_name
from workers.sources.policy import HostPolicy
from workers.sources.route import Route

DEFAULT_NAME = "model.bin"
"""The name of a file whose URL has none that is safe. What the file is, is read from its content, never from this."""

_CHECKSUM = re.compile(r"^(?:(sha256):([0-9a-f]{64})|(md5):([0-9a-f]{32}))$")


class Https:
    """A direct `https://` or `http://` address, on a public host or one that the operator listed."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings
        self._policy = HostPolicy(settings)

    def resolve(self, ref: Ref, checksum: str | None = None) -> Snapshot:
        """The one file, as its server describes it in answer to a request for its first byte.

        `Snapshot.revision` is 40 hex digits that stand for the content: from the checksum where one is given, else
        from the server's validator and size, else from the URL alone.

        Raises:
            Invalid: `invalid_checksum`; `source_not_allowed`, the URL itself is refused.
            NotFound, Forbidden, Failed: final, see `fetch`.
            Unavailable: may be retried.
        """
        sha256, md5 = parse_checksum(checksum)
        body, size = self._probe(ref.location)
        validator = body.etag or body.modified
        if sha256 or md5:
            content = f"checksum {sha256 or md5}"
        elif validator is not None:
            content = f"validator {ref.location} {validator} {size}"
        else:
            content = f"url {ref.location}"
        file = RemoteFile(name_of(ref.location), ref.location, size, sha256, md5, etag=body.etag)
        return Snapshot(hashlib.sha256(content.encode()).hexdigest()[:40], (file,))

    def _probe(self, url: str) -> tuple[Body, int | None]:
        """The first answer for one byte, and the size of the file where it tells."""
        link = Link(Route(url, {}, self._policy, self._settings), threading.Event())
        try:
            body = link.get((0, 0))
        except Trouble as trouble:
            raise trouble.error from trouble
        finally:
            link.close()
        return body, body.whole


def parse_checksum(text: str | None) -> tuple[str | None, str | None]:
    """SHA-256 and MD5 (lower-case hex) out of `sha256:…` or `md5:…`; two times None for None.

    Raises:
        Invalid: code `invalid_checksum`.
    """
    if text is None:
        return None, None
    match = _CHECKSUM.match(text.strip().lower())
    if match is None:
        raise Invalid(
            "invalid_checksum",
            "This is not a checksum.",
            "Use sha256: with 64 hex digits, or md5: with 32.",
        )
    return match[2], match[4]


def name_of(url: str) -> str:
    """The last part of a URL's path if it is a safe file name, else a name of ours."""
    name = PurePosixPath(unquote(urlsplit(url).path, errors="replace")).name
    try:
        return safe_name(name)
    except Invalid:
        return DEFAULT_NAME
