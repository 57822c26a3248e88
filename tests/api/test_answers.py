"""Answers of runners that are none: passed on once, and never asked for again in vain."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from sqlmodel import update

from api import gateway
from shared.db.tables import Residency
from shared.jobs import Ledger
from tests.api.conftest import Serve
from tests.api.test_gateway import BODY, serving

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@contextmanager
def _answering(ledger: Ledger, handle: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[list[float]]:
    """A runner that is ready and answers so; and when it was asked."""
    asked: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            handle(self)

        def log_message(self, *_: object) -> None:
            pass

    serving(ledger, "ready")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with ledger.database.session() as session:
            session.exec(update(Residency).values(url=f"http://127.0.0.1:{server.server_port}"))
        yield asked
        server.shutdown()


def test_an_answer_that_takes_too_long_is_not_asked_for_again(
    serve: Serve, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT", httpx.Timeout(0.5, connect=5.0))
    gone = threading.Event()
    with _answering(ledger, lambda request: gone.set() if request.connection.recv(1) == b"" else None) as asked:
        answer = serve(hold_seconds=30).http.post("/v1/chat/completions", json=BODY, timeout=60)
        assert (answer.json()["code"], len(asked)) == ("answer_timeout", 1)
        assert gone.wait(30), "the runner is told to stop"


def test_a_runner_without_memory_for_the_request_says_so_once(serve: Serve, ledger: Ledger) -> None:
    def full(request: BaseHTTPRequestHandler) -> None:
        request.send_response(507)
        request.send_header("Content-Length", "2")
        request.end_headers()
        request.wfile.write(b"{}")

    with _answering(ledger, full) as asked:
        answer = serve(hold_seconds=30).http.post("/v1/chat/completions", json=BODY, timeout=60)
    assert (answer.status_code, len(asked)) == (507, 1)


def test_a_stream_that_breaks_says_so_in_the_stream(serve: Serve, ledger: Ledger) -> None:
    def breaks(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b'data: {"choices": []}\n\n')
        request.connection.shutdown(2)

    with _answering(ledger, breaks) as asked:
        answer = serve(hold_seconds=30).http.post("/v1/chat/completions", json={**BODY, "stream": True}, timeout=60)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert len(asked) == 1
    assert json.loads(events[-1])["error"]["code"] == "runner_died"
