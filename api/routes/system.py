"""Is it alive, is it ready, and if not, what is missing."""

import asyncio
from collections.abc import Callable
from typing import Literal

import redis
from anyio import move_on_after, to_thread
from fastapi import APIRouter, Request, Response

from api.deps import Front, FrontDep
from api.fitness import examine
from api.views import Part, Readiness
from shared.errors import ModelyardError
from shared.queues import IO

Parts = dict[str, Part]
LOOK_SECONDS = 1.8
CHECK_DATABASE = "Check MODELYARD_DATABASE_URL."

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Liveness")
async def live() -> dict[Literal["status"], Literal["alive"]]:
    """This process answers."""
    return {"status": "alive"}


@router.get("/ready", summary="Readiness", responses={503: {"model": Readiness}})
async def ready(front: FrontDep, request: Request, response: Response) -> Readiness:
    """Database, Redis, and a worker for each kind of place; 503 names what is missing, and tells those who may
    come in what to do.
    """
    looks = await asyncio.gather(
        _in_time(_database, front, {"database": Part(ok=False, detail=f"Does not answer. {CHECK_DATABASE}")}),
        _in_time(_redis_and_workers, front, _without_redis("Redis does not answer.", "Check MODELYARD_REDIS__URL.")),
    )
    parts = {name: part for look in looks for name, part in look.items()}
    if front.profile is not None:
        parts["profile"] = front.profile
    if not front.keyring.knows(request):
        parts = {name: Part(ok=part.ok, detail="") for name, part in parts.items()}
    if all(part.ok for part in parts.values()):
        return Readiness(status="ready", parts=parts)
    response.status_code = 503
    response.headers["Retry-After"] = "2"
    return Readiness(status="not_ready", parts=parts)


async def _in_time(look: Callable[[Front], Parts], front: Front, too_late: Parts) -> Parts:
    """Whoever asks for readiness has little time, and what is stuck is not ready."""
    with move_on_after(LOOK_SECONDS):
        return await to_thread.run_sync(look, front, abandon_on_cancel=True)
    return too_late


def _database(front: Front) -> Parts:
    try:
        front.database.ping()
    except ModelyardError as error:
        return {"database": Part(ok=False, detail=f"{error.message} {CHECK_DATABASE}")}
    return {"database": Part(ok=True, detail="answers")}


def _redis_and_workers(front: Front) -> Parts:
    fitness = examine(front.redis)
    try:
        lanes = front.workers.lanes()
    except redis.RedisError:
        return _without_redis(fitness.detail, fitness.fix)
    device = any(lane.startswith("device.") for lane in lanes)
    return {
        "redis": Part(ok=fitness.ok, detail=f"{fitness.detail} {fitness.fix}".strip()),
        "ioWorker": _worker(IO in lanes, "python -m workers io"),
        "deviceWorker": _worker(device, "python -m workers device"),
    }


def _without_redis(detail: str, fix: str) -> Parts:
    unknown = Part(ok=False, detail="Unknown while Redis is away.")
    return {"redis": Part(ok=False, detail=f"{detail} {fix}"), "ioWorker": unknown, "deviceWorker": unknown}


def _worker(alive: bool, command: str) -> Part:
    return Part(ok=alive, detail="alive" if alive else f"No sign of life yet; started by `{command}`.")
