"""What is on its way in all worker processes, in one hash of Redis."""

import json
import math
from collections.abc import Mapping
from typing import Any

import redis

from shared import queues
from shared.states import Priority
from workers.governor.shares import Flow

FORGET_SECONDS = 3
"""A download that nobody has told of for so long has ended, or its worker has."""

_EXCHANGE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for place = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[place], now .. ' ' .. ARGV[place + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[1] * 10)
local known, alive = redis.call('HGETALL', KEYS[1]), {}
for place = 1, #known, 2 do
  local at, told = string.match(known[place + 1], '^(%S+) (.*)$')
  if now - at > tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[1], known[place])
  else
    alive[#alive + 1], alive[#alive + 2] = known[place], told
  end
end
return alive
"""


class Flows:
    """Tells of the own downloads and hears of all; one round trip."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._exchange = client.register_script(_EXCHANGE)

    def exchange(self, mine: Mapping[str, Flow]) -> dict[str, Flow]:
        """Every download of every worker, by job.

        Raises:
            RedisError: Redis does not answer.
        """
        told = [part for job_id, flow in mine.items() for part in (job_id, _written(flow))]
        alive: list[Any] = self._exchange(keys=[queues.FLOWS_KEY], args=[FORGET_SECONDS, *told])
        told_of = {job_id: _read(text) for job_id, text in zip(alive[::2], alive[1::2], strict=True)}
        return {job_id: flow for job_id, flow in told_of.items() if flow is not None}

    def forget(self, job_id: str) -> None:
        """It has ended; what it used is the others' at once."""
        self._client.hdel(queues.FLOWS_KEY, job_id)


def _written(flow: Flow) -> str:
    return json.dumps([flow.source, int(flow.priority), None if flow.demand == math.inf else flow.demand])


def _read(text: str) -> Flow | None:
    """None: written by another version, whose downloads go uncounted until it is gone."""
    try:
        source, priority, demand = json.loads(text)
        return Flow(str(source), Priority(priority), math.inf if demand is None else float(demand))
    except (ValueError, TypeError):
        return None
