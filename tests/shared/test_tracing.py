"""Traces are off, and cost nothing, where nothing asks for them."""

import subprocess
import sys

import pytest

from shared.tracing import Steps, is_wanted, of_job, traceparent

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False), (HERE, True), ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True), ({**HERE, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**HERE, "OTEL_SDK_DISABLED": "true"}, False), ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)  # fmt: skip
def test_the_standard_variables_say_whether(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_without_them_nothing_is_noted() -> None:
    assert traceparent() is None
    with of_job("model.verify", None, job_id="j") as steps:
        assert isinstance(steps, Steps)
        steps.begin("verifying")
        steps.end("succeeded")


def test_without_them_nothing_of_it_is_imported() -> None:
    code = "import sys, workers.job, api.app; api.app.create_app(); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = told.stdout.split()  # the client of Redis has a part of it where it is installed
    assert not [name for name in loaded if name.startswith(("opentelemetry.exporter", "opentelemetry.instrumentation"))]
