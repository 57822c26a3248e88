from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.environment import environment, example, variables
from shared.settings import ApiSettings, RedisSettings, Settings, SourceSettings

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_names_every_setting() -> None:
    assert (ROOT / ".env.example").read_text() == example(), "run: python -m deploy.environment > .env.example"


def test_the_example_sets_nothing_and_tells_nothing_of_this_machine() -> None:
    lines = [line for line in example().splitlines() if line]
    assert all(line.startswith("#") for line in lines)
    assert str(Path.home()) not in example()


def test_names_that_other_tools_use_keep_their_spelling() -> None:
    names = [each.name for each in variables()]
    assert {"HF_TOKEN", "LLAMA_SERVER_PATH", "MODELYARD_DATA_DIR", "MODELYARD_REDIS__URL"} <= set(names)
    assert len(names) == len(set(names))


def test_variables_of_older_systems_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "MODEL_SCAN_PATH": "/models", "REGISTRY_PATH": str(tmp_path / "model_registry.json"),
        "LLAMA_SERVER_PATH": "/usr/local/bin/llama-server", "LLAMA_SERVER_HOST": "127.0.0.2",
        "MAX_STARTUP_TIME": "90", "READINESS_CHECK_INTERVAL": "2", "ACTIVE_PROFILE": "development",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    runners = settings.runners
    assert (settings.sources.scan_roots, settings.registry) == (["/models"], Path(given["REGISTRY_PATH"]))
    assert (runners.llama_server_path, runners.host) == (Path(given["LLAMA_SERVER_PATH"]), "127.0.0.2")
    assert (runners.max_startup_seconds, runners.readiness_interval) == (90, 2)
    assert settings.active_profile == "development"
    monkeypatch.delenv("ACTIVE_PROFILE")
    named = Settings()
    named.active_profile = "night"
    assert environment(named)["ACTIVE_PROFILE"] == "night", "as `up --profile` tells its children"


def test_a_child_comes_to_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        data_dir=tmp_path,
        api_key=SecretStr("k%y"),
        api=ApiSettings(port=0, allowed_hosts=["a.example", "b.example:8"]),
        redis=RedisSettings(url=SecretStr("redis://:p@127.0.0.1:1/0")),
        sources=SourceSettings(hf_endpoint="http://127.0.0.1:9", read_timeout=1.5),
    )
    for name, value in environment(given).items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_a_setting_that_was_not_given_is_left_to_the_child() -> None:
    names = environment(Settings(data_dir=Path("/d"), api=ApiSettings(port=1)))
    assert names["MODELYARD_API__PORT"] == "1"
    assert "MODELYARD_API__HOLD_SECONDS" not in names


def test_relative_paths_are_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = environment(Settings(data_dir=Path("d"), database_url=SecretStr("sqlite:///ledger.db")))
    assert given["MODELYARD_DATA_DIR"] == str(tmp_path / "d")
    assert given["MODELYARD_DATABASE_URL"] == f"sqlite:///{tmp_path}/ledger.db"
