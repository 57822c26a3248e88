"""What a release is made of: `python -m deploy.release FILE` writes every package with its version and digest.

As pip itself resolves the extras of this machine's kind within constraints.txt. `pip install --require-hashes -r FILE`
installs exactly these files or nothing, from whichever index pip is told of; the list names none.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
EXTRAS = "api,worker,torch"


def resolved() -> list[dict[str, Any]]:
    """Everything that pip would install into an empty environment, as its report tells."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = (
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--report", str(report), "--constraint", str(PROJECT / "constraints.txt"), f"{PROJECT}[{EXTRAS}]",
        )  # fmt: skip
        subprocess.run(command, check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return found


def lines(packages: list[dict[str, Any]]) -> list[str]:
    """A line for each package but this one.

    Raises:
        ValueError: the index told no digest of a file.
    """
    found = []
    for package in packages:
        about, source = package["metadata"], package["download_info"]
        if "dir_info" in source:  # this project itself
            continue
        digest = source.get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{about['name']} {about['version']} has no sha256")
        found.append(f"{about['name'].lower()}=={about['version']} --hash=sha256:{digest}")
    return sorted(found)


def main(path: Path) -> int:
    try:
        found = lines(resolved())
    except (subprocess.CalledProcessError, ValueError) as error:
        sys.stderr.write(f"Nothing was written: {error}\n")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(found) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} packages, each with its sha256: {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
