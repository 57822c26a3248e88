"""Readers fed by atheris, which keeps what reaches new lines: `python -m tests.fuzz.guided NAME FOLDER [options]`.

A process of its own for each run: libFuzzer ends with its process, and the lines that it counts are marked at import.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ALL = "all"
"""Each input's first byte says which reader has it."""
MARKED = [
    "workers.headers",
    "workers.store",
    "workers.sources",
    "workers.ollama",
    "api.strict",
    "shared.refs",
    "shared.lock",
]
LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=4096")
DONE = re.compile(r"Done (\d+) runs in")
COVERED = re.compile(r"cov: (\d+)")


class Guided(NamedTuple):
    """What came of it: how many inputs, how many places of the code they reached, and what went wrong, if anything."""

    runs: int
    reached: int
    fault: str | None


def guide(name: str, folder: Path, *options: str) -> Guided:
    """Feed one reader, or `ALL`, until the options of libFuzzer say that it is enough."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(folder), f"-artifact_prefix={folder}/", *options]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    runs, reached = DONE.search(done.stdout), COVERED.findall(done.stdout)
    if done.returncode or runs is None:
        return Guided(0, 0, f"{name}, exit code {done.returncode}:\n{done.stdout[-3000:]}")
    return Guided(int(runs[1]), int(reached[-1]) if reached else 0, None)


def main(name: str, folder: Path, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=MARKED, enable_loader_override=False):
        from tests.fuzz.readers import TARGETS

    targets = list(TARGETS.values()) if name == ALL else [TARGETS[name]]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        for at, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}-{at}").write_bytes(bytes([number]) + seed)

    def read(data: bytes) -> None:
        if data and data[0] < len(targets):
            targets[data[0]].read(data[1:])

    atheris.Setup([sys.argv[0], str(corpus), *LIMITS, *options], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
