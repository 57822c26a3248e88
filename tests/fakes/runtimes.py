"""Runtimes that misbehave, as real child processes: each is a small server that goes wrong in one way."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from shared.settings import RunnerSettings
from shared.states import Output
from workers.runtimes.base import Launch, Request
from workers.runtimes.runner import Launched
from workers.runtimes.torch_runner import TorchRunner

SERVER = """
import http.server, json, os, signal, sys
host, port = json.loads(sys.stdin.readline() or "[]") if sys.argv[1] == "SPARE" else sys.argv[1:]
port, key = int(port), os.environ["FAKE_KEY"]
REFUSED = ()
HEALTH, ANSWER = 200, b'{"text": "hi", "tokens": 1, "seconds": 0.1}'
BEFORE
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.reply(HEALTH if self.headers["Authorization"] == "Bearer " + key else 401, b"{}")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(500 if self.path in REFUSED else 200, ANSWER)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()
"""

WELL = ""
LOADING_FOR_EVER = "HEALTH = 503"
EXITS_EARLY = "print('nothing to do here'); sys.exit(0)"
CRASHES = "print('reading tensors'); print('the third tensor is broken, said ' + key, file=sys.stderr); sys.exit(3)"
OUT_OF_MEMORY = "print('ggml: failed to allocate buffer of size 123'); sys.exit(1)"
GARBAGE = "ANSWER = bytes([0, 255]) + b' not json'"
NOT_A_NUMBER = """ANSWER = b'{"text": "", "tokens": 1, "seconds": NaN}'"""
NEVER_WAKES = "REFUSED = ('/wake',)"
NEVER_SLEEPS = "REFUSED = ('/sleep',)"
ENDLESS_ANSWER = "ANSWER = b'x' * 50_000_000"
IGNORES_SIGTERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
FLOODS_STDOUT = """
for _ in range(200_000):
    os.write(1, b"y" * 99 + bytes([10]))
os.write(1, b"z" * 5_000_000)
"""
LEAVES_A_CHILD = """
import subprocess
print(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid, flush=True)
"""


@dataclass
class FakeRuntime(Launched):
    """Starts a child with `fault` in it. Probes as the torch runner does; keeps the requests it was given.

    Args:
        fault: one of the constants above.
    """

    fault: str = WELL
    name: str = "fake"
    keeps_weights: bool = True
    output: Output = Output.TEXT
    spares: bool = False
    _settings = RunnerSettings()
    launched: list[Request] = field(default_factory=list)

    def accepts(self, folder: Path) -> bool:
        return folder.is_dir()

    def launch(self, request: Request) -> Launch:
        self.launched.append(request)
        return self._launch(request.key, request.host, str(request.port))

    def spare(self, key: str) -> Launch | None:
        return self._launch(key, "SPARE") if self.spares else None

    def _launch(self, key: str, *arguments: str) -> Launch:
        code = SERVER.replace("BEFORE", self.fault)
        return Launch((sys.executable, "-c", code, *arguments), {"FAKE_KEY": key, "EXTRA": "given"})

    def probe(self, base_url: str, key: str) -> None:
        TorchRunner(RunnerSettings()).probe(base_url, key)
