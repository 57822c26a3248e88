"""What every request passes: Host, Origin, content type, size, key. Each refusal names its fix."""

import hmac
import ipaddress
import platform
from codecs import BOM_UTF8
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from shared.errors import Invalid, Unauthenticated
from shared.settings import ApiSettings, Settings

WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
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
        self._limit = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._judge(scope, headers)
        if refusal is None and scope["type"] == "http" and scope["method"] in WITH_BODY:
            body = await self._read(receive)
            if body is None:
                return  # nobody is there any more
            refusal, receive = self._judge_bytes(body), _again(body, receive)
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
        if scope["type"] == "http" and scope["method"] in WITH_BODY:
            return self._judge_body(headers)
        return None

    def _judge_body(self, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        has_body = length != "0" or "transfer-encoding" in headers
        kind, _, parameters = headers.get("content-type", "").lower().partition(";")
        charset = parameters.partition("charset=")[2].strip(' "')
        if has_body and (kind.strip() != "application/json" or charset not in ("", "utf-8")):
            hint = "Send `Content-Type: application/json`."
            return problem(415, "unsupported_media_type", "Bodies are JSON in UTF-8 here.", hint)
        if "content-encoding" in headers:
            return problem(415, "unsupported_media_type", "Bodies are not compressed here.", "Send the JSON as it is.")
        if not length.isdecimal() or int(length) > self._limit:
            return self._too_large()
        return None

    def _too_large(self) -> Response:
        message = f"The body is larger than {self._limit} bytes."
        hint = "Send less JSON, or raise MODELYARD_API__MAX_BODY_BYTES."
        return problem(413, "body_too_large", message, hint, headers={"Connection": "close"})

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or its beginning where it is too long; None where the client has gone."""
        body = bytearray()
        while len(body) <= self._limit:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)

    def _judge_bytes(self, body: bytes) -> Response | None:
        if len(body) > self._limit:
            return self._too_large()
        if b"\0" in body or body.startswith(BOM_UTF8):  # every other encoding of JSON has zeros
            return problem(400, "invalid_json", "The body is not JSON in UTF-8.", "Send one JSON object.")
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


def _again(body: bytes, receive: Receive) -> Receive:
    """What was read already, then what comes after it."""
    told = False

    async def receive_again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
