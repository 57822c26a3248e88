"""An Ollama server as far as its API goes, over real sockets on loopback: slow, failing or restarting as it is told."""

import contextlib
import hashlib
import itertools
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.fakes import ollama_memory
from tests.fakes.ollama_memory import Memory, NotFound, Refused

TICK_BYTES = 1_000_000


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Published:
    """A model in Ollama's library: its layers by digest, with their sizes, the weights first."""

    layers: dict[str, int]
    family: str = "llama"
    parameters: int = 8_030_261_248
    context_length: int = 8192

    @property
    def digest(self) -> str:
        return digest_of(json.dumps(self.layers))

    @property
    def size(self) -> int:
        return sum(self.layers.values())

    @property
    def embeds(self) -> bool:
        return self.family == "bert"


def published(name: str, size: int = 5_000_000, **more: Any) -> Published:
    layers = {f"sha256:{digest_of(f'{name} {part}')}": count for part, count in (("model", size), ("params", 500))}
    return Published(layers, **more)


@dataclass
class Manners:
    """How it behaves; may be changed while it runs.

    `pause` is waited after each line of a pull. A pull breaks off after `cut` lines, once: by an `error` line, or
    without a word, as when the daemon restarts. `instead` are raw lines that a pull answers with. `silent` never
    answers. `refusals` are answered to any request first: status and body.
    """

    version: str = "0.17.1"
    pause: float = 0.0
    cut: int | None = None
    error: str | None = None
    instead: list[bytes] = field(default_factory=list)
    silent: bool = False
    refusals: list[tuple[int, bytes]] = field(default_factory=list)


