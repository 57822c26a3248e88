"""The real application on a free port, a thread of its own, a real Redis and both databases."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connections import Connection
from api.deps import Front
from shared.db.session import Database
from shared.jobs import Ledger
from shared.progress import Events
from shared.settings import Settings
from tests.conftest import free_port, until

Frame = dict[str, Any]
PATIENCE = 20.0
BEFORE_THE_DATABASE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
"""Of what is refused, or told, before a database is asked: whichever it is makes no difference."""


class Served:
    """One API process' worth of service."""

    def __init__(self, settings: Settings) -> None:
        self.app: FastAPI = create_app(settings)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # without TLS: to read the machine's certificates would take longer than most requests
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, verify=False)
        config = uvicorn.Config(
            self.app, port=self.port, log_level="critical", timeout_graceful_shutdown=1, http=Connection,
            proxy_headers=False,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="api")

    def start(self) -> None:
        self._thread.start()
        until(lambda: self._server.started, what="the API")

    def stop(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def front(self) -> Front:
        front: Front = self.app.state.front
        return front

    @contextlib.contextmanager
    def follow(self, path: str = "/api/v1/events", last_id: str | None = None) -> Iterator[Iterator[Frame]]:
        """The events of a stream, each with the `event` and `lastId` of its frame."""
        headers = {"Last-Event-ID": last_id} if last_id is not None else {}
        with self.http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            yield _frames(answer.iter_lines())


def _frames(lines: Iterator[str]) -> Iterator[Frame]:
    frame: Frame = {}
    for line in lines:
        if line.startswith("event: "):
            frame["event"] = line.removeprefix("event: ")
        elif line.startswith("id: "):
            frame["lastId"] = line.removeprefix("id: ")
        elif line.startswith("data: "):
            frame |= json.loads(line.removeprefix("data: "))
        elif not line and frame:
            yield frame
            frame = {}


def up_to(frames: Iterator[Frame], condition: Callable[[Frame], object]) -> list[Frame]:
    """Every event until one that fits, which is the last."""
    seen: list[Frame] = []
    for frame in frames:
        seen.append(frame)
        if condition(frame):
            return seen
    pytest.fail(f"the stream ended with {seen[-1:]}")


Serve = Callable[..., Served]


@pytest.fixture
def serve(settings: Settings) -> Iterator[Serve]:
    """Starts API processes; keyword arguments change their `MODELYARD_API__…` settings."""
    with contextlib.ExitStack() as stack:

        def start(**api: Any) -> Served:
            own = settings.model_copy(update={"api": settings.api.model_copy(update=api)})
            served = Served(own)
            served.start()
            stack.callback(served.stop)
            return served

        yield start


@pytest.fixture
def api(serve: Serve, ledger: Ledger) -> Served:
    """One API on a ledger with the models `one` and `two`."""
    return serve()


@pytest.fixture
def database_of(ledger: Ledger) -> Database:
    return ledger.database


@pytest.fixture
def events(ledger: Ledger) -> Events:
    return ledger.events
