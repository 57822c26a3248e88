"""Three downloads of real workers under one limit: bytes are counted where they are sent."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.contracts import Download
from shared.db import jobs, limits
from shared.db.tables import Job, Model
from shared.jobs import Ledger
from shared.limits import Limit
from shared.states import Priority
from tests.conftest import until
from tests.fakes.origin import Origin

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

MB = 10**6
SIZE = 600 * MB
SECONDS = 5.0


@contextmanager
def _worker(origins: list[Origin], folder: Path, name: str) -> Iterator[None]:
    environment = {
        **os.environ, "MODELYARD_JOBS__IO_SLOTS": "2", "MODELYARD_JOBS__RESCUE_SECONDS": "1",
        "MODELYARD_STORE__RESERVE_BYTES": "0", "MODELYARD_NODE": name,
        "MODELYARD_SOURCES__ALLOWED_HOSTS": ",".join(f"127.0.0.1:{origin.port}" for origin in origins),
    }  # fmt: skip
    with (folder / f"{name}.log").open("wb") as log:
        worker = subprocess.Popen(
            (sys.executable, "-m", "workers", "io"), env=environment, stdout=log, stderr=log,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(30)
