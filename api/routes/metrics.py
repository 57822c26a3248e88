"""What Prometheus scrapes."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from api.deps import FrontDep, run_sync
from api.metrics.page import TYPE

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(front: FrontDep) -> Response:
    """In its text format, collected while you wait; docs/metrics.md has every name. Needs the key, where one is set."""
    text = await run_sync(front.metrics.text, front.hub, front.gateway, front.settings.api.max_streams)
    return Response(text, media_type=TYPE)
