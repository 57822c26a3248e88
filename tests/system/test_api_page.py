"""docs/api.md, line by line, against the real service."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import Yard

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
LINE = re.compile(r"^\$ (curl .+)\n→ (\d{3})$", re.MULTILINE)
DEFAULT = "http://127.0.0.1:8000"


def test_every_line_answers_as_it_says(yard: Yard, tmp_path: Path) -> None:
    lines = LINE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(lines) == PAGE.read_text(encoding="utf-8").count("$ curl ")
    body, job, hook, wrong = tmp_path / "body", "", "", []
    for command, expected in lines:
        real = command.replace(DEFAULT, yard.instance.url)
        status = subprocess.run(
            ["bash", "-c", f"{real} -s -o {body} -w '%{{http_code}}'"],
            env={"JOB": job, "HOOK": hook, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True, timeout=180,
            check=False,
        ).stdout  # fmt: skip
        answer = body.read_text(encoding="utf-8") if body.exists() else ""
        print(f"$ {command}\n{status} {' '.join(answer.split())[:300]}\n")
        if status != expected:
            wrong.append((command, expected, status, answer[:500]))
        if status.startswith(("4", "5")):
            problem = json.loads(answer)
            assert problem["code"], command
            assert problem["hint"], command
        elif '"links"' in answer:
            job = json.loads(answer)["job"]["id"]
        elif '"secret":"' in answer:
            hook = json.loads(answer)["id"]
        body.unlink(missing_ok=True)
    assert not wrong
