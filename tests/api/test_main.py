"""`python -m api`: a process that others can reach has a key, whoever forgot to set one."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy.addresses import free_port
from tests.conftest import RealRedis, put_database, until

ROOT = Path(__file__).resolve().parents[2]


class Server:
    def __init__(self, folder: Path, redis: RealRedis, *options: str, host: str = "0.0.0.0") -> None:
        self.port = free_port()
        settings = {
            "MODELYARD_DATA_DIR": str(folder), "MODELYARD_REDIS__URL": f"redis://127.0.0.1:{redis.port}/0",
            "MODELYARD_API__HOST": host, "MODELYARD_API__PORT": str(self.port), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        environment = {name: each for name, each in os.environ.items() if not name.startswith("MODELYARD_")} | settings
        self.log = folder.parent / f"{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api", *options], stdout=log, stderr=log, env=environment, cwd=ROOT
            )

    def models(self, key: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(
            f"http://127.0.0.1:{self.port}/api/v1/models", headers=headers, trust_env=False, timeout=60
        ).status_code

    def up(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return bool(self.models())
            except httpx.HTTPError:
                return False

        until(answers, 120, "the API")

    def stop(self) -> str:
        self.process.terminate()
        self.process.wait(60)
        return self.log.read_text()


@pytest.fixture
def folder(tmp_path: Path, fresh_sqlite: Path) -> Path:
    put_database(fresh_sqlite, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.fault("A-93")
def test_a_key_is_made_once_and_shown_once(folder: Path, redis_server: RealRedis) -> None:
    first = Server(folder, redis_server, "--make-key")
    first.up()
    file = folder / "secrets" / "api-key"
    key = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (first.models(), first.models("x" * 64), first.models(key)) == (401, 401, 200)
    listed = subprocess.run(
        [sys.executable, "-c", "from api.cli.main import main; main()", "key", "own"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "MODELYARD_DATA_DIR": str(folder),
             "MODELYARD_URL": f"http://127.0.0.1:{first.port}"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "admin" in listed.stdout, "on its machine nobody types it"
    told = first.stop()
    assert len(re.findall(rf"^  {key}$", told, re.MULTILINE)) == 1
    second = Server(folder, redis_server, "--make-key")
    second.up()
    assert (second.models(), second.models(key)) == (401, 200)
    assert key not in second.stop()


@pytest.mark.fault("A-93")
def test_else_it_refuses(folder: Path, redis_server: RealRedis) -> None:
    server = Server(folder, redis_server)
    assert server.process.wait(120) == 78
    told = server.log.read_text()
    assert len(told.splitlines()) == 4
    for way in (
        "MODELYARD_API_KEY=$(modelyard key)",
        "MODELYARD_API__HOST=127.0.0.1",
        "--insecure-no-auth-i-understand",
    ):
        assert way in told
    command = [sys.executable, "-c", "from api.cli.main import main; main()", "up", "--host", "0.0.0.0"]
    up = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "MODELYARD_DATA_DIR": str(folder.parent / "new")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert up.returncode == 78
    assert "--insecure-no-auth-i-understand" in up.stderr
    assert not (folder.parent / "new").exists()


@pytest.mark.fault("A-93")
def test_who_insists_has_it_without(folder: Path, redis_server: RealRedis) -> None:
    server = Server(folder, redis_server, "--insecure-no-auth-i-understand")
    server.up()
    assert server.models() == 200
    server.stop()


def test_on_loopback_none_is_needed(folder: Path, redis_server: RealRedis) -> None:
    server = Server(folder, redis_server, "--make-key", host="127.0.0.1")
    server.up()
    assert server.models() == 200
    server.stop()
    assert not (folder / "secrets" / "api-key").exists()
