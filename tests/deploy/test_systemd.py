"""The units, as systemd itself reads them; what they start must exist."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
BIN = "/opt/modelyard/.venv/bin/"


def lines(unit: Path, name: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{name}=")]


def test_every_process_has_a_unit() -> None:
    started = {each.removeprefix(BIN) for unit in UNITS for each in lines(unit, "ExecStart")}
    assert started == {
        "modelyard up", "python -m api", "python -m workers io", "python -m workers io --urgent",
        "python -m workers device --device %i", "python -m workers beat",
    }  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_starts_exists(unit: Path) -> None:
    for command in (*lines(unit, "ExecStartPre"), *lines(unit, "ExecStart")):
        program, *words = command.removeprefix(BIN).replace("%i", "cpu").split()
        argv = [str(Path(sys.executable).with_name(program)), *words, "--help"]
        told = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD HERE: its units are not read by itself")
    here = tmp_path / unit.name.replace("@.", "@cpu.")
    here.write_text(unit.read_text().replace(BIN, f"{Path(sys.executable).parent}/"))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", here], check=False, capture_output=True, text=True, timeout=60
    )
    ours = [line for line in told.stderr.splitlines() if unit.name.partition("@")[0].partition(".")[0] in line]
    assert told.returncode == 0, told.stderr
    assert ours == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_confined(unit: Path) -> None:
    for name, value in {
        "User": "modelyard",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "Restart": "always",
    }.items():
        assert lines(unit, name) == [value]
