"""`make audit`: are flaws known of what a release is made of. Where nobody could be asked, it says so.

`python -m deploy.audit PIP_AUDIT FILE`: the program, and a list that `deploy.release` wrote.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FLAWS, UNKNOWN = 1, 2
"""Exit codes."""


def told(program: str, path: Path) -> list[dict[str, Any]] | str:
    """Each package with its flaws, or why nobody knows; what the program said where it could not ask at all."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        # `+cpu` is a build of the same code, and no database has it under that name
        pins.write_text("\n".join(line.split()[0].partition("+")[0] for line in path.read_text().splitlines()))
        command = (program, "--requirement", str(pins), "--no-deps", "--disable-pip", "--format", "json")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return done.stderr.strip()[-500:]
    return found


def main(program: str, path: Path) -> int:
    packages = told(program, path)
    if isinstance(packages, str):
        sys.stderr.write(f"NOT AUDITED: the database of known flaws could not be asked.\n{packages}\n")
        return UNKNOWN
    flaws = [(each, flaw) for each in packages for flaw in each.get("vulns", [])]
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    for each, flaw in flaws:
        fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{each['name']} {each['version']}: {flaw['id']}, mended in {fixed}\n")
    sys.stdout.write(f"{len(packages) - len(unknown)} packages looked up, {len(flaws)} known flaws\n")
    if unknown:
        sys.stderr.write(f"NOT AUDITED, the database does not have them or was not reached: {', '.join(unknown)}\n")
    return FLAWS if flaws else UNKNOWN if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
