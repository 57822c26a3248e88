"""References that people type: `hf:owner/name[@revision]`, `https://…`, `ollama:name[:tag]`, `file:/path`; and ids."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from shared.errors import Forbidden, Invalid

MODEL_ID = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
RESERVED_IDS = frozenset(
    (
        *("status", "summary", "download", "add", "validate", "activate", "deactivate", "active", "storage"),
        *("registry", "rescan", "tiers", "servers", "profiles", "import", "export", "aliases", "modes", "trash"),
        *("lock", "bundles", "types", "source", "ensure"),
    )
)
"""Words that are also paths below /models."""
_REPO = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")
_REVISION = re.compile(r"^[A-Za-z0-9][\w./-]{0,199}$")
_OLLAMA = re.compile(
    r"^(?:[a-z0-9_][\w-]{0,79}/)?[a-z0-9_][\w.-]{0,79}(?::[a-z0-9_][\w.-]{0,79})?$", re.ASCII | re.IGNORECASE
)
"""As Ollama reads it: a namespace has no dot. A registry's host has one, and is the operator's business."""

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._-]+)?\])(?::[0-9]{0,5})?")
"""With its port. Anything else one parser takes for a part of the name, and another one escapes."""
_CREDENTIALS = re.compile(r"[^/\s]+@")


class SourceKind(StrEnum):
    HUGGINGFACE = "huggingface"
    URL = "url"
    OLLAMA = "ollama"
    FILE = "file"


class Ref(NamedTuple):
    """Where a model comes from. `location` is a repository, a URL, an Ollama name or an absolute path."""

    kind: SourceKind
    location: str
    revision: str | None = None


def parse_ref(text: str) -> Ref:
    """Read what a person typed.

    Raises:
        Invalid: no known form; the hint lists them.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "hf":
        location, _, revision = rest.partition("@")
        return checked(Ref(SourceKind.HUGGINGFACE, location, revision or None))
    if scheme in ("http", "https"):
        return checked(Ref(SourceKind.URL, text))
    if scheme == "ollama":
        return checked(Ref(SourceKind.OLLAMA, rest))
    if scheme == "file":
        return checked(Ref(SourceKind.FILE, rest))
    raise Invalid(
        "invalid_reference",
        f"{_said(text)} is not a model reference.",
        "Use hf:owner/name[@revision], https://…, ollama:name[:tag] or file:/path.",
    )


def _said(text: str) -> str:
    """What somebody typed, without what may be a password, and no longer than one reads."""
    return repr(_CREDENTIALS.sub("…@", text)[:200])


def checked(ref: Ref) -> Ref:
    """The reference itself, if it is well-formed.

    Raises:
        Invalid: names the part that is wrong.
    """
    if ref.revision is not None and (not _REVISION.fullmatch(ref.revision) or ".." in ref.revision):
        raise Invalid("invalid_revision", f"{ref.revision!r} is not a revision.", "Use a branch, a tag or a commit.")
    if ref.kind is SourceKind.HUGGINGFACE and (not _REPO.fullmatch(ref.location) or ".." in ref.location):
        raise Invalid(
            "invalid_repository",
            f"{_said(ref.location)} is not a repository.",
            "Use owner/name as on the model's page.",
        )
    if ref.kind is SourceKind.URL:
        check_url(ref.location)
    if ref.kind is SourceKind.OLLAMA and not _OLLAMA.fullmatch(ref.location):
        raise Invalid(
            "invalid_ollama_name",
            f"{_said(ref.location)} is not a name of Ollama's library.",
            "Use name, name:tag or user/name:tag; another registry is for Ollama's own settings, never for a request.",
        )
    if ref.kind is SourceKind.FILE:
        check_path(ref.location)
    return ref


def check_path(path: str) -> str:
    """The path itself, if it is absolute and says plainly where it leads.

    Raises:
        Invalid: code `invalid_path`.
    """
    plain = PurePosixPath(path)
    if not path.isprintable() or not plain.is_absolute() or ".." in plain.parts or path.startswith("//"):
        raise Invalid("invalid_path", "A file source needs a plain absolute path.", "Use file:/path/to/model.")
    return path


def scan_root(path: str, roots: Sequence[str]) -> tuple[str, str]:
    """The scan root that a path lies in, and the rest of the path below it (`.` for the root itself).

    Only names are compared; whether a link on the way leads elsewhere is found out where the folders are.

    Raises:
        Invalid: code `invalid_path`.
        Forbidden: code `path_not_allowed`.
    """
    wanted = PurePosixPath(check_path(path))
    found = [root for root in roots if wanted.is_relative_to(root)]
    if not found:
        raise Forbidden(
            "path_not_allowed",
            f"{path[:200]} lies in no folder that may be scanned.",
            "Add that folder, or one above it, to MODEL_SCAN_PATH (comma-separated), and start the service again.",
        )
    root = max(found, key=len)
    return root, str(wanted.relative_to(root))


def check_url(url: str) -> None:
    """Refuse URLs that parsers disagree about, before any of them reads it.

    Raises:
        Invalid: code `source_not_allowed`.
    """
    reason = None
    if re.search(r"[\x00-\x20\x7f\\]", url) or not url.isascii():
        reason = "it has spaces, control characters, backslashes or non-ASCII characters"
    else:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            reason = "it cannot be read as a URL"
        else:
            if parts.scheme not in ("http", "https"):
                reason = f"its scheme is {parts.scheme!r}"
            elif "@" in parts.netloc:
                reason = "it carries a user name or password"
            elif not host or port == 0:
                reason = "it names no host"
            elif not _HOST.fullmatch(parts.netloc):
                reason = "its host has characters that no name or address has"
    if reason:
        raise Invalid("source_not_allowed", f"This URL is refused: {reason}.", "Use a plain https://host/path URL.")


def slug(text: str) -> str:
    """A model id made from a name: lower case, no slash, at most 96 characters."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:96].strip("-._")
    return cleaned or "model"


def check_model_id(model_id: str) -> str:
    """The id itself, if it can be one.

    Raises:
        Invalid: not a slug, or a word that is also a path of the API.
    """
    if not re.fullmatch(MODEL_ID, model_id) or ".." in model_id:
        raise Invalid(
            "invalid_model_id",
            "A model id is letters, digits, dots, dashes and underscores, at most 96 of them.",
            f"For example {slug(model_id)!r}.",
        )
    if model_id in RESERVED_IDS:
        raise Invalid("reserved_model_id", f"{model_id!r} is also a path of the API.", "Choose another id.")
    return model_id


def check_alias(alias: str) -> str:
    """The alias itself, if a model can have it: what an id may be, in which a colon may stand, as in `llama3:8b`.

    Raises:
        Invalid: as of an id.
    """
    name, colon, tag = alias.partition(":")
    check_model_id(name)
    if colon:
        check_model_id(tag)
    return alias
