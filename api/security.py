"""What every request passes, Host and Origin, and what every answer carries. Bodies are judged by api/strict.py."""

import ipaddress
import platform

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from shared.errors import Invalid
from shared.settings import ApiSettings, Settings

LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
UNSPECIFIED = {"0.0.0.0", "::"}  # noqa: S104 - no name for a browser
SHORTEST_KEY = 16
"""Characters of MODELYARD_API_KEY where others can reach us: what can be guessed is no key."""
ELSEWHERE = ("cross-site", "same-site")
"""`Sec-Fetch-Site` of pages that are not ours; another port of this machine is `same-site`."""
ANSWERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""What answers carry that say nothing else: nobody keeps them, frames them, or guesses at their type."""
STARTS = ("http.response.start", "websocket.http.response.start")


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable(settings: Settings) -> bool:
    """Whether other machines may reach this service, by its address or through a proxy."""
    return not is_loopback(settings.api.host) or bool(settings.api.trusted_proxies)


def check_bind(settings: Settings) -> None:
    """Refuse to be reachable from elsewhere without a key.

    Raises:
        Invalid: says what to type.
    """
    if not reachable(settings) or settings.api.insecure_no_auth:
        return
    if settings.api_key is None:
        way = f"to {settings.api.host}" if not is_loopback(settings.api.host) else "behind a proxy"
        raise Invalid(
            "key_required",
            f"Bound {way} this service can be reached from other machines, and it has no key.",
            "Make a key, or stay on this machine:\n  export MODELYARD_API_KEY=$(modelyard key)\n"
            "  export MODELYARD_API__HOST=127.0.0.1\n"
            "To let in whoever can reach it instead: --insecure-no-auth-i-understand",
        )
    if len(settings.api_key.get_secret_value()) < SHORTEST_KEY:
        hint = "Make one that nobody guesses: export MODELYARD_API_KEY=$(modelyard key)."
        raise Invalid("weak_key", f"MODELYARD_API_KEY has fewer than {SHORTEST_KEY} characters.", hint)


class Guard:
    """Refuses what browsers of strangers could send, before anything reads it."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        names = (settings.host, platform.node(), *settings.allowed_hosts)
        self._hosts = LOOPBACK_NAMES | {name.lower() for name in names} - UNSPECIFIED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers, send = Headers(scope=scope), _with_headers(send)
        refusal = self._judge(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _judge(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._knows(host):
            hint = "Add the name to MODELYARD_API__ALLOWED_HOSTS."
            return problem(421, "unknown_host", "This service is not known under that Host name.", hint)
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if foreign or (headers.get("sec-fetch-site") in ELSEWHERE and not _arrives(scope, headers)):
            hint = "Use the page of this service, or a client that is no browser."
            return problem(403, "foreign_origin", "Pages of other sites may not call this service.", hint)
        return None

    def _knows(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            return not ipaddress.ip_address(name).is_unspecified  # browsers take 0.0.0.0 for this machine
        except ValueError:
            return False  # an address cannot be rebound; only names can


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in STARTS:
            headers = MutableHeaders(scope=message)
            for name, value in ANSWERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _arrives(scope: Scope, headers: Headers) -> bool:
    """Somebody follows a link to the dashboard, which has no data of its own; not in a frame."""
    to_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
    return to_page and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
