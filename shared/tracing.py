"""Traces by OpenTelemetry, where the standard OTEL_* variables name a collector; elsewhere none of it is loaded here.

One trace leads from a request over the job that it asked for, whose row carries it, to the steps of whichever worker
takes that, and to what it asks a runner.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

NAMED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
OURS = "modelyard"
"""What attributes of ours begin with."""
_tracers: list["Tracer"] = []
"""The one of this process, where it traces."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Do the standard variables ask for traces?"""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    return exporter == "otlp" or (not exporter and any(environment.get(name) for name in NAMED))


def configure(environment: Mapping[str, str], process: str) -> bool:
    """Trace from now on, if that is asked for. Answers whether it is.

    Args:
        process: becomes the service's name, unless OTEL_SERVICE_NAME says another.
    """
    if not is_wanted(environment):
        return False
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        calls = importlib.import_module("opentelemetry.instrumentation.httpx")
    except ImportError as missing:
        log.warning("No traces: %s is missing. pip install 'modelyard[otel]'", missing.name)
        return False
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource

    named = environment.get("OTEL_SERVICE_NAME") or f"modelyard-{process}"
    provider = sdk.TracerProvider(resource=Resource.create({"service.name": named}))
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    calls.HTTPXClientInstrumentor().instrument()
    _tracers.append(trace.get_tracer(OURS))
    return True


def traceparent() -> str | None:
    """What this is a part of, in the words of W3C Trace Context; None where nothing is traced."""
    if not _tracers:
        return None
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


class Steps:
    """The steps of a job, one after another; of one that is not traced, nothing."""

    def __init__(self, span: "Span | None" = None) -> None:
        self._span = span
        self._step: Span | None = None

    def begin(self, name: str) -> None:
        """The step before has ended."""
        if self._span is not None:
            self._over()
            self._step = _tracers[0].start_span(name)

    def end(self, outcome: str) -> None:
        """The job is over, or goes on another time."""
        if self._span is not None:
            self._over()
            self._span.set_attribute(f"{OURS}.outcome", outcome)
            if outcome.startswith("failed"):
                from opentelemetry.trace import StatusCode

                self._span.set_status(StatusCode.ERROR, outcome)

    def _over(self) -> None:
        if self._step is not None:
            self._step.end()
            self._step = None


@contextmanager
def of_job(kind: str, parent: str | None, **attributes: Any) -> Iterator[Steps]:
    """One attempt at a job, as a part of the trace that asked for it."""
    if not _tracers:
        yield Steps()
        return
    from opentelemetry.propagate import extract

    context = extract({"traceparent": parent} if parent else {})
    told = {f"{OURS}.{name}": value for name, value in attributes.items() if value is not None}
    with _tracers[0].start_as_current_span(kind, context=context, attributes=told) as span:
        yield Steps(span)
