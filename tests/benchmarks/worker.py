"""`python -m tests.benchmarks.worker io`: the real worker, whose bodies do nothing but note that they began."""

import sys
from typing import Any

from tests.benchmarks.starts import note
from workers.__main__ import main
from workers.app import ALL_BODIES
from workers.job import BODIES, Work

assert ALL_BODIES, "importing them registers the real bodies, which are replaced below"


def nothing(_: Any, work: Work) -> dict[str, Any]:
    note(work.job_id)
    return {}


for kind in BODIES:
    BODIES[kind] = nothing

if __name__ == "__main__":
    sys.exit(main())
