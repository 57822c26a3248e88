import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy.programs import Plan, Program, standard
from shared.settings import ApiSettings, FlowerSettings, RedisSettings, Settings

STAND_IN = Path(__file__).with_name("stand_in.py")


def stand_in(name: str, *arguments: str, stop_seconds: int = 8) -> Program:
    return Program(name, (sys.executable, "-S", str(STAND_IN), *arguments), start_seconds=1, stop_seconds=stop_seconds)


def stand_ins(plan: Plan) -> list[Program]:
    """The real Redis, and the smallest API there is."""
    redis = [each for each in standard(plan) if each.name == "redis"]
    return [*redis, stand_in("api", "api", str(plan.port))]


def until(true: Callable[[], object], seconds: float = 15) -> None:
    """Wait for something to become true; fail when it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def family(pid: int) -> list[psutil.Process]:
    """A process and everything under it."""
    head = psutil.Process(pid)
    return [head, *head.children(recursive=True)]


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie does not."""
    return [each for each in processes if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def settings_in(folder: Path, *, redis: str | None = None, host: str = "127.0.0.1") -> Settings:
    return Settings(
        data_dir=folder,
        api_key=None,
        api=ApiSettings(host=host, port=0),
        flower=FlowerSettings(port=0),
        redis=RedisSettings(url=redis) if redis else RedisSettings(),
    )


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("MODELYARD_REDIS__URL", raising=False)
    monkeypatch.delenv("MODELYARD_API_KEY", raising=False)
    return settings_in(tmp_path / "data")
