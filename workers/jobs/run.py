"""A model is asked once, as a job; its answer is the job's result.

It goes the way of a request: who answers is found the same way, and held so that no swap cuts it.
"""

import asyncio
import base64
import json
import time
from typing import Any

import httpx

from shared.asks import ASKS
from shared.contracts import Run
from shared.db import usage
from shared.db.usage import Use
from shared.errors import Exhausted, Failed, Invalid, Snooze, Unavailable
from shared.keys import installation_secret
from shared.routing import ANSWER_SECONDS, CONNECT_SECONDS, Route, Router, trusted
from shared.states import Output
from workers.job import Work, job

TIMEOUT = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
LOOK_SECONDS = 0.2
"""Between two looks whether the job is to go on."""
AGAIN_SECONDS = 1.0
"""Between two looks for a model that is on its way into memory."""
MOST_BYTES = 8 * 1024**2
"""Of an answer that is kept in the ledger."""
SHOWN = 300
FILES = {Output.SOUND: "wav", Output.VIDEO: "mp4"}
"""What is answered as the bytes of a file."""


@job(Run)
def run(args: Run, work: Work) -> dict[str, Any]:
    """Find who answers, have it loaded where it is not in memory, ask, and keep what it says."""
    services = work.services
    work.report("finding who answers")
    router = Router(services.ledger, load_on_use=services.settings.runners.load_on_use)
    route = router.find(args.model_id, ASKS[args.path].output)
    if route is None:
        raise _not_yet(args.model_id)
    with services.leases.held(route.residency_id) as held:
        if not held:
            raise _not_yet(args.model_id)
        work.report("asking")
        began = time.monotonic()
        status, content = asyncio.run(_asked(args, route, work))
        seconds = time.monotonic() - began
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        raise _not_yet(args.model_id)
    if not httpx.codes.is_client_error(status):
        with services.database.session() as session:
            usage.record(session, [Use(route.model_id, seconds, failed=httpx.codes.is_server_error(status))])
    return {
        "modelId": args.model_id,
        "servedBy": {"modelId": route.model_id, "contextLength": route.context_length, **route.lowered},
        "fallback": route.fallback_for is not None, "seconds": round(seconds, 3),
        "answer": _read(args.path, status, content),
    }  # fmt: skip


def _not_yet(model_id: str) -> Snooze:
    return Snooze(AGAIN_SECONDS, f"{model_id!r} is on its way into memory.", "model_loading")


async def _asked(args: Run, route: Route, work: Work) -> tuple[int, bytes]:
    """Status and body of the answer. A job that is cancelled meanwhile hangs up, and the runner ends the work."""
    asking = asyncio.create_task(_ask(args, route, work))
    try:
        while not (await asyncio.wait({asking}, timeout=LOOK_SECONDS))[0]:
            work.checkpoint()
        return asking.result()
    except httpx.ReadTimeout as error:  # not asked again: it would take as long
        raise Failed(
            "answer_timeout",
            f"{route.model_id!r} has not answered within {ANSWER_SECONDS:.0f} s.",
            "Ask for less at a time.",
        ) from error
    except httpx.TransportError as error:
        raise Unavailable(
            "runner_away", f"The server of {route.model_id!r} gave no answer ({type(error).__name__}).",
            "It is asked again by itself.",
        ) from error  # fmt: skip
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _ask(args: Run, route: Route, work: Work) -> tuple[int, bytes]:
    settings = work.services.settings
    headers = route.headers(installation_secret(settings))
    body = ASKS[args.path].passed_on(args.asked()) | {"model": route.name}
    content = bytearray()
    async with (
        httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, verify=trusted(settings), headers=headers) as client,
        client.stream("POST", f"{route.url}/v1/{args.path}", json=body) as answer,
    ):
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > MOST_BYTES:
                raise Exhausted(
                    "answer_too_large", f"The answer has more than {MOST_BYTES // 1024**2} MiB.",
                    "Ask for less at a time; over the gateway, as far as it has an endpoint for it, nothing is kept.",
                )  # fmt: skip
        return answer.status_code, bytes(content)


def _read(path: str, status: int, content: bytes) -> dict[str, Any]:
    """The answer, where it is one; a file as base64.

    Raises:
        Invalid: the model does not take the request.
        Failed: its server failed at it, or its answer cannot be read.
    """
    shown = content[:SHOWN].decode(errors="replace")
    if httpx.codes.is_client_error(status):
        raise Invalid("request_refused", f"The model does not take this request: {shown}", "Change the request.")
    hint = "The log of its runner has its last words; `modelyard retry` asks it again."
    if status != httpx.codes.OK:
        raise Failed("model_failed", f"The model's server failed with status {status}: {shown}", hint)
    if (written := FILES.get(ASKS[path].output)) is not None:
        return {"data": [{"format": written, "b64_json": base64.b64encode(content).decode("ascii")}]}
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Failed("model_failed", f"The model's answer is not a JSON object: {shown}", hint)
    return answer
