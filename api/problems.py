"""Errors on the wire: RFC 9457 problem+json with `code` and `hint`, written here and nowhere else."""

import difflib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from shared.errors import (
    Conflict,
    Corrupt,
    Exhausted,
    Failed,
    Forbidden,
    Invalid,
    ModelyardError,
    NotFound,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsafe,
)

log = structlog.get_logger()

STATUS: dict[type[ModelyardError], int] = {
    Invalid: 422,
    NotFound: 404,
    Conflict: 409,
    Unauthenticated: 401,
    Forbidden: 403,
    Unsafe: 422,
    Exhausted: 507,
    TooMany: 429,
    Unavailable: 503,
    Corrupt: 409,
    Failed: 502,
}
CODES = {
    400: ("bad_request", "Send well-formed HTTP with a JSON body."),
    404: ("not_found", "The paths are listed at /docs."),
    405: ("method_not_allowed", "The methods of each path are listed at /docs."),
    413: ("body_too_large", "Model endpoints carry no bytes; send less JSON."),
    415: ("unsupported_media_type", "Send `Content-Type: application/json`."),
    421: ("unknown_host", "Add the name to MODELYARD_API__ALLOWED_HOSTS."),
}


PROBLEM_TYPE = "application/problem+json"


class Said(BaseModel):
    """The same for clients of OpenAI."""

    message: str
    type: str
    code: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str
    details: dict[str, Any] | None = None
    error: Said | Annotated[str, Field(description="For clients of Ollama.")]


def problem(
    status: int, code: str, detail: str, hint: str, *, details: Any = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """One refusal. `error` repeats it in the form that OpenAI clients read."""
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, hint=hint, details=details,
        error=Said(message=f"{detail} {hint}".strip(), type=code, code=code),
    )  # fmt: skip
    return JSONResponse(body.model_dump(exclude_none=True), status, headers=headers, media_type=PROBLEM_TYPE)


def from_error(error: ModelyardError) -> JSONResponse:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(status, error.code, error.message, error.hint, details=error.details or None, headers=headers)


def install(app: FastAPI) -> None:
    """Route every exception through this file."""

    @app.exception_handler(ModelyardError)
    async def _ours(_: Request, error: ModelyardError) -> JSONResponse:
        return from_error(error)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid(error.errors(), _fields(request))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (allowed := _allowed(request)):
            headers["Allow"] = allowed  # the framework names those of one route of the path
        code, hint = CODES.get(error.status_code, ("refused", "See /docs."))
        detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
        return problem(error.status_code, code, f"{detail}.".replace("..", "."), hint, headers=headers)

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> JSONResponse:
        log.error("request.crashed", method=request.method, path=request.url.path, exc_info=error)
        return problem(500, "internal_error", "Modelyard met a defect.", "The API's log has the details.")


def invalid(faults: Sequence[Any], known: list[str]) -> JSONResponse:
    """A request that does not have the form it should; `known` are the names of its fields."""
    if any(fault["type"] == "json_invalid" for fault in faults):
        return problem(400, "invalid_json", "The body is not JSON.", "Send one JSON object.")
    shown = []
    for fault in faults:
        place = (
            ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path", "header")) or "body"
        )
        message = str(fault["msg"]).removeprefix("Value error, ")
        near = difflib.get_close_matches(place, known, 1) if fault["type"] == "extra_forbidden" else []
        shown.append({"field": place, "message": message + (f"; did you mean {near[0]!r}?" if near else "")})
    detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in shown[:5])
    hint = "Correct the named fields; the accepted ones are listed at /docs."
    return problem(422, "invalid_request", f"{detail}.", hint, details={"fields": shown})


def _allowed(request: Request) -> str | None:
    """Methods of the path; `/models/activate` is one of its own, although `/models/{model_id}` would fit it, too."""
    described: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    path = request.scope["path"]
    for asked in (path, path.replace("/api/", "/api/v1/", 1)):
        parts = asked.split("/")
        if fitting := [template for template in described if _fits(template.split("/"), parts)]:
            return ", ".join(sorted(method.upper() for method in described[min(fitting, key=lambda it: it.count("{"))]))
    return None


def _fits(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(
        each == part or each.startswith("{") for each, part in zip(template, parts, strict=True)
    )


def _fields(request: Request) -> list[str]:
    """Names that the route's body takes, in both spellings."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(body, "field_info", None), "annotation", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [name for key, field in model.model_fields.items() for name in (key, field.alias or key)]
