"""A running service asked by schemathesis, with whatever its OpenAPI document allows and forbids."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.factories.quick import make_quick_llm
from tests.system.conftest import Yard, opened

MIB = 1024 * 1024
KEY = "k" * 40
"""One that nobody can revoke: keys are made and revoked here as well, and with the first one the door would be shut."""
CONFIG = """
max-stream-events = 1
request-timeout = 20

[parameters]
"query.wait" = 0

[phases.coverage]
unexpected-methods = ["DELETE", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]

[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "409", "413", "415", "422"]

[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 503]
"""
"""Whether good data is taken depends on what is there, so that is not asked; 503 says when to come back."""
FEW_CASES = ("--phases", "fuzzing", "--max-examples", "2", "--seed", "1", "--no-shrink")
MOST_CASES = ("--phases", "examples,coverage,fuzzing", "--max-examples", "20")


class Fuzzed(NamedTuple):
    """What came of it."""

    cases: int
    operations: int
    failures: list[str]
    """Each with its operations."""
    told: str
    """By schemathesis, for people."""


@contextmanager
def service(folder: Path) -> Iterator[Yard]:
    """An instance with a model that serves, so that there is something to ask, to change and to remove."""
    make_quick_llm(folder / "hub" / "tiny" / "acorn", 1, MIB)
    (folder / "scanned").mkdir()
    with opened(
        folder / "yard", folder / "hub", MODEL_SCAN_PATH=str(folder / "scanned"), MODELYARD_API__HOLD_SECONDS="0.5",
        MODELYARD_API_KEY=KEY,
    ) as yard:  # fmt: skip
        yard.http.headers["Authorization"] = f"Bearer {KEY}"
        yard.pull("acorn", "tiny/acorn")
        yard.done("/api/v1/models/activate", {"model_id": "acorn"})
        yield yard


def fuzz(url: str, folder: Path, *options: str) -> Fuzzed:
    """Args:
    options: of `schemathesis run`: its phases, how many examples, which operations.
    """
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"{url}/openapi.json",
        "--header", f"Authorization: Bearer {KEY}", "--continue-on-failure", "--no-color",
        "--report", "json", "--report-json-path", "report.json", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert (folder / "report.json").exists(), done.stdout
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    failures = [f"{each['title']}: {', '.join(each['operations'])}" for each in report["failures"]]
    if report["test_cases"]["errored"] or not report["complete"]:
        failures.append(f"it did not come to its end: {report['stop_reason']}")
    return Fuzzed(report["test_cases"]["generated"], report["operations"]["tested"], failures, done.stdout)
