import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from deploy.local import Instance
from deploy.programs import PROJECT
from shared.errors import Conflict, Invalid, Unavailable
from shared.settings import Settings
from tests.deploy.conftest import family, left, settings_in, stand_in, stand_ins, until


def pids(instance: Instance) -> dict[str, int]:
    return {each.name: each.pid for each in instance.processes() if each.state == "RUNNING"}


def secrets_of(instance: Instance) -> list[str]:
    return [path.read_text().strip() for path in instance.folder.secrets.iterdir()]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MODELYARD_REDIS__URL", raising=False)
        settings = settings_in(tmp_path_factory.mktemp("instance") / "100% data")
        with Instance(settings, programs=stand_ins) as instance:
            instance.wait_ready(30)
            yield instance


@pytest.fixture
def broker(instance: Instance) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(instance.redis_url, decode_responses=True) as broker:
        yield broker


def test_redis_loses_nothing_and_drops_nothing(broker: redis.Redis) -> None:
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
    assert {name: broker.config_get(name)[name] for name in wanted} == wanted


def test_redis_wants_its_password(instance: Instance) -> None:
    address, _, _ = instance.redis_url.rpartition("@")[2].partition("/")
    with (
        redis.Redis.from_url(f"redis://{address}/0") as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_a_killed_redis_comes_back_with_what_it_held(instance: Instance, broker: redis.Redis) -> None:
    until(lambda: "redis" in pids(instance))
    broker.set("held", "yes")
    killed = pids(instance)["redis"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: pids(instance).get("redis", killed) != killed)
    with redis.Redis.from_url(instance.redis_url, decode_responses=True) as again:
        assert again.get("held") == "yes"


def test_no_secret_is_on_a_command_line_or_in_a_log(instance: Instance) -> None:
    supervisor = pids(instance)["supervisord"]
    lines = [" ".join(each.cmdline()) for each in family(supervisor)]
    texts = lines + [path.read_text() for path in instance.folder.logs.iterdir()]
    texts.append((instance.folder.run / "supervisord.conf").read_text())
    secrets = secrets_of(instance)
    assert len(secrets) == 3
    assert not [text for text in texts for secret in secrets if secret in text]


def test_logs_are_for_the_owner_alone(instance: Instance) -> None:
    logs = list(instance.folder.logs.iterdir())
    assert {"redis.log", "api.log", "supervisord.log"} == {path.name for path in logs}
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs} == {0o600}


def test_children_are_given_their_secrets_by_environment(instance: Instance) -> None:
    given = psutil.Process(pids(instance)["supervisord"]).environ()
    assert given["MODELYARD_REDIS__URL"] == given["CELERY_BROKER_URL"] == instance.redis_url
    assert given["FLOWER_BASIC_AUTH"] == f"modelyard:{instance.flower_password}"
    assert given["MODELYARD_SECRET"] in secrets_of(instance)
    assert given["MODELYARD_DATA_DIR"] == str(instance.folder.root)


def test_a_second_instance_on_the_folder_is_refused(instance: Instance) -> None:
    with pytest.raises(Conflict) as refused:
        Instance(settings_in(instance.folder.root), programs=stand_ins).start()
    assert refused.value.code == "already_running"
    assert str(instance.folder.root) in refused.value.hint
    assert instance.is_ready()


def test_a_taken_port_is_refused_and_leaves_the_folder_free(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        taken = settings.model_copy(update={"api": settings.api.model_copy(update={"port": port})})
        with pytest.raises(Conflict) as refused:
            Instance(taken, programs=stand_ins).start()
    assert refused.value.code == "port_taken"
    free = Instance(settings)
    os.close(free.folder.lock())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "models.example"])
def test_without_a_key_only_loopback_is_bound(tmp_path: Path, host: str, settings: Settings) -> None:
    open_to_all = settings_in(tmp_path / "data", host=host)
    with pytest.raises(Invalid) as refused:
        Instance(open_to_all, programs=stand_ins).start()
    assert refused.value.code == "key_required"
    told = f"{refused.value.message}\n{refused.value.hint}"
    assert len(told.splitlines()) == 5
    for fix in (
        f'export MODELYARD_API_KEY="$(modelyard key)"; modelyard up --host {host} --port 0\n',
        "\n  modelyard up --port 0\n",
        "--insecure-no-auth-i-understand",
    ):  # fmt: skip
        assert fix in told
    assert not (tmp_path / "data").exists()
    assert settings.api_key is None


