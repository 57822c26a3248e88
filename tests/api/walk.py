"""Every route of the application, however deep it is included, with its whole path."""

from typing import Any, NamedTuple

from fastapi import FastAPI

from api.access import let_in
from api.audit import route_name

SOCKET, MOUNT = "WS", "MOUNT"


class Way(NamedTuple):
    """One way in."""

    method: str
    """`WS` of a WebSocket, `MOUNT` of an application that hangs in ours."""
    path: str
    name: str
    """As `api/access.py` has it."""
    asked: bool
    """`let_in` is among its dependencies."""


def ways(app: FastAPI) -> list[Way]:
    found = []
    for route, path, dependencies in _routes(app):
        if not hasattr(route, "endpoint"):
            found.append(Way(MOUNT, path, path, asked=False))
            continue
        asked = any(each.dependency is let_in for each in (*dependencies, *getattr(route, "dependencies", ())))
        methods = getattr(route, "methods", None) or {SOCKET}
        found += [Way(method, path, route_name(route.endpoint), asked) for method in sorted(methods)]
    return found


def _routes(app: FastAPI) -> list[tuple[Any, str, list[Any]]]:
    found: list[tuple[Any, str, list[Any]]] = []
    for route in app.routes:
        context: Any = getattr(route, "include_context", None)
        if context is None:
            found.append((route, str(getattr(route, "path", "")), []))
            continue
        for inner in route.original_router.routes:  # type: ignore[attr-defined] # FastAPI's own class has no public name
            assert not hasattr(inner, "include_context"), "routers in routers: walk deeper"
            found.append((inner, context.path_for(inner), list(context.dependencies)))
    return found
