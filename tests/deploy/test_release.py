"""What a release is made of, listed, and what is said where known flaws could not be looked up."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import audit
from deploy.release import lines

PINS = "celery==5.7.0 --hash=sha256:aa\ntorch==2.13.0+cpu --hash=sha256:bb\n"


def package(name: str, version: str, **source: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "version": version}, "download_info": source}


def test_every_package_has_its_digest_and_no_index_is_named() -> None:
    held = {"archive_info": {"hashes": {"sha256": "a" * 64}}, "url": "https://index.example/x.whl"}
    found = lines([
        package("Zeta", "1.0", **held), package("modelyard", "0.1.0", dir_info={}, url="file:///src"),
        package("alpha", "2.0+cpu", **held),
    ])  # fmt: skip
    assert found == [f"alpha==2.0+cpu --hash=sha256:{'a' * 64}", f"zeta==1.0 --hash=sha256:{'a' * 64}"]
    with pytest.raises(ValueError, match=r"beta 3\.0 has no sha256"):
        lines([package("beta", "3.0", archive_info={"hashes": {"md5": "b"}})])


def audited(folder: Path, answer: str) -> int:
    """The exit code where the program that looks flaws up says that, having been asked for both packages."""
    pins, program = folder / "requirements.txt", folder / "pip-audit"
    pins.write_text(PINS)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nasked = open(sys.argv[2]).read()\n"
        f"assert asked.split() == ['celery==5.7.0', 'torch==2.13.0'], asked\n{answer}\n"
    )
    program.chmod(0o700)
    return audit.main(str(program), pins)


def told(*packages: dict[str, Any]) -> str:
    return f"print({json.dumps(json.dumps({'dependencies': packages}))})"


CLEAN = {"name": "celery", "version": "5.7.0", "vulns": []}
FLAWED = {"name": "torch", "version": "2.13.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.14"]}]}
UNKNOWN = {"name": "torch", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (told(CLEAN, {**FLAWED, "vulns": []}), 0, "2 packages looked up, 0 known flaws"),
        (told(CLEAN, FLAWED), audit.FLAWS, "torch 2.13.0: CVE-1, mended in 2.14"),
        (told(CLEAN, UNKNOWN), audit.UNKNOWN, "NOT AUDITED, the database does not have them or was not reached: torch"),
        ("sys.exit('no network')", audit.UNKNOWN, "NOT AUDITED: the database of known flaws could not be asked"),
    ],
)
def test_no_answer_is_no_all_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, code: int, words: str
) -> None:
    assert audited(tmp_path, answer) == code
    said = capsys.readouterr()
    assert words in said.out + said.err
