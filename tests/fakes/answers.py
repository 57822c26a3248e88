"""A server of a model that answers what it is told to, and the row that says it is in memory."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from shared.db import catalog
from shared.db.tables import Residency
from workers.job import Services


class Server(BaseHTTPRequestHandler):
    """Answers as it is told; None: not at all, until the client hangs up."""

    answer: ClassVar[tuple[int, bytes] | None] = (200, b"{}")
    asked: ClassVar[list[Any]] = []
    hung_up = threading.Event()

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.answer is None:
            self.connection.recv(1)
            self.hung_up.set()
            return
        status, content = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def in_memory(services: Services, model_id: str, residency_id: str, runtime: str = "fake") -> Iterator[Residency]:
    """That model is in memory, as far as anybody knows, and `Server` answers for it."""
    Server.asked.clear()
    Server.hung_up.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with services.database.reading() as session:
            installation = catalog.installed(session, model_id)
        row = Residency(
            id=residency_id, model_id=model_id, model_type="llm", revision=installation.revision, device="cpu",
            runtime=runtime, state="ready", url=f"http://127.0.0.1:{server.server_port}", context_length=256,
            load_seconds=2.0, started_at=1.0,
        )  # fmt: skip
        with services.database.session() as session:
            session.add(row)
        yield row
        server.shutdown()
    services.leases.reopen(residency_id)
