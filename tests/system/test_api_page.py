"""docs/api.md, line by line, against the real service; and every other command that the documentation shows."""

import gc
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.cli.main import app
from shared.errors import ModelyardError
from shared.settings import Settings
from tests.conftest import until
from tests.factories.quick import make_quick_llm
from tests.system.conftest import MIB, Yard
from workers.runtimes.llamacpp import find_binary

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
LINE = re.compile(r"^\$ (curl .+)\n→ (\d{3})$", re.MULTILINE)
DEFAULT = "http://127.0.0.1:8000"
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {PAGE}), ROOT / "deploy" / "README.md"]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_HERE = {
    "make demo": "takes minutes; it is `modelyard demo`, whose steps the other tests of the system take",
    "make up": "runs until it is stopped: tests/deploy/test_local.py",
    "modelyard up": "runs until it is stopped: tests/deploy/test_local.py",
    "modelyard doctor": "is told of set-ups that are broken on purpose: tests/system/test_doctor.py",
    "modelyard pull ollama:": "needs an Ollama: tests/workers/jobs/test_ollama.py has one",
    "modelyard migrate-database": "wants the service stopped: tests/system/test_move.py",
    "modelyard webhooks test": "needs a receiver: tests/system/test_webhooks.py has one",
    "modelyard key": "keys of the service itself: tests/api/test_keys.py",
    "python -m workers": "runs until it is stopped: tests/system/test_hosts.py",
    "export ": "sets a variable; those of several machines are set by tests/system/test_hosts.py",
    "cd ": "goes to a folder",
    "cp ": "makes a file that is to be filled in: tests/deploy/test_environment.py",
    "pip install": "installs; the tests' own environment has it",
    "docker compose": "needs an engine: tests/deploy/test_compose.py has Compose itself read the files",
    "kubectl": "needs a cluster: tests/deploy/test_kubernetes.py validates what it is given",
    "sqlite3 ": "is SQLite's own program; tests/shared/test_session.py reads such a copy",
    "createdb": "is PostgreSQL's own program; tests/system/test_move.py moves into one that is empty",
}
"""Commands that are shown and are not run below, by how they begin, with the reason."""


