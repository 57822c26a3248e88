"""A hub on loopback that speaks the Hub's protocol, for the demo and for tests: `python -m deploy.demo.hub`.

A repository is a folder `<root>/<owner>/<name>/` of real files. Its commit follows from its contents, so a changed
file makes a new commit; the old one is gone, unless `library.keep` was called before: then it lies beside it, in
`<root>/<owner>/<name>@<commit>/`, and is served by its name. Large and weight files are "LFS": they are redirected
to `/cdn/…`, as the real hub does. `/files/<owner>/<name>/<file>` serves the same bytes as plain direct URLs.
"""

import argparse
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote, unquote, urlsplit

from deploy.demo.library import Entry, Library, model_info, tree

SEND_BYTES = 256 * 1024

_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
_MODEL = re.compile(r"^/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?$")
_TREE = re.compile(r"^/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?$")
_RESOLVE = re.compile(r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_CDN = re.compile(r"^/cdn/([^/]+/[^/]+)/([^/]+)/(.+)$")
_PLAIN = re.compile(r"^/files/([^/]+/[^/]+)/(.+)$")


@dataclass(frozen=True)
class Request:
    """One answered request. `sent` is bytes of body; `start` and `end` (inclusive) are what was asked for."""

    method: str
    path: str
    start: int | None
    end: int | None
    sent: int
    status: int
    authorized: bool


class Hub:
    """The server, on a thread of its own. `requests` is what it answered so far, in order.

    Args:
        root: folder of `<owner>/<name>/` folders.
        port: 0 takes a free one.
        rate: bytes per second and connection, None for as fast as it goes.
        log: file to which every request is appended as a line of JSON.
    """

    def __init__(self, root: Path, port: int = 0, rate: float | None = None, log: Path | None = None) -> None:
        self.requests: list[Request] = []
        self._log: IO[str] | None = log.open("a", encoding="utf-8") if log is not None else None
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), Library(root), rate, self._note)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hub", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection and wait for their threads."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        if self._log is not None:
            self._log.close()

    @property
    def library(self) -> Library:
        return self._server.library

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def throttle(self, rate: float | None) -> None:
        """Another rate for answers from now on; those on their way keep theirs."""
        self._server.rate = rate

    def sent(self, part: str = "") -> int:
        """Bytes of bodies sent for paths that contain `part`."""
        with self._lock:
            return sum(request.sent for request in self.requests if part in request.path)

    def _note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            if self._log is not None:
                self._log.write(json.dumps(asdict(request)) + "\n")
                self._log.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, where: tuple[str, int], library: Library, rate: float | None, note: Any) -> None:
        self.library = library
        self.rate = rate
        self.note = note
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(where, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        with self._guard:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients that hang up are everyday life
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """The access log is `Hub.requests`."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if match := _TREE.match(path):
            self._tree(
                match[1], match[2], match[3] or "", "recursive=true" in parts.query.lower().replace("=1", "=true")
            )
        elif match := _MODEL.match(path):
            self._model(match[1], match[2], "blobs=true" in parts.query.lower())
        elif match := _CDN.match(path):
            self._file(match[1], match[2], match[3], direct=True)
        elif match := _PLAIN.match(path):
            self._file(match[1], None, match[2], direct=True)
        elif match := _RESOLVE.match(path):
            self._file(match[1], match[2], match[3], direct=False)
        else:
            self._refuse("EntryNotFound")

    def _repository(self, repo: str, revision: str | None) -> tuple[list[Entry], str] | None:
        found = self.server.library.at(repo, revision)
        if found is None:
            self._refuse("RepoNotFound" if self.server.library.files(repo) is None else "RevisionNotFound")
        return found

    def _model(self, repo: str, revision: str | None, blobs: bool) -> None:
        was = revision is not None and not blobs and self.server.library.knows(repo, revision)
        found = ([], str(revision)) if was else self._repository(repo, revision)  # of what was, its name is told
        if found is not None:
            self._json(model_info(repo, *found, blobs=blobs))

    def _tree(self, repo: str, revision: str, under: str, recursive: bool) -> None:
        found = self._repository(repo, revision)
        if found is None:
            return
        rows = tree(found[0], under, recursive=recursive)
        if under and not rows:
            self._refuse("EntryNotFound")
        else:
            self._json(rows)

    def _file(self, repo: str, revision: str | None, name: str, *, direct: bool) -> None:
        found = self._repository(repo, revision)
        if found is None:
            return
        files, commit = found
        entry = next((file for file in files if file.path == name), None)
        if entry is None:
            self._refuse("EntryNotFound")
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
        if entry.lfs:
            headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
        if entry.lfs and not direct:
            target = f"/cdn/{repo}/{commit}/{quote(name)}?Signature={entry.sha256[:16]}"
            self._send(HTTPStatus.FOUND, headers | {"Location": target})
        else:
            modified = datetime.fromtimestamp(int(entry.modified), UTC)
            self._body(entry, headers | {"Last-Modified": format_datetime(modified, usegmt=True)})

    def _body(self, entry: Entry, headers: dict[str, str]) -> None:
        start, end, status = 0, entry.size - 1, HTTPStatus.OK
        asked = _RANGE.match(self.headers.get("Range", ""))
        if_range = self.headers.get("If-Range")
        if asked and if_range in (None, headers["ETag"], headers["Last-Modified"]):
            start, end = int(asked[1]), min(int(asked[2] or end), end)
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{end}/{entry.size}"
            if start > end:
                headers["Content-Range"] = f"bytes */{entry.size}"
                self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
                return
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Length"] = str(end - start + 1)
        self._head(status, headers)
        sent = 0
        try:
            if self.command == "GET":
                with entry.place.open("rb") as file:
                    for count in self._pour(file.fileno(), start, end + 1):
                        sent += count
        finally:
            self._note(status, sent, (start, end) if status == HTTPStatus.PARTIAL_CONTENT else None)

    def _pour(self, handle: int, start: int, end: int) -> Iterator[int]:
        """Send part of a file, not faster than the rate; yields what each step sent."""
        self.wfile.flush()
        began, first, rate = time.monotonic(), start, self.server.rate
        step = SEND_BYTES if rate is None else max(1, min(SEND_BYTES, int(rate / 20)))
        while start < end:
            count = os.sendfile(
                self.connection.fileno(), handle, start, min(end - start, step if rate else end - start)
            )
            if not count:
                raise ConnectionAbortedError
            start += count
            yield count
            if rate is not None:
                time.sleep(max(0.0, (start - first) / rate - (time.monotonic() - began)))

    def _json(self, value: Any) -> None:
        self._send(HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _refuse(self, code: str) -> None:
        self._send(HTTPStatus.NOT_FOUND, {"X-Error-Code": code, "X-Error-Message": "Not found"})

    def _send(self, status: HTTPStatus, headers: dict[str, str], body: bytes = b"") -> None:
        self._head(status, headers | {"Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)
        self._note(status, len(body) if self.command == "GET" else 0, None)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _note(self, status: HTTPStatus, sent: int, span: tuple[int, int] | None) -> None:
        start, end = span if span is not None else (None, None)
        authorized = "Authorization" in self.headers
        self.server.note(Request(self.command, unquote(self.path), start, end, sent, status.value, authorized))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.hub", description="A hub on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="folder of <owner>/<name>/ folders")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--rate", type=float, help="bytes per second and connection")
    parser.add_argument("--log", type=Path, help="file for one line of JSON per request")
    options = parser.parse_args()
    hub = Hub(options.root, options.port, options.rate, options.log).start()
    print(hub.url, flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    hub.stop()


if __name__ == "__main__":
    main()
