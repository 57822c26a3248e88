"""One file at a plain URL."""

import hashlib
import re
import threading
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from shared.errors import Invalid, Unavailable, Unsafe
from shared.refs import Ref
from shared.settings import SourceSettings
from shared.trust import NO_GRANTS, Grants, Trust
from workers.formats import ARCHIVES, CODE, PICKLES, TORCH
from workers.sources.base import RemoteFile, Snapshot
from workers.sources.names import safe_name
from workers.sources.wire.connection import Body, Link, Trouble
from workers.sources.wire.dial import Stopped
from workers.sources.wire.policy import HostPolicy
from workers.sources.wire.route import Route

DEFAULT_NAME = "model.bin"
"""The name of a file whose URL has none that is safe. What the file is, is read from its content, never from this."""

AMBIGUOUS = frozenset({".bin"})
"""Names of pickles, and of everything else: what is in them is judged once it is there."""

_CHECKSUM = re.compile(r"^(?:(sha256):([0-9a-f]{64})|(md5):([0-9a-f]{32}))$")


class Https:
    """A direct `https://` or `http://` address, on a public host or one that the operator listed.

    Args:
        grants: what a person allowed of the model's revisions.
    """

    def __init__(self, settings: SourceSettings, grants: Grants = NO_GRANTS) -> None:
        self._settings = settings
        self._policy = HostPolicy(settings)
        self._grants = grants

    def knows(self, ref: Ref) -> bool:
        """A plain address has no history that could be another's."""
        return True

    def resolve(self, ref: Ref, checksum: str | None = None) -> Snapshot:
        """The one file, as its server describes it in answer to a request for its first byte.

        `Snapshot.revision` is 40 hex digits that stand for the content: from the checksum where one is given, else
        from the server's validator and size, else from the URL alone.

        Raises:
            Invalid: `invalid_checksum`; `source_not_allowed`, the URL itself is refused; `unsupported_archive`.
            Unsafe: `unsafe_format`, the name is that of a pickle or of code, and nobody allowed it.
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
        revision = hashlib.sha256(content.encode()).hexdigest()[:40]
        file = RemoteFile(name_of(ref.location), ref.location, size, sha256, md5, etag=body.etag)
        check_suffix(PurePosixPath(file.name).suffix.lower(), self._grants.of(revision))
        return Snapshot(revision, (file,))

    def _probe(self, url: str) -> tuple[Body, int | None]:
        """The first answer for one byte, and the size of the file where it tells."""
        stop = threading.Event()
        link = Link(Route(url, {}, self._policy, self._settings), stop)

        def give_up() -> None:
            stop.set()
            link.abort()

        # the timeout of a read starts anew with every byte, and a server may send heads for ever
        timer = threading.Timer(self._settings.connect_timeout + self._settings.read_timeout, give_up)
        timer.start()
        try:
            body = link.get((0, 0))
        except Stopped:
            raise Unavailable(
                "source_timeout", "The server does not come to an answer.", "It will be tried again."
            ) from None
        except Trouble as trouble:
            raise trouble.error from trouble
        finally:
            timer.cancel()
            link.close()
        # a range that was not asked for says nothing about the file
        return body, body.whole if body.span is None or body.span.first == 0 else None


def check_suffix(suffix: str, trust: Trust) -> None:
    """Refuse by its name what would be refused by its content anyway, before a byte of it is brought.

    Raises:
        Invalid: code `unsupported_archive`.
        Unsafe: code `unsafe_format`.
    """
    if suffix in ARCHIVES:
        raise Invalid(
            "unsupported_archive",
            f"A {suffix} archive is not a model, and archives are not unpacked.",
            "Use the address of the .safetensors or .gguf file itself.",
        )
    allowed = AMBIGUOUS | (TORCH if trust.pickle else frozenset())
    if suffix in (PICKLES | CODE) - allowed:
        way = trust.way(pickle=True) if suffix in TORCH else ""
        raise Unsafe(
            "unsafe_format",
            f"A {suffix} file runs code of its publisher when it is loaded.",
            f"Look for the same model as .safetensors or .gguf. {way}".strip(),
            {"revision": trust.revision},
        )


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
