"""What every request passes: Host, Origin, key. Each refusal names its fix; api/strict.py has those of bodies."""

import hmac
import ipaddress
import platform
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem
from shared.errors import Invalid, Unauthenticated
from shared.settings import ApiSettings, Settings

LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings, host: str) -> None:
    """Refuse to be reachable from elsewhere without a key.

    Raises:
        Invalid: says what to type.
    """
    if settings.api_key is None and not is_loopback(host):
        raise Invalid(
            "key_required",
            f"Binding to {host} makes this service reachable from other machines, and it has no key.",
            "Type `export MODELYARD_API_KEY=$(modelyard key)`, or bind to 127.0.0.1.",
        )


async def require_key(request: HTTPConnection) -> None:
    """The bearer key, where one is set; compared in constant time.

    Raises:
        Unauthenticated
    """
    key = request.app.state.front.settings.api_key
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    expected = key.get_secret_value().encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected):
        raise Unauthenticated(
            "key_required", "The key is missing or wrong.", "Send `Authorization: Bearer <MODELYARD_API_KEY>`."
        )


KEY = Depends(require_key)


class Guard:
    """Refuses what browsers of strangers could send, before anything reads it."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._hosts = LOOPBACK_NAMES | {settings.host, platform.node().lower(), *settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
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
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign or (headers.get("sec-fetch-site") == "cross-site" and not _arrives(scope, headers)):
            hint = "Use the page of this service, or a client that is no browser."
            return problem(403, "foreign_origin", "Pages of other sites may not call this service.", hint)
        return None

    def _knows(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # an address cannot be rebound; only names can


def _arrives(scope: Scope, headers: Headers) -> bool:
    """Somebody follows a link to the dashboard, which has no data of its own; not in a frame."""
    to_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
    return to_page and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
