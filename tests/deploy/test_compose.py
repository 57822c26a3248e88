"""The container files against the code: what they name must exist. (They are built where there is a Docker.)"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import yaml
from celery import Celery

from deploy.addresses import free_port
from deploy.environment import example, variables
from deploy.programs import Plan, standard
from tests.conftest import until

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("deploy/api.Dockerfile", "deploy/worker.Dockerfile")
OTHERS = {
    "CELERY_BROKER_URL",
    "FLOWER_BASIC_AUTH",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "GF_SECURITY_ADMIN_USER",
    "GF_SECURITY_ADMIN_PASSWORD",
    "GF_PATHS_PROVISIONING",
    "GF_ANALYTICS_REPORTING_ENABLED",
    "GF_ANALYTICS_CHECK_FOR_UPDATES",
}
"""Variables of programs that are not ours."""
SECRETS = (
    "REDIS_PASSWORD", "POSTGRES_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD", "MODELYARD_SECRET",
    "MODELYARD_API_KEY",
)  # fmt: skip
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
        "prometheus", "grafana",
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_runs_exists(name: str) -> None:
    command = OURS[name]["command"]
    assert command[:2] == ["python", "-m"]
    assert find_spec(command[2]) is not None, command
    dockerfile = OURS[name]["build"]["dockerfile"]
    assert ("worker" in dockerfile) == (command[2] == "workers"), "each image runs what it contains"
    assert command[2] not in ("api", "workers") or find_spec(f"{command[2]}.__main__") is not None


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
    for each in SECRETS:
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
    for each in service.get("volumes", []):
        source, _, *how = each.split(":")
        given = source.startswith("./deploy/") and how == ["ro"] and (ROOT / source).is_dir()
        assert given or source in COMPOSE["volumes"]


def test_only_the_api_is_published_to_others() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert set(published) == {"api", "flower", "prometheus", "grafana"}
    del published["api"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


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


@pytest.fixture
def compose_redis(tmp_path: Path) -> Iterator[int]:
    """A server that is started by the script of the service, on a port and in a folder of ours."""
    port = free_port()
    script = SERVICES["redis"]["command"][-1].replace("$$", "$")
    assert "dir /data\n" in script
    script = script.replace("dir /data\n", f"dir {tmp_path}\nport {port}\nbind 127.0.0.1\n")
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            ["sh", "-c", script], stdout=log, stderr=log, env={**os.environ, "REDIS_PASSWORD": "hidden"}
        )
    yield port
    server.kill()
    server.wait()


def test_redis_keeps_what_it_is_given_and_lets_nobody_rule_it(compose_redis: int) -> None:
    ours = redis.Redis(port=compose_redis, username="modelyard", password="hidden")
    until(lambda: _answers(ours))
    assert ours.info("persistence")["aof_enabled"] == 1
    assert ours.info("memory")["maxmemory_policy"] == "noeviction"
    for forbidden in (
        "CONFIG GET *",
        "FLUSHALL",
        "KEYS *",
        "ACL LIST",
        "SHUTDOWN",
        "REPLICAOF no one",
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            ours.execute_command(*forbidden.split())
    for stranger in (redis.Redis(port=compose_redis), redis.Redis(port=compose_redis, password="hidden")):
        with pytest.raises((redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)):
            stranger.ping()
        stranger.close()
    app = Celery(broker=f"redis://modelyard:hidden@127.0.0.1:{compose_redis}/0")
    with app.connection() as connection:
        queue = connection.SimpleQueue("some")
        queue.put({"any": "thing"})
        assert queue.get(timeout=20).payload == {"any": "thing"}
    ours.close()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
        return False


def test_the_gpu_file_adds_workers_to_services_that_are_there() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.gpu.yml").read_text())["services"]
    workers = {name: each for name, each in services.items() if name != "device"}
    assert "device" in services
    for number, (name, each) in enumerate(workers.items(), 1):
        assert each["extends"] == {"file": "docker-compose.yml", "service": "device"}
        assert each["profiles"] == [f"gpu-{number}"], "only where somebody has as many"
        assert each["hostname"] == each["environment"]["MODELYARD_RUNNERS__ADVERTISE_HOST"] == name
        (gpu,) = each["deploy"]["resources"]["reservations"]["devices"]
        assert gpu["device_ids"] == [str(number)]


@pytest.mark.parametrize("more", [(), ("-f", "deploy/compose.gpu.yml", "--profile", "gpu-1", "--profile", "gpu-3")])
def test_compose_itself_accepts_the_files(more: tuple[str, ...], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("docker-compose")
    if not program.exists():
        pytest.skip("NO DOCKER COMPOSE FOR THIS MACHINE ON PYPI: its files are not read by itself")
    secrets = tmp_path / "env"
    secrets.write_text("".join(f"{each}=x\n" for each in SECRETS))
    command = [program, "--env-file", secrets, "-f", "docker-compose.yml", *more, "config", "--format", "json"]
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    told = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60, env=plain)
    assert told.returncode == 0, told.stderr
    merged = json.loads(told.stdout)["services"]
    assert set(merged) == set(SERVICES) | ({"device-1", "device-3"} if more else set())
    for name, each in merged.items():
        confined = (each["read_only"], each["cap_drop"], each["security_opt"])
        assert confined == (True, ["ALL"], ["no-new-privileges:true"]), name
    without = subprocess.run(
        [program, "--env-file", "/dev/null", "-f", "docker-compose.yml", "config", "-q"],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=60, env=plain,
    )  # fmt: skip
    assert without.returncode != 0
    assert "openssl rand -hex 32" in without.stderr, "it says what to type"


def test_prometheus_asks_whom_grafana_shows() -> None:
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert [each["static_configs"][0]["targets"] for each in scraped] == [["api:8000"]]
    assert SERVICES["api"]["hostname"] == "api", "a name that the API does not know is refused"
    key = scraped[0]["authorization"]["credentials_file"]
    assert f"> {key}\n" in SERVICES["prometheus"]["entrypoint"][-1]
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert [each["url"] for each in sources["datasources"]] == ["http://prometheus:9090"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_an_image_copies_exists_and_is_sent(dockerfile: str) -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    outside = [rest for word, rest in steps(dockerfile) if word == "COPY" and not rest.startswith("--from=")]
    copied = [source for rest in outside for source in rest.split()[:-1]]
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
    assert ("ENV", "MODELYARD_DATA_DIR=/var/lib/modelyard MODELYARD_API__HOST=0.0.0.0") in steps(
        "deploy/api.Dockerfile"
    )
    assert ("CMD", '["python", "-m", "api", "--make-key"]') in steps("deploy/api.Dockerfile"), (
        "nobody is let in unasked"
    )
    extras = {name: each["build"].get("args", {}).get("EXTRAS", "") for name, each in OURS.items()}
    assert {name for name, wanted in extras.items() if "torch" in wanted} == {"device"}


def test_flower_is_the_same_under_compose_and_under_up(tmp_path: Path) -> None:
    """It keeps what it knows, forgets workers that are gone, changes nothing, and asks for a password."""
    of_place = ("--address=", "--port=", "--db=")

    def options(argv: Iterable[str]) -> set[str]:
        return {each for each in argv if each.startswith("--") and not each.startswith(of_place)}

    plan = Plan("127.0.0.1", 8000, ("cpu",), None, 5555, tmp_path / "flower.db")
    program = next(each for each in standard(plan) if each.name == "flower")
    told = options(program.argv)
    assert told == options(SERVICES["flower"]["command"])
    assert {"--persistent=True", "--read_only=True", "--purge_offline_workers=120"} <= told
    assert f"--db={tmp_path / 'flower.db'}" in program.argv
    assert "FLOWER_BASIC_AUTH" in SERVICES["flower"]["environment"]
