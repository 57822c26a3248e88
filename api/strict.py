"""Bodies, before anything else reads them: of one kind, one size, in time, and JSON that every parser reads alike."""

import asyncio
import json
from codecs import BOM_UTF8
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem
from shared.errors import Invalid
from shared.settings import ApiSettings
from shared.storable import storable

WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
LONG = 64 * 1024
"""Bytes from which on to look through a body takes so long that others would notice."""


class StrictBodies:
    """Refuses bodies that no route could take. It has read the whole of those that it lets through."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._limit = settings.max_body_bytes
        self._seconds = settings.body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in WITH_BODY:
            await self._app(scope, receive, send)
            return
        refusal = self._judge_headers(Headers(scope=scope))
        if refusal is None:
            try:
                body = await asyncio.wait_for(self._read(receive), self._seconds)
            except TimeoutError:
                refusal = self._too_slow()
            else:
                if body is None:
                    return  # nobody is there any more
                refusal, receive = await self._judge(body), _again(body, receive)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _judge_headers(self, headers: Headers) -> Response | None:
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

    async def _judge(self, body: bytes) -> Response | None:
        if len(body) > self._limit:
            return self._too_large()
        try:
            if body:  # without one, the route says what it misses
                await run_in_threadpool(strict_json, body) if len(body) > LONG else strict_json(body)
        except Invalid as error:
            return problem(400 if error.code == "invalid_json" else 422, error.code, error.message, error.hint)
        return None

    def _too_large(self) -> Response:
        message = f"The body is larger than {self._limit} bytes."
        hint = "Send less JSON, or raise MODELYARD_API__MAX_BODY_BYTES."
        return problem(413, "body_too_large", message, hint, headers={"Connection": "close"})

    def _too_slow(self) -> Response:
        message = f"The body had not come within {self._seconds:g} seconds."
        hint = "Send it faster, or raise MODELYARD_API__BODY_SECONDS."
        return problem(408, "body_too_slow", message, hint, headers={"Connection": "close"})


def strict_json(body: bytes) -> Any:
    """What the body says.

    Raises:
        Invalid: `invalid_json`, `duplicate_key` or `invalid_value`.
    """
    if body.startswith(BOM_UTF8):
        raise _no_json()
    try:
        value = json.loads(body.decode(), parse_constant=_no_number, object_pairs_hook=_no_twins)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise _no_json() from None
    except ValueError:  # Python counts the digits before it makes a number of them
        raise _unfit("a number has more than 64 bits") from None
    try:
        return storable(value)
    except ValueError as error:
        raise _unfit(str(error)) from None


def _no_json() -> Invalid:
    return Invalid("invalid_json", "The body is not JSON in UTF-8.", "Send one JSON object.")


def _unfit(why: str) -> Invalid:
    hint = "JSON for this service has whole characters, no NUL, finite numbers of 64 bits, and 32 levels at most."
    return Invalid("invalid_value", f"The body cannot be taken: {why}.", hint)


def _no_number(name: str) -> None:
    raise _unfit(f"{name} is no number of JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Parsers differ in which of them they take, so that one part of a system could check what another never sees."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid("duplicate_key", f"The body has the key {twice[:100]!r} twice in one object.", "Send it once.")
    return found


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