class FakeOllama:
    """`library` is what its registry has, `models` what it has itself, `partial` the bytes of each layer so far,
    `memory` what is loaded; the memory is what goes with the daemon."""

    def __init__(self, port: int = 0, certificate: Path | None = None, **manners: Any) -> None:
        self.manners = Manners(**manners)
        self.library: dict[str, Published] = {}
        self.models: dict[str, Published] = {}
        self.partial: dict[str, int] = {}
        self.fetched = 0
        """Bytes that came from the registry, those of layers that were there not counted."""
        self.memory = Memory()
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        """The `Authorization` of each request."""
        self.pulling = threading.Event()
        """Set once bytes of a layer have come."""
        self.closed = threading.Event()
        """Set once a client has hung up in the middle of a pull."""
        self.over = threading.Event()
        self._server = _Server(self, port)
        self.port = self._server.server_port
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="ollama")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Twice is once."""
        if not self.over.is_set():
            self.over.set()
            self._close()

    def kill(self) -> None:
        """The daemon ends in the middle of whatever it does, and its memory is free."""
        self._close()
        self._server.cut()
        self.memory.models.clear()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start_again(self) -> None:
        """After a `kill`."""
        self._server = _Server(self, self.port)
        self.__enter__()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.asked]

    # -- what a pull tells -----------------------------------------------------------------------------------

    def pull(self, name: str) -> Iterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        model = self.library.get(name)
        if model is None:
            yield {"error": "pull model manifest: file does not exist"}
            return
        for digest, size in model.layers.items():
            for done in self._layer(digest, size):
                line = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": size, "completed": done}
                yield {key: value for key, value in line.items() if value}  # Go leaves out what is zero
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self.models[name] = model
        yield {"status": "success"}

    def _layer(self, digest: str, size: int) -> Iterator[int]:
        """Bytes that it has of a layer, again and again until it has all."""
        yield self.partial.get(digest, 0)
        while (have := self.partial.get(digest, 0)) < size:
            step = min(TICK_BYTES, size - have)
            self.fetched += step
            self.partial[digest] = have + step
            self.pulling.set()
            yield self.partial[digest]

    def details(self, model: Published) -> dict[str, Any]:
        return {
            "parent_model": "", "format": "gguf", "family": model.family, "families": [model.family],
            "parameter_size": f"{model.parameters / 1e9:.1f}B", "quantization_level": "Q4_0",
        }  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, ollama: FakeOllama, port: int) -> None:
        self.ollama = ollama
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def cut(self) -> None:
        """Everybody who is connected."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Clients hang up; that is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        ollama = self.server.ollama
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        self.body = body
        ollama.asked.append((self.command, self.path, body))
        ollama.keys.append(self.headers.get("Authorization"))
        if ollama.manners.silent:
            ollama.over.wait()
        elif ollama.manners.refusals:
            self._send(*ollama.manners.refusals.pop(0))
        else:
            routes = {
                ("GET", "/api/version"): self._version, ("GET", "/api/tags"): self._tags,
                ("POST", "/api/show"): self._show, ("POST", "/api/pull"): self._pull,
                ("DELETE", "/api/delete"): self._delete, ("GET", "/api/ps"): self._ps,
                ("POST", "/api/generate"): lambda name: self._json(200, ollama_memory.generate(ollama, name, body)),
                ("POST", "/api/embed"): lambda name: self._json(200, ollama_memory.embed(ollama, name, body)),
                ("POST", "/v1/embeddings"): lambda name: self._json(200, ollama_memory.embeddings(ollama, name, body)),
                ("POST", "/v1/completions"): self._complete, ("POST", "/v1/chat/completions"): self._complete,
            }  # fmt: skip
            route = routes.get((self.command, self.path))
            try:
                self._send(404, b"404 page not found") if route is None else route(_named(body))
            except NotFound as error:
                self._refuse(404, str(error))
            except Refused as error:
                self._refuse(error.status, error.said)

    def _version(self, _: str) -> None:
        self._json(200, {"version": self.server.ollama.manners.version})

    def _tags(self, _: str) -> None:
        ollama = self.server.ollama
        models = [
            {
                "name": name, "model": name, "modified_at": "2026-01-02T03:04:05.123456789+01:00",
                "size": model.size, "digest": model.digest, "details": ollama.details(model),
            }
            for name, model in ollama.models.items()
        ]  # fmt: skip
        self._json(200, {"models": models})

    def _show(self, name: str) -> None:
        ollama = self.server.ollama
        model = ollama.models.get(name)
        if model is None:
            self._json(404, {"error": f"model '{name}' not found"})
            return
        info = {
            "general.architecture": model.family, "general.parameter_count": model.parameters,
            f"{model.family}.context_length": model.context_length, "tokenizer.ggml.tokens": None,
        }  # fmt: skip
        answer = {
            "license": "…", "modelfile": "FROM …", "template": "{{ .Prompt }}",
            "details": ollama.details(model), "model_info": info, "capabilities": ["completion"],
        }  # fmt: skip
        self._json(200, answer)

    def _ps(self, _: str) -> None:
        self._json(200, {"models": self.server.ollama.memory.listed()})

    def _complete(self, name: str) -> None:
        """An error is told before the first part: it is the status of the answer."""
        parts = ollama_memory.answer(self.server.ollama, name, self.body, chat="chat" in self.path)
        first = next(parts)
        if not self.body.get("stream"):
            self._json(200, first)
            parts.close()
            return
        self._begin("text/event-stream")
        try:
            for event in ollama_memory.events(itertools.chain([first], parts)):
                self._chunk(event)
            self._chunk(b"")
        except OSError:
            self.close_connection = True
        finally:
            parts.close()

    def _delete(self, name: str) -> None:
        if self.server.ollama.models.pop(name, None) is None:
            self._json(404, {"error": f"model '{name}' not found"})
        else:
            self._send(200, b"")

    def _pull(self, name: str) -> None:
        ollama, manners = self.server.ollama, self.server.ollama.manners
        self._begin("application/x-ndjson")
        lines = manners.instead or (json.dumps(line).encode() + b"\n" for line in ollama.pull(name))
        try:
            for number, line in enumerate(lines):
                if manners.cut is not None and number >= manners.cut:
                    manners.cut, error, manners.error = None, manners.error, None
                    if error is None:
                        self.close_connection = True
                        self.connection.shutdown(2)
                        return
                    self._chunk(json.dumps({"error": error}).encode() + b"\n")
                    break
                self._chunk(line)
                if manners.pause and ollama.over.wait(manners.pause):
                    break
            self._chunk(b"")
        except OSError:
            ollama.closed.set()
            self.close_connection = True

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _refuse(self, status: int, said: str) -> None:
        error: Any = {"message": said, "type": "api_error"} if self.path.startswith("/v1/") else said
        self._json(status, {"error": error})

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _named(body: dict[str, Any]) -> str:
    name = str(body.get("model") or body.get("name") or "")
    return name if ":" in name else f"{name}:latest"
