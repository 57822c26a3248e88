from pathlib import Path

import psutil
import pytest

from workers.devices import cpu


def cgroup(folder: Path, limit: str, used: int, cache: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cache}\ninactive_file {cache}\n")
    return folder


def test_the_machine_as_it_is(tmp_path: Path) -> None:
    device = cpu.read(tmp_path)
    assert (device.id, device.kind, device.healthy) == ("cpu", "cpu", True)
    assert device.name
    assert device.memory_total == psutil.virtual_memory().total
    assert device.memory_free is not None
    assert 0 < device.memory_free <= device.memory_total


def test_a_containers_limit_counts_and_its_cache_does_not(tmp_path: Path) -> None:
    device = cpu.read(cgroup(tmp_path, str(100 << 20), used=60 << 20, cache=20 << 20))
    assert (device.memory_total, device.memory_free) == (100 << 20, 60 << 20)


@pytest.mark.parametrize("limit", ["max", str(1 << 60)])
def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    device = cpu.read(cgroup(tmp_path, limit, used=1 << 20, cache=0))
    assert device.memory_total == psutil.virtual_memory().total
