import io
import shlex
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from deploy.data_folder import DataFolder
from deploy.programs import Plan, Program, standard
from deploy.redis_server import prepare
from deploy.supervisor import configuration
from shared.errors import Invalid


def read(text: str) -> dict[str, Any]:
    """The programs as supervisord itself understands them, by name; their group's priority beside them."""
    options = ServerOptions()
    section = options.read_config(io.StringIO(text))
    return {
        program.name: (group.priority, program)
        for group in section.process_group_configs
        for program in group.process_configs
    }


def plan(folder: DataFolder, *, redis: bool = True, flower: bool = True) -> Plan:
    embedded = prepare(folder.redis, "the-password", Path("/usr/bin/redis-server")) if redis else None
    port = 5555 if flower else None
    return Plan("127.0.0.1", 8000, ("gpu-1", "gpu-2"), embedded, port, folder.flower / "flower.db")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "100% mine's")
    folder.create()
    return folder


def test_every_process_is_there_leashed_and_restarted(folder: DataFolder) -> None:
    programs = standard(plan(folder))
    understood = read(configuration(programs, folder, Path("/tmp/rpc")))
    assert set(understood) == {
        "redis", "api", "io", "io-urgent", "device-gpu-1", "device-gpu-2", "beat", "flower",
    }  # fmt: skip
    for program in programs:
        config = understood[program.name][1]
        argv = shlex.split(config.command)
        assert argv[-len(program.argv) :] == list(program.argv)
        assert argv[3].endswith("leash.py")
        assert argv[4] == "0"
        assert config.stopasgroup
        assert config.killasgroup
        assert config.startretries > 10**6
        assert config.stdout_logfile == str(folder.logs / f"{program.name}.log")
        assert (config.stdout_logfile_maxbytes, config.stdout_logfile_backups) == (10 * 1024**2, 3)


def test_what_the_others_need_stops_last_and_all_is_down_in_time(folder: DataFolder) -> None:
    understood = read(configuration(standard(plan(folder)), folder, Path("/tmp/rpc")))
    priorities = {name: priority for name, (priority, _) in understood.items()}
    assert priorities.pop("redis") < min(priorities.values())
    assert len(set(priorities.values())) == 1, "stops side by side"
    slowest = max(config.stopwaitsecs for name, (_, config) in understood.items() if name != "redis")
    assert slowest + understood["redis"][1].stopwaitsecs < 13


def test_no_secret_is_in_it(folder: DataFolder) -> None:
    assert "the-password" not in configuration(standard(plan(folder)), folder, Path("/tmp/rpc"))


def test_only_what_is_wanted_runs(folder: DataFolder) -> None:
    names = {each.name for each in standard(plan(folder, redis=False, flower=False))}
    assert not names & {"redis", "flower"}


@pytest.mark.parametrize("name", ["my #1", "a ;b", "a\nb"])
def test_a_path_that_would_be_read_as_a_comment_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refused:
        configuration([Program("p", ("true",))], DataFolder(tmp_path / name), Path("/tmp/rpc"))
    assert refused.value.code == "data_dir_unusable"
