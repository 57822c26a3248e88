"""The OpenAPI document, made to say all that may come: FastAPI knows the good answers, this the refusals."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from api.problems import PROBLEM_TYPE, Problem
from api.strict import WITH_BODY

REFUSALS = {
    400: "Not JSON in UTF-8.",
    401: "The key is missing or wrong.",
    403: "A page of another site, a key without this right, or a place that is not allowed.",
    404: "Nothing here has that name.",
    408: "The body did not come in time.",
    409: "Right in itself, but not now: active, downloading, already there.",
    413: "The body is too large.",
    415: "The body is of another kind than JSON, or compressed.",
    421: "Under a Host name that this service does not have.",
    422: "Wrong in itself; the fields are named.",
    429: "Too often, or too much at a time.",
    502: "What it needs has answered with a failure.",
    503: "A part is missing for now; `Retry-After` says when to ask again.",
    507: "No room on the disk or in memory.",
}
OF_BODIES = {400, 408, 413, 415}
"""Only what has a body hears these."""
OF_WORK = {502, 507}
"""Only what does something hears these."""
PUBLIC = "/health/"
"""Below it nobody asks for a key, and little can go wrong."""
JOINED = "It joined the live job of an earlier ask, or the job has ended within the wait."


class Described(FastAPI):
    """The application, whose document is complete."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            _complete_all(super().openapi())
        return super().openapi()


def _complete_all(document: dict[str, Any]) -> None:
    parts = document["components"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    own = {**problem.pop("$defs", {}), "Problem": problem}
    of_fastapi = {"HTTPValidationError", "ValidationError"}
    parts["schemas"] = {name: each for name, each in parts["schemas"].items() if name not in of_fastapi} | own
    parts["responses"] = {str(status): _refusal(status) for status in REFUSALS}
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(path, method.upper(), operation)


def _refusal(status: int) -> dict[str, Any]:
    refusal: dict[str, Any] = {
        "description": REFUSALS[status],
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        refusal["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
    return refusal


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if path.startswith(PUBLIC):
        own = {403, 421}
    else:
        operation.setdefault("security", [{}, {"key": []}])
        own = REFUSALS.keys() - (set() if method in WITH_BODY else OF_BODIES | OF_WORK)
    for status in sorted(own):
        if status == HTTPStatus.UNPROCESSABLE_ENTITY or str(status) not in answers:
            answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
    if "202" in answers and "200" not in answers:
        answers["200"] = {**answers["202"], "description": JOINED}
