"""The HTTP front: `python -m api`. No worker, no torch, no source is imported here."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import pages, problems
from api.access import LET_IN
from api.audit import WHO_ASKS
from api.backlog import Backlog
from api.catalogue import enter_catalogue
from api.connections import BOUNDS, Bounds, allow_files
from api.deps import NAMED, Front
from api.description import Described
from api.doorbell import Doorbell
from api.events.hub import EventHub
from api.gateway import Gateway
from api.keyring import Keyring, Tries
from api.metrics.counters import Counters
from api.metrics.page import Page
from api.profiles import apply_at_start
from api.routes import (
    audit,
    availability,
    events,
    fit,
    health,
    jobs,
    keys,
    lifecycle,
    limits,
    locks,
    metrics,
    models,
    ollama,
    openai,
    profiles,
    registry,
    retention,
    schedules,
    storage,
    system,
    trust,
    usage,
    webhooks,
)
from api.security import Guard, check_bind
from api.strict import StrictBodies
from api.summary import Summaries
from api.usage import Meter
from shared import logs, tracing
from shared.broker import Broker, make_app
from shared.db.audit import witness
from shared.db.session import Database
from shared.jobs import Ledger
from shared.progress import Events, Leases, Workers, connect
from shared.routing import Router
from shared.settings import Settings, load

ASKED = [LET_IN, WHO_ASKS]
REFUSALS = 20
"""A minute of one key, that the audit log has."""
UNTRACED = "health/.*,metrics"
"""Asked every few seconds, and of interest to nobody."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application of one API process.

    Args:
        settings: those of the environment where None, as for a process that runs nothing else.

    Raises:
        Invalid: it would be reachable from other machines without a key.
    """
    alone = settings is None
    settings = settings or load()
    check_bind(settings)
    logs.configure(settings, "api")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        front = _open(settings)
        apply_at_start(front)
        await front.hub.start()
        await front.gateway.start()
        front.keyring.start()
        app.state.front = front
        if alone:  # what is loaded by now stays: to look through it again and again holds up one request in 100
            gc.collect()
            gc.freeze()
            allow_files(settings.api.max_connections)
        yield {BOUNDS: Bounds(settings.api)}
        await front.keyring.stop()
        await front.gateway.stop()
        await front.hub.stop()
        front.meter.close()
        front.doorbell.close()
        front.database.close()

    app = Described(
        title="Modelyard", version=version("modelyard"), lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None, openapi_url=None,  # pages has them, with what they need
        description="Gets AI models onto your machines, proves them whole, and swaps them without cutting anyone off.",
    )  # fmt: skip
    app.add_middleware(StrictBodies, settings=settings.api)
    app.add_middleware(Guard, settings=settings.api)  # outermost of ours: strangers' bodies are not even read
    if settings.api.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.api.trusted_proxies)
    problems.install(app)
    for prefix in ("/api/v1", "/api"):  # the paths that clients of older systems know have no version
        for router in (
            *fit.ROUTERS,
            profiles.router,
            lifecycle.router,
            trust.router,
            storage.router,
            locks.router,
            usage.router,
            health.router,
            availability.router,
            registry.router,
            models.router,
        ):
            app.include_router(
                router, prefix=prefix, dependencies=[LET_IN, NAMED, WHO_ASKS],
                include_in_schema=prefix == "/api/v1",
            )  # fmt: skip
    for module in (jobs, limits, retention, schedules, events, webhooks, keys, audit):
        app.include_router(module.router, prefix="/api/v1", dependencies=ASKED)
    app.include_router(openai.router, dependencies=[LET_IN])  # to ask a model changes nothing
    app.include_router(ollama.router, dependencies=ASKED)
    app.include_router(system.router, dependencies=[LET_IN])
    app.include_router(metrics.router, dependencies=[LET_IN])
    pages.install(app, [LET_IN])
    _trace(app)
    return app


def _trace(app: FastAPI) -> None:
    if tracing.configure(os.environ, "api"):
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"])


def _open(settings: Settings) -> Front:
    database = Database(settings.database, witness)
    client = connect(settings.redis)
    broker = Broker(make_app(settings, publisher=True))
    doorbell = Doorbell()
    ledger = Ledger(database, settings.jobs, broker, Events(client, settings.redis), doorbell)
    doorbell.start(ledger.announce)
    meter = Meter(database)
    meter.start()
    workers, counters = Workers(client), Counters()
    return Front(
        settings=settings,
        database=database,
        ledger=ledger,
        doorbell=doorbell,
        redis=client,
        workers=workers,
        hub=EventHub(settings, database),
        gateway=Gateway(settings, Router(ledger, load_on_use=settings.runners.load_on_use), meter.note, counters),
        metrics=Page(database, workers, Leases(client), counters),
        summaries=Summaries(database, settings.runners.context_length),
        backlog=Backlog(database, settings.api.max_waiting_jobs),
        keyring=Keyring(settings, database),
        refused=Tries(REFUSALS),
        meter=meter,
        types=enter_catalogue(database, settings),
    )
