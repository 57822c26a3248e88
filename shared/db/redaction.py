"""What may be written down for good of what callers send: no secrets, and no more than says what was meant."""

import hashlib
import json
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "[hidden]"
LONGEST_TEXT, LONGEST_LIST, LONGEST = 300, 20, 8000
DEEPEST = 6
ADDRESS = "url"
"""Of a receiver of webhooks: its path may be a key, too, so only its host is told."""

_SECRET = re.compile(
    r"secret|token(?!iz)|passw|authori[sz]ation|credential|(^|[^a-z])(api|access|private)?_?-?key$", re.IGNORECASE
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)


def redacted(details: dict[str, Any]) -> dict[str, Any]:
    """The same without secrets: values of names that say so, and of URLs users, passwords, queries and fragments.

    What is longer than somebody would read is told by its digest.
    """
    found = _of(details, DEEPEST)
    whole = json.dumps(found, sort_keys=True)
    if len(whole) > LONGEST:
        return {"sha256": hashlib.sha256(whole.encode()).hexdigest(), "length": len(whole)}
    kept: dict[str, Any] = found
    return kept


def _of(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        plain = _URL.sub(lambda found: plain_url(found[0]), value)
        return plain if len(plain) <= LONGEST_TEXT else f"{plain[:LONGEST_TEXT]}… {len(plain)} characters"
    if isinstance(value, dict | list) and levels == 0:
        return "…"
    if isinstance(value, dict):
        return {name: _named(name, inner, levels - 1) for name, inner in value.items()}
    if isinstance(value, list):
        shown = [_of(inner, levels - 1) for inner in value[:LONGEST_LIST]]
        return shown if len(value) <= LONGEST_LIST else [*shown, f"… {len(value)} in all"]
    return value


def _named(name: str, value: Any, levels: int) -> Any:
    if isinstance(value, str | dict | list) and _SECRET.search(name):
        return HIDDEN
    if name == ADDRESS and isinstance(value, str):
        host = plain_url(value).split("/")
        return "/".join([*host[:3], HIDDEN]) if "".join(host[3:]) else "/".join(host)
    return _of(value, levels)


def plain_url(url: str) -> str:
    """A URL as it may be shown: a query or a user may be a key."""
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
    except ValueError:
        return HIDDEN
    hidden = f"?{HIDDEN}" if parts.query or parts.fragment else ""
    return urlunsplit((parts.scheme, place, parts.path, "", "")) + hidden
