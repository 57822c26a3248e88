"""What a server's answer says: ranges, validators, refusals. Nothing that can be checked is believed."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPMessage, HTTPResponse
from typing import NamedTuple

from shared.errors import Failed, Forbidden, ModelyardError, NotFound, Unavailable

MAX_WAIT = 3600.0
"""Seconds; a server that asks for more is asked again after this."""

USABLE = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DENIED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
MISSING = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
PASSING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})

_CONTENT_RANGE = re.compile(r"^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$")
_UNSATISFIED = re.compile(r"^bytes \*/(\d{1,18})$")
_STRONG_ETAG = re.compile(r'^"[\x21\x23-\x7e]*"$')


class Span(NamedTuple):
    """The part of a file that an answer carries: first and last byte, and the size of all of it where told."""

    first: int
    last: int
    total: int | None


def content_range(headers: HTTPMessage) -> Span | None:
    """The `Content-Range` of a 206, None where it is missing or makes no sense."""
    match = _CONTENT_RANGE.match(headers.get("Content-Range", "").strip())
    if match is None:
        return None
    span = Span(int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3]))
    if span.first > span.last or (span.total is not None and span.last >= span.total):
        return None
    return span


def unsatisfied_size(headers: HTTPMessage) -> int | None:
    """The size of the file that a 416 names, if it does."""
    match = _UNSATISFIED.match(headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None


def condition(etag: str | None, modified: str | None) -> str | None:
    """What `If-Range` may carry: a strong ETag, else the modification date; None where there is neither."""
    if etag is not None and _STRONG_ETAG.match(etag):
        return etag
    return modified


def seconds_after(text: str) -> float | None:
    """Seconds from now that a `Retry-After` names, as a number or a date; at most `MAX_WAIT`."""
    text = text.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():  # others have digits that no number is made of
        return min(float(text[:9]), MAX_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), MAX_WAIT)


def malformed(response: HTTPResponse) -> ModelyardError | None:
    """Why the body of an answer must not be read at all, if so."""
    headers = response.headers
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return None  # its body is a page about the error, and is not read anyway
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        reason = "it compresses the file although it was asked not to"
    elif len(set(headers.get_all("Content-Length", []))) > 1:
        reason = "it names two lengths"
    elif headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        reason = "it uses a transfer encoding that nobody asked for"
    else:
        return None
    return protocol_error(reason)


def protocol_error(reason: str) -> Failed:
    """The server does not speak HTTP as it must."""
    return Failed("protocol_error", f"The server's answer cannot be used: {reason}.", "Try another mirror or source.")


def refusal(response: HTTPResponse, host: str) -> ModelyardError:
    """The error that a status outside 2xx and 3xx stands for. Never quotes the body."""
    status, headers = response.status, response.headers
    if headers.get("X-Error-Code") == "GatedRepo":
        return Forbidden(
            "license_required",
            f"{host} wants a licence to be accepted before it hands out this file.",
            "Accept it on the model's page with the account of HF_TOKEN, then retry.",
        )
    if status in DENIED:
        return Forbidden(
            "auth_required",
            f"{host} answered {status}: this file needs an account with access to it.",
            "For the Hub, set HF_TOKEN to a token that may read it; then retry.",
        )
    if status in MISSING:
        return NotFound(
            "source_not_found", f"{host} answered {status}: there is no such file.", "Check the reference and revision."
        )
    if status in PASSING:
        return Unavailable(
            "source_busy",
            f"{host} answered {status}: it asks to come back later.",
            "",
            None,
            seconds_after(headers.get("Retry-After", "")),
        )
    if status == HTTPStatus.REQUEST_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable("source_unreachable", f"{host} answered {status}.", "It will be tried again.")
    return Failed("source_refused", f"{host} answered {status}.", "Check the reference in a browser.")
