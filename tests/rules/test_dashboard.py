"""The page stays small, its own, and readable; its libraries are what their authors published."""

import hashlib
import re
from pathlib import Path

DASHBOARD = Path(__file__).resolve().parents[2] / "api" / "dashboard"
LONGEST_FILE = 300
OWN = [
    path for path in DASHBOARD.rglob("*.*") if path.suffix in (".js", ".css", ".html") and "vendor" not in path.parts
]


def test_libraries_are_as_the_table_says() -> None:
    """Mend with the steps of `api/dashboard/vendor/README.md`."""
    table = (DASHBOARD / "vendor" / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| (\S+\.js) .* ([0-9a-f]{64}) \|$", table, re.MULTILINE))
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in DASHBOARD.glob("vendor/*.js")} == told


def test_its_files_are_short() -> None:
    assert [path.name for path in OWN if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE] == []


def test_nothing_of_it_is_elsewhere_or_becomes_markup() -> None:
    """No address but its own service's, nothing that turns a text into elements or code."""
    pattern = re.compile(
        r"innerHTML|insertAdjacent|document\.write|\beval\(|new Function|src=\"//|url\(|@import|https?://[a-z]"
    )
    assert [path.name for path in OWN if pattern.search(path.read_text(encoding="utf-8"))] == []
