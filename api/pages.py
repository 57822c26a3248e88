"""What this service shows in a browser: the dashboard, and the page of the API. Neither has data of its own."""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.params import Depends
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

DASHBOARD = Path(__file__).parent / "dashboard"
INLINE = re.compile(r"<script(?: type=\"importmap\")?>(.*?)</script>", re.DOTALL)
OPENAPI = "/openapi.json"
SWAGGER = "https://cdn.jsdelivr.net"
SWAGGER_ICON = "https://fastapi.tiangolo.com"
NOBODY_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def install(app: FastAPI, asked: Sequence[Depends]) -> None:
    """The dashboard at `/`, its files below `/dashboard`; the API's page at `/docs`, and what that shows.

    Args:
        asked: dependencies of what needs a key where others can reach the service.
    """
    index = (DASHBOARD / "index.html").read_text(encoding="utf-8")
    own = headers(
        f"default-src 'none'; script-src 'self' {_hashes(index)}; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'; {NOBODY_ELSE}"
    )
    swagger = bytes(get_swagger_ui_html(openapi_url=OPENAPI, title=f"{app.title} API").body).decode()
    foreign = headers(
        f"default-src 'none'; script-src {SWAGGER} {_hashes(swagger)}; style-src {SWAGGER} 'unsafe-inline'; "
        f"img-src data: {SWAGGER_ICON}; connect-src 'self'; {NOBODY_ELSE}"
    )

    async def dashboard() -> HTMLResponse:
        return HTMLResponse(index, headers=own)

    async def docs() -> HTMLResponse:
        return HTMLResponse(swagger, headers=foreign)

    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    app.add_api_route("/", dashboard, include_in_schema=False, dependencies=asked)
    app.add_api_route("/docs", docs, include_in_schema=False, dependencies=asked)
    app.add_api_route(OPENAPI, openapi, include_in_schema=False, dependencies=asked)
    app.mount("/dashboard", _Files(own))


def headers(policy: str) -> dict[str, str]:
    """No frame, no guessing of types, nothing from elsewhere but what the policy names; nothing outdated."""
    return {
        "Content-Security-Policy": policy, "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-cache",
    }  # fmt: skip


def _hashes(page: str) -> str:
    """Of its inline scripts, as a policy allows them."""
    digests = (sha256(script.encode()).digest() for script in INLINE.findall(page))
    return " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)


class _Files(StaticFiles):
    def __init__(self, own: dict[str, str]) -> None:
        super().__init__(directory=DASHBOARD)
        self._own = own

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(self._own)
        return answer
