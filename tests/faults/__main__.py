"""`make chaos`: the whole matrix on both databases side by side, then the storms, then the page for people."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import page, results
from tests.faults.matrix import DATABASES

HERE = Path(__file__).parent


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        noted = Path(folder) / "results"
        noted.touch()
        codes = [*_side_by_side("test_matrix.py", noted), *_side_by_side("test_storms.py", noted)]
        page.write(results.read(noted), (time.monotonic() - began) / 60)
    sys.stdout.write(f"written: {page.PAGE}\n")
    return max(codes)


def _side_by_side(file: str, noted: Path) -> list[int]:
    """One run of pytest per database; exit codes."""
    environment = {**os.environ, "MODELYARD_CHAOS_RESULTS": str(noted)}
    pytest = [sys.executable, "-m", "pytest", str(HERE / file), "-q"]
    runs = [subprocess.Popen([*pytest, "-k", database], env=environment) for database in DATABASES]
    return [run.wait() for run in runs]


if __name__ == "__main__":
    sys.exit(main())