def test_every_line_answers_as_it_says(yard: Yard, tmp_path: Path) -> None:
    lines = LINE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(lines) == PAGE.read_text(encoding="utf-8").count("$ curl ")
    body, job, hook, wrong = tmp_path / "body", "", "", []
    for command, expected in lines:
        real = command.replace(DEFAULT, yard.instance.url)
        status = subprocess.run(
            ["bash", "-c", f"{real} -s -o {body} -w '%{{http_code}}'"],
            env={"JOB": job, "HOOK": hook, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True, timeout=180,
            check=False,
        ).stdout  # fmt: skip
        answer = body.read_text(encoding="utf-8") if body.exists() else ""
        print(f"$ {command}\n{status} {' '.join(answer.split())[:300]}\n")
        if status != expected:
            wrong.append((command, expected, status, answer[:500]))
        if status.startswith(("4", "5")):
            problem = json.loads(answer)
            assert problem["code"], command
            assert problem["hint"], command
        elif '"links"' in answer:
            job = json.loads(answer)["job"]["id"]
        elif '"secret":"' in answer:
            hook = json.loads(answer)["id"]
        body.unlink(missing_ok=True)
    assert not wrong


def shown() -> list[str]:
    """Every command of the pages, in their order; what follows a semicolon is one of its own."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.startswith("$ "):
                    text = re.sub(r"\s+# .*", "", line.removeprefix("$ "))
                    found += [one.strip() for one in text.split("; ")]
    return found


class Reader:
    """Somebody who types what they read, with what they have in the place of what is only an example."""

    def __init__(self, yard: Yard, hub_root: Path) -> None:
        self.yard = yard
        self.hook = self.job = ""
        self._cedar = (hub_root / "tiny" / "cedar" / "cedar.gguf").read_bytes()
        make_quick_llm(hub_root / "Qwen" / "Qwen3-0.6B", 1, 6 * MIB)
        if not yard.http.get("/api/v1/models/acorn").is_success:
            yard.add("acorn", "tiny/acorn")
        folder = yard.instance.folder.root / "profiles"
        folder.mkdir(exist_ok=True)
        (folder / "night.yaml").write_text("enabledModels: [qwen]\n")
        self._before: dict[str, Callable[[], None]] = {
            "modelyard pause JOB": self._slow_job, "modelyard retry JOB": self._settled,
            "modelyard restore MODEL": self._in_the_trash,
            "modelyard bundle import": self._away,
        }  # fmt: skip

    def type(self, command: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        for start, prepare in self._before.items():
            if command.startswith(start):
                prepare()
        real = self._real(command)
        if real.startswith("curl "):
            quiet = f"{real} -sS -f" + (" -m 2" if " -N " in real else "")
            done = subprocess.run(["bash", "-c", quiet], capture_output=True, text=True, timeout=120, check=False)
            endless = " -N " in real and done.returncode == 28 and "event:" in done.stdout
            return (0 if endless else done.returncode), done.stdout + done.stderr
        return self._did(*shlex.split(real)[1:])

    def _did(self, *argv: str) -> tuple[int, str]:
        environment = {"MODELYARD_URL": self.yard.instance.url, "COLUMNS": "160"}
        told = CliRunner().invoke(app, argv, env=environment, input="y\n")
        if (made := re.search(r"wh_[0-9a-f]{16}", told.output)) and argv[:2] == ("webhooks", "add"):
            self.hook = made[0]
        return told.exit_code, f"{told.output} {told.exception or ''}"

    def _real(self, command: str) -> str:
        digest = hashlib.sha256(self._cedar).hexdigest()
        for example, real in (
            (DEFAULT, self.yard.instance.url), ("sha256:…", f"sha256:{digest}"), ("barn", "local"), ("JOB", self.job),
            ("https://example.com/tiny.gguf", f"{self.yard.hub.url}/tiny/cedar/resolve/main/cedar.gguf"),
            ("wh_0123456789abcdef", self.hook), ("qwen3-0.6b", "qwen"), ("MODEL …", "slow"), ("MODEL", "slow"),
            ("night.tar --sha256 5f0c…", f"night.tar --sha256 {self._of_bundle()}"),
        ):  # fmt: skip
            command = command.replace(example, real)
        return command

    def _of_bundle(self) -> str:
        bundle = Path("night.tar")
        return hashlib.sha256(bundle.read_bytes()).hexdigest() if bundle.exists() else ""

    def _slow_job(self) -> None:
        self.yard.hub.throttle(64 * 1024)
        self.yard.add("slow", "tiny/larch")
        self.job = self.yard.submitted("/api/v1/models/download", {"model_id": "slow"})
        until(lambda: self.yard.job(self.job)["status"] == "running", what="the job")

    def _settled(self) -> None:
        self.yard.hub.throttle(None)
        self.yard.ended(self.job)

    def _in_the_trash(self) -> None:
        self.yard.ended(self.job)
        self._did("rm", "slow")

    def _away(self) -> None:
        """On the machine that a bundle is carried to its models are not there yet."""
        self._did("rm", "qwen", "--force")
        self._did("rm", "tiny", "--force")


def test_commands_that_are_not_run_are_shown_somewhere() -> None:
    texts = shown()
    assert [start for start in NOT_HERE if not any(text.startswith(start) for text in texts)] == []
    tests = [path for reason in NOT_HERE.values() for path in re.findall(r"tests/[a-z/_]+\.py", reason)]
    assert [path for path in tests if not (ROOT / path).exists()] == []


# A command is a process that ends with its connections; here many of them are one process.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_command_of_the_pages_does_what_it_says(
    yard: Yard, hub_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader, wrong = Reader(yard, hub_root), []
    for command in shown():
        if command.startswith(tuple(NOT_HERE)):
            continue
        code, told = reader.type(command)
        print(f"$ {command}\n{code} {told[:300]}\n")
        if code != 0 and not (_without_llama_server() and "llama-server" in told):
            wrong.append((command, code, told[-500:]))
    gc.collect()  # while it is still said that nothing is to be made of what a command left open
    assert not wrong


def _without_llama_server() -> bool:
    try:
        find_binary(Settings().runners)
    except ModelyardError:
        return True
    return False
