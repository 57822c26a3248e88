"""What a run of the matrix and of the storms came to, one line of JSON each, for the page that people read."""

import json
import os
from pathlib import Path
from typing import Any

FILE = os.environ.get("MODELYARD_CHAOS_RESULTS")
"""Set by `make chaos`; where it is, the whole matrix runs and not its short slice."""


def note(what: str, **facts: Any) -> None:
    """Append a line, where somebody wants one."""
    if FILE is not None:
        with Path(FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **facts}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