@pytest.mark.fault("A-108", "A-109")
def test_nothing_opens_flower_to_others_than_its_own_user(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a pattern of addresses that is not anchored, or an API for everybody."""
    for name in (
        "FLOWER_AUTH",
        "FLOWER_AUTH_PROVIDER",
        "FLOWER_OAUTH2_KEY",
        "FLOWER_UNAUTHENTICATED_API",
        "FLOWER_ADDRESS",
    ):
        monkeypatch.setenv(name, "x")
    instance = Instance(settings_in(tmp_path / "data"))
    instance.folder.create()
    password = instance.folder.secret("flower")
    instance.flower_password = password
    told = {name: value for name, value in instance._environment(1, 2).items() if name.startswith("FLOWER_")}
    assert told == {"FLOWER_BASIC_AUTH": f"modelyard:{password}"}
    assert len(password) >= 32


def test_an_operators_redis_is_used_as_it_is(tmp_path: Path, instance: Instance) -> None:
    with Instance(settings_in(tmp_path, redis=instance.redis_url), flower=False, programs=stand_ins) as second:
        second.wait_ready(30)
        assert second.redis_url == instance.redis_url
        assert set(pids(second)) <= {"supervisord", "api"}
        assert second.flower_url is None


def test_what_keeps_it_from_being_ready_is_named(settings: Settings) -> None:
    broken = Instance(settings, flower=False, programs=lambda _: [stand_in("beat", "broken")])
    with broken, pytest.raises(Unavailable) as failed:
        broken.wait_ready(3)
    assert failed.value.code == "not_ready"
    assert "beat keeps ending" in failed.value.message or "beat is not up yet" in failed.value.message
    assert "the frobnicator is missing" in failed.value.message
    assert failed.value.details["program"] == "beat"
    assert "beat.log" in failed.value.hint


def test_stop_leaves_nobody_even_of_those_that_will_not_go(settings: Settings) -> None:
    instance = Instance(
        settings,
        flower=False,
        programs=lambda plan: [*stand_ins(plan), stand_in("stubborn", "stubborn", stop_seconds=60)],
    )
    with instance:
        instance.wait_ready(30)
        until(lambda: "stubborn" in pids(instance) and len(family(pids(instance)["stubborn"])) == 2)
        everybody = family(pids(instance)["supervisord"])
        assert len(everybody) == 5
        began = time.monotonic()
        instance.stop()
        took = time.monotonic() - began
    assert took < 15
    assert not left(everybody)
    assert instance.processes() == []
    os.close(instance.folder.lock())


def test_when_the_supervisor_is_killed_nobody_stays(settings: Settings) -> None:
    with Instance(settings, flower=False, programs=stand_ins) as instance:
        instance.wait_ready(30)
        everybody = family(pids(instance)["supervisord"])
        assert len(everybody) == 3
        os.kill(everybody[0].pid, signal.SIGKILL)
        until(lambda: not left(everybody))
        assert not instance.alive()
        with pytest.raises(Unavailable) as failed:
            instance.wait_ready(30)
        assert failed.value.details["program"] == "supervisord"


@pytest.fixture
def foreground(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """`modelyard up` in a process of its own, ready."""
    argv = [sys.executable, "-m", "tests.deploy.run_up", str(settings.data_dir)]
    with subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()


def announced(foreground: subprocess.Popen[str]) -> list[psutil.Process]:
    """Waits until it is ready; all its processes."""
    assert foreground.stdout is not None
    line = foreground.stdout.readline()
    assert line.strip().isdigit(), foreground.stderr and foreground.stderr.read()
    return family(int(line))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(foreground: subprocess.Popen[str], number: signal.Signals) -> None:
    everybody = announced(foreground)
    foreground.send_signal(number)
    foreground.send_signal(number)
    assert foreground.wait(15) == 0
    assert not left(everybody)


def test_killed_outright_it_leaves_nobody_and_can_start_at_once(
    foreground: subprocess.Popen[str], settings: Settings
) -> None:
    everybody = announced(foreground)
    port = (settings.data_dir / "redis/port").read_text()
    foreground.kill()
    foreground.wait()
    with Instance(settings, flower=False, programs=stand_ins) as again:
        again.wait_ready(30)
        assert not left(everybody)
        assert f":{port.strip()}/" in again.redis_url


def test_without_its_supervisor_it_ends_and_says_where_to_look(foreground: subprocess.Popen[str]) -> None:
    everybody = announced(foreground)
    everybody[0].kill()
    assert foreground.wait(15) == 1
    assert foreground.stderr is not None
    assert "supervisord.log" in foreground.stderr.read()
    assert not left(everybody)
