"""`make fuzz`: the service by its OpenAPI document, then every reader of strangers' files; counts, and what went wrong.

`python -m tests.fuzz [seconds of each reader]`
"""

import sys
import tempfile
from pathlib import Path

from tests.fuzz.guided import guide
from tests.fuzz.readers import TARGETS
from tests.fuzz.service import MOST_CASES, fuzz, service

SECONDS = 60


def main(seconds: int) -> int:
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with service(place) as yard:
            fuzzed = fuzz(yard.instance.url, place, *MOST_CASES)
        print(f"service: {fuzzed.cases:,} cases over {fuzzed.operations} operations, {len(fuzzed.failures)} failures")
        if fuzzed.failures:
            faults.append(fuzzed.told)
        for name in TARGETS:
            guided = guide(name, place / name.replace(" ", "-"), f"-max_total_time={seconds}")
            print(f"{name}: {guided.runs:,} inputs reached {guided.reached} places, {guided.fault or 'no failure'}")
            faults += [guided.fault] if guided.fault else []
    print(*faults, sep="\n\n")
    return len(faults)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS))
