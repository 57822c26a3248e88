"""The container files against the code: what they name must exist. (They are built where there is a Docker.)"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from deploy.environment import example, variables

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("deploy/api.Dockerfile", "deploy/worker.Dockerfile")
OTHERS = {
    "CELERY_BROKER_URL",
    "FLOWER_BASIC_AUTH",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
}
"""Variables of programs that are not ours."""
COMPOSE = cast(dict[str, Any], yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if "build" in each}


def known() -> set[str]:
    return {each.name for each in variables()}


def steps(dockerfile: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / dockerfile).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_every_part_is_a_service() -> None:
    assert set(SERVICES) == {
        "redis", "postgres", "migrate", "api", "io", "io-urgent", "device", "beat", "flower",
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_runs_exists(name: str) -> None:
    command = OURS[name]["command"]
    assert command[:2] == ["python", "-m"]
    assert find_spec(command[2]) is not None, command
    dockerfile = OURS[name]["build"]["dockerfile"]
    assert ("worker" in dockerfile) == (command[2] == "workers"), "each image runs what it contains"


@pytest.mark.parametrize("command", [each["command"] for each in OURS.values() if each["command"][2] == "workers"])
def test_the_workers_know_their_commands(command: list[str]) -> None:
    asked = subprocess.run(
        [sys.executable, *command[1:], "--help"], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting(name: str) -> None:
    assert set(SERVICES[name].get("environment", {})) <= known() | OTHERS


def test_every_value_that_is_asked_for_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "deploy/compose.gpu.yml").read_text()
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", text)) - {"MODELYARD_GPU"}
    assert asked
    assert not [each for each in asked if f"# {each}=" not in example()]


def test_secrets_have_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for each in ("REDIS_PASSWORD", "POSTGRES_PASSWORD", "FLOWER_PASSWORD", "MODELYARD_SECRET", "MODELYARD_API_KEY"):
        assert f"${{{each}:?" in text, "asked for"
        assert f"${{{each}:-" not in text


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith(("0", "root"))
    assert service["restart"] == ("on-failure:5" if name == "migrate" else "unless-stopped")
    assert "privileged" not in service
    assert not [each for each in service.get("volumes", []) if each.split(":")[0] not in COMPOSE["volumes"]]


def test_only_the_api_is_published_to_others() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert set(published) == {"api", "flower"}
    assert all(port.startswith("127.0.0.1:") for port in published["flower"])


def test_nobody_starts_before_the_schema_is_there() -> None:
    for name in ("api", "io", "io-urgent", "device", "beat"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[needed]


def test_a_device_worker_names_itself_to_the_api() -> None:
    device = SERVICES["device"]["environment"]
    assert device["LLAMA_SERVER_HOST"] == "0.0.0.0"
    assert device["MODELYARD_RUNNERS__ADVERTISE_HOST"] == SERVICES["device"]["hostname"]


def test_redis_keeps_what_it_is_given() -> None:
    configuration = SERVICES["redis"]["command"][-1].splitlines()
    assert {"appendonly yes", "maxmemory-policy noeviction", "requirepass $$REDIS_PASSWORD"} <= set(configuration)


def test_the_gpu_file_only_changes_services_that_are_there() -> None:
    overlay = yaml.safe_load((ROOT / "deploy/compose.gpu.yml").read_text())
    assert set(overlay["services"]) <= set(SERVICES)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_an_image_copies_exists_and_is_sent(dockerfile: str) -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [source for word, rest in steps(dockerfile) if word == "COPY" for source in rest.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in sent, source


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_an_image_runs_as_nobody_in_particular(dockerfile: str) -> None:
    words = [word for word, _ in steps(dockerfile)]
    assert ("USER", "10001:10001") in steps(dockerfile)
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "RUN")


def test_the_api_image_holds_no_torch_and_no_worker() -> None:
    text = " ".join(f"{word} {rest}" for word, rest in steps("deploy/api.Dockerfile"))
    assert '".[api]"' in text
    assert "torch" not in text
    assert "workers" not in text
    extras = {name: each["build"].get("args", {}).get("EXTRAS", "") for name, each in OURS.items()}
    assert {name for name, wanted in extras.items() if "torch" in wanted} == {"device"}
