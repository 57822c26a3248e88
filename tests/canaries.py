"""Secrets that are easy to find, and a look at everything an instance says, keeps and runs: are they anywhere.

`pytest --canaries` (`make canary`) sets those of `EVERYWHERE` for every instance of a test, and looks before each ends.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from deploy.local import FLOWER_USER, Instance

EVERYWHERE = {
    "HF_TOKEN": f"hf_CANARY{secrets.token_hex(12)}", "MODELYARD_SECRET": f"CANARY-secret-{secrets.token_hex(12)}"
}  # fmt: skip
"""What tests of anything else need not know of; a key would have to be sent along."""
wanted = False
"""By `--canaries`."""
RUNNER = "workers.runtimes"
"""In the command line of a process that has a model in memory, and no secret of ours."""
OWN_PLACES = ("secrets/", "redis/redis.conf")
"""Where secrets are kept, for their owner alone."""


def leaks(
    instance: Instance, canaries: Mapping[str, str], *, key: str | None = None, said: Iterable[str] = ()
) -> list[str]:
    """Places that have one of the canaries, or a secret that the instance made for itself.

    Args:
        key: of the API, to be shown its metrics.
        said: answers that were kept on the way.
    """
    own = {f"secrets/{path.name}": path.read_text() for path in instance.folder.secrets.iterdir()}
    hidden = {**canaries, **{name: text.strip() for name, text in own.items()}}
    assert all(len(value) >= 16 for value in hidden.values()), "too short to be told from chance"
    places = [
        *_files(instance.folder.root), *_database(instance.folder.root), *_in_redis(instance.redis_url),
        *_pages(instance, key), *_processes(instance), *(("an answer", text) for text in said),
    ]  # fmt: skip
    assert len(places) > 10, "nothing was looked at"
    return sorted({f"{name} in {place}" for place, text in places for name, value in hidden.items() if value in text})


def _files(root: Path) -> Iterator[tuple[str, str]]:
    """All but what is a model's."""
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith(("store/", *OWN_PLACES)):
            with suppress(FileNotFoundError):
                yield name, path.read_bytes().decode(errors="replace")


def _database(root: Path) -> Iterator[tuple[str, str]]:
    """As text: in the file, a value may be spread over pages."""
    with closing(sqlite3.connect(f"file:{root / 'modelyard.db'}?mode=ro", uri=True)) as connection:
        for line in connection.iterdump():
            yield f"the database: {line[:60]}", line


def _in_redis(url: str) -> Iterator[tuple[str, str]]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for name in client.scan_iter("*"):
            yield f"Redis: {name}", f"{name} {_value(client, str(name))}"


def _value(client: Any, name: str) -> Any:
    reads = {
        "string": lambda: client.get(name), "hash": lambda: client.hgetall(name), "set": lambda: client.smembers(name),
        "list": lambda: client.lrange(name, 0, -1), "zset": lambda: client.zrange(name, 0, -1),
        "stream": lambda: client.xrange(name),
    }  # fmt: skip
    return reads.get(client.type(name), str)()


def _pages(instance: Instance, key: str | None) -> Iterator[tuple[str, str]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(trust_env=False, timeout=60) as client:
        for path in ("/metrics", "/openapi.json", "/health/ready", "/api/v1/audit", "/api/v1/jobs", "/api/v1/webhooks"):
            yield path, client.get(f"{instance.url}{path}", headers=headers).text
        if instance.flower_url is not None:
            auth = (FLOWER_USER, instance.flower_password)
            for path in ("/workers?json=1", "/tasks", "/api/tasks", "/api/workers?refresh=1", "/broker"):
                yield f"Flower {path}", client.get(f"{instance.flower_url}{path}", auth=auth).text


def _processes(instance: Instance) -> Iterator[tuple[str, str]]:
    """Command lines, which everybody on the machine may read; of runners what they were given, too."""
    family = [psutil.Process(each.pid) for each in instance.processes() if each.pid]
    for process in [*family, *(child for one in family for child in one.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            yield f"the command line of {process.name()}", line
            if RUNNER in line:
                yield "the environment of a runner", str(process.environ())
