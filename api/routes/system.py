"""Is it alive, is it ready, and if not, what is missing."""

from typing import Literal

import redis
from fastapi import APIRouter, Response

from api.deps import Front, FrontDep
from api.views import Part, Readiness
from shared.errors import ModelyardError
from shared.queues import IO

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Liveness")
async def live() -> dict[Literal["status"], Literal["alive"]]:
    """This process answers."""
    return {"status": "alive"}


@router.get("/ready", summary="Readiness", responses={503: {"model": Readiness}})
def ready(front: FrontDep, response: Response) -> Readiness:
    """Database, Redis, and a worker for each kind of place; 503 names what is missing and what to do."""
    parts = {"database": _database(front), **_redis_and_workers(front)}
    if all(part.ok for part in parts.values()):
        return Readiness(status="ready", parts=parts)
    response.status_code = 503
    response.headers["Retry-After"] = "2"
    return Readiness(status="not_ready", parts=parts)


def _database(front: Front) -> Part:
    try:
        front.database.ping()
    except ModelyardError as error:
        return Part(ok=False, detail=f"{error.message} Check MODELYARD_DATABASE_URL.")
    return Part(ok=True, detail="answers")


def _redis_and_workers(front: Front) -> dict[str, Part]:
    try:
        lanes = front.workers.lanes()
    except redis.RedisError:
        away = Part(ok=False, detail="Redis does not answer. Check MODELYARD_REDIS__URL.")
        unknown = Part(ok=False, detail="Unknown while Redis is away.")
        return {"redis": away, "ioWorker": unknown, "deviceWorker": unknown}
    device = any(lane.startswith("device.") for lane in lanes)
    return {
        "redis": Part(ok=True, detail="answers"),
        "ioWorker": _worker(IO in lanes, "python -m workers io"),
        "deviceWorker": _worker(device, "python -m workers device"),
    }


def _worker(alive: bool, command: str) -> Part:
    return Part(ok=alive, detail="alive" if alive else f"No sign of life yet; started by `{command}`.")
