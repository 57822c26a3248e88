"""Whether a Redis can carry our jobs: asked by readiness, and by `modelyard doctor`."""

from typing import Any, NamedTuple

import redis

OLDEST = (6, 2)
"""What Celery's transport needs."""
ACL = "ACL SETUSER modelyard on >PASSWORD ~* &* +@all -@admin -@dangerous +info"
"""A user of few rights that everything of ours works with."""
URL = "MODELYARD_REDIS__URL"


class Fitness(NamedTuple):
    ok: bool
    detail: str
    fix: str = ""


def examine(client: "redis.Redis") -> Fitness:
    """One look; never raises."""
    try:
        return _judge(client.info())
    except redis.exceptions.NoPermissionError:
        return Fitness(True, f"answers; whether it drops jobs when it is full cannot be seen. {ACL}")
    except redis.AuthenticationError:
        return Fitness(
            False, "Redis refuses our password.", f"Put the right one into {URL}: redis://:PASSWORD@HOST:PORT/0."
        )
    except redis.BusyLoadingError:
        return Fitness(False, "Redis still loads its data.", "Wait; it goes on by itself.")
    except redis.RedisError:
        return Fitness(False, "Redis does not answer.", f"Check that it runs, and {URL}.")


def keeps_a_log(client: "redis.Redis") -> bool | None:
    """Does it write down what it is told, so that a restart finds it? None where it does not say."""
    try:
        told = client.info("persistence").get("aof_enabled")
    except redis.RedisError:
        return None
    return None if told is None else bool(told)


def _judge(info: dict[str, Any]) -> Fitness:
    version = str(info.get("redis_version", ""))
    if version and _numbers(version) < OLDEST:
        return Fitness(False, f"Redis {version} is too old.", "Install Redis ≥ 6.2 or Valkey.")
    if info.get("role") == "slave" and info.get("slave_read_only"):
        return Fitness(False, "Redis is a read-only replica.", f"Name the primary in {URL}, or type REPLICAOF NO ONE.")
    limit, policy = info.get("maxmemory", 0), info.get("maxmemory_policy", "noeviction")
    if limit and policy != "noeviction":
        detail = f"Redis may drop queued jobs: its maxmemory-policy is {policy}."
        return Fitness(False, detail, "CONFIG SET maxmemory-policy noeviction")
    if limit and info.get("used_memory", 0) >= limit:
        return Fitness(False, f"Redis is full: maxmemory is {limit:,} bytes.", "Raise it: CONFIG SET maxmemory BYTES")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Fitness(False, "Redis cannot write to its disk.", "Free some space on it.")
    return Fitness(True, "answers")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
